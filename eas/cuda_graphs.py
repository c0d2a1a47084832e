"""A training step on a GPU, where launching a subnet's kernels one by one takes longer than running them."""

from __future__ import annotations

import torch
from torch import Tensor

from eas.layers import Statistics
from eas.recipes import Training
from eas.sandwich import backward, distilled, mixed_precision
from eas.spaces import Supernet


class GraphedStep:
    """The sliced step on a GPU: one CUDA graph for each arch.

    A subnet is hundreds of small kernels, so that launching them one by one takes longer than running them. A graph
    launches them at once, but belongs to one arch and one batch size: it is captured when these first come up.
    """

    def __init__(self, supernet: Supernet, recipe: Training):
        self.supernet, self.recipe = supernet, recipe
        self.pool = torch.cuda.graph_pool_handle()
        # One for all captures: memory freed on a stream is reused on that stream only.
        self.stream = torch.cuda.Stream()
        self.allocate(0)

    def allocate(self, batch: int) -> None:
        """The tensors that graphs read and write, for a batch of so many images; graphs of another size are dropped."""
        device, space, classes = self.supernet.mean.device, self.supernet.space, self.supernet.classifier.out_features
        self.images = torch.zeros(batch, space.in_channels, space.image_size, space.image_size, device=device)
        self.images = self.images.to(memory_format=torch.channels_last)
        self.targets = torch.zeros(batch, classes, device=device)
        self.class_mask = torch.ones(batch, classes, dtype=torch.bool, device=device)
        self.weight = torch.ones(batch, device=device)
        self.loss = torch.zeros((), device=device)
        self.logits = torch.zeros(batch, classes, device=device)
        self.graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}

    def __call__(self, images: Tensor, targets: Tensor, class_mask: Tensor, weight: Tensor, archs: Tensor) -> Tensor:
        """As sliced_step."""
        if len(images) != len(self.images):
            self.allocate(len(images))
        self.images.copy_(images)
        self.class_mask.copy_(class_mask)
        self.weight.copy_(weight)
        self.targets.copy_(targets)
        self.loss.zero_()
        for index, arch in enumerate(archs.tolist()):
            self.graph(tuple(arch)).replay()
            if index == 0:
                self.targets.copy_(distilled(self.targets, self.logits, class_mask, self.recipe.distillation))
        return self.loss / len(archs)

    def graph(self, arch: tuple[int, ...]) -> torch.cuda.CUDAGraph:
        if arch not in self.graphs:
            self.graphs[arch] = self.capture(torch.tensor(arch))
        return self.graphs[arch]

    def capture(self, arch: Tensor) -> torch.cuda.CUDAGraph:
        """Record one subnet's forward and backward; the warm-up that capturing needs leaves no trace."""
        written = [self.loss, *(parameter.grad for parameter in self.supernet.parameters())]
        copies = [tensor.clone() for tensor in written]
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.run(arch)
            graph.capture_begin(pool=self.pool)  # torch.cuda.graph() would collect garbage each time: far slower
            self.run(arch)
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        torch._foreach_copy_(written, copies)
        return graph

    def run(self, arch: Tensor) -> None:
        with mixed_precision(self.recipe, self.images.device):
            logits = self.supernet(self.images, arch, Statistics())
        self.loss += backward(logits, self.targets, self.class_mask, self.weight)
        self.logits.copy_(logits.detach())
