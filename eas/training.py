"""One training loop for supernets: sandwich rule, in-place distillation, and whatever decides which classes count."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from eas import jobs
from eas.config import Training
from eas.data import Split, batches, save_tensors
from eas.dropout import mask_logits, masked_cross_entropy, soft_targets
from eas.layers import Statistics
from eas.supernet import Supernet

Network = Callable[[Tensor], Tensor]  # images [n, channels, size, size] to logits [n, classes]
ClassesThatCount = Callable[[Tensor, torch.Generator, float], tuple[Tensor, Tensor]]


class Diverged(RuntimeError):
    """The loss stopped being a number; the last good checkpoint is kept."""


def train(
    supernet: Supernet,
    split: Split,
    dropout: ClassesThatCount,
    recipe: Training,
    *,
    seed: int,
    checkpoint: Path | None = None,
    label: str = "supernet",
    compute: Callable[..., Tensor] | None = None,
    arch: Tensor | None = None,
    teacher: Network | None = None,
) -> list[dict[str, float]]:
    """Train `supernet` in place on its own device (where `split` must be); returns one row an epoch.

    Every step trains the largest, the smallest and `recipe.random_subnets` of `recipe.distinct_archs` random subnets on
    the same images (sandwich rule, Yu & Huang 2019); the largest one's prediction, renormalised over the classes that
    count, is the others' teacher [related code: superclass dropout with distillation].

    With `checkpoint`, a safetensors file, the state is saved after every epoch and an existing file is continued to
    the same result; use another name when the recipe changes. `compute`, a step function of this supernet and recipe,
    may be passed again to save a GPU its captures. With `arch`, that one is trained alone. The softmax of the
    `teacher`, over the classes that count, takes its share of the targets (recipe.teacher).

    Raises:
        Diverged: the loss or a weight is NaN or infinite; says where, and leaves the last good checkpoint.
        ValueError: a teacher, but no recipe.teacher, or the other way round.
    """
    if (teacher is None) != (recipe.teacher is None):
        raise ValueError("a teacher and the recipe's part 'teacher' belong together: give both or none")
    device, space = split.labels.device, supernet.space
    optimizer = make_optimizer(supernet, recipe)
    history = load_checkpoint(checkpoint, supernet, optimizer) if checkpoint else []
    steps = max(1, len(split) // recipe.batch_size)
    compute = compute or step_function(supernet, recipe)
    sample = space.sample(recipe.distinct_archs, torch.Generator().manual_seed(seed))
    epochs = tqdm(range(len(history), recipe.epochs), label, recipe.epochs, initial=len(history), mininterval=1)
    for epoch in epochs:
        # Seeded per epoch, so that a resumed run draws what an uninterrupted one would have drawn.
        generator = torch.Generator(device).manual_seed(seed * 100_003 + epoch)
        arch_generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        total = torch.zeros((), device=device)
        for step, (images, labels) in enumerate(batches(split, recipe.batch_size, recipe.augment, generator)):
            progress = (epoch * steps + step) / (recipe.epochs * steps)
            set_learning_rate(optimizer, recipe, progress)
            picked = sample[torch.randint(len(sample), (recipe.random_subnets,), generator=arch_generator)]
            archs = torch.stack([space.largest, *picked, space.smallest] if arch is None else [arch])
            optimizer.zero_grad(set_to_none=False)
            kept, weight = dropout(labels, generator, progress)
            targets = soft_targets(labels, kept, recipe.label_smoothing)
            if teacher:
                targets = distilled(targets, teacher(images), kept, recipe.teacher.share)
            total += compute(images, targets, kept, weight, archs)
            optimizer.step()
        loss = total.item() / steps
        if what := divergence(supernet, loss):
            good = f"; the last good state is in {checkpoint}" if checkpoint and epoch else ""
            raise Diverged(f"{label}: {what} in epoch {epoch + 1}; try a lower learning rate{good}")
        history.append({"epoch": epoch + 1, "loss": loss})
        epochs.set_postfix(loss=f"{loss:.3f}")
        if checkpoint:
            save_checkpoint(checkpoint, supernet, optimizer, history)
    return history


def divergence(supernet: Supernet, loss: float) -> str:
    """What is no number any more, in words; empty while all is well."""
    if not math.isfinite(loss):
        return f"loss is {loss}"
    finite = all(weights.isfinite().all() for weights in supernet.parameters())
    return "" if finite else "weights are infinite or NaN"


# -------------------------------------------------------------------- one step


def step_function(supernet: Supernet, recipe: Training) -> Callable[..., Tensor]:
    """How a step's gradients are computed on the supernet's device; a call adds to `.grad`, returns the mean loss."""
    for parameter in supernet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if supernet.mean.is_cuda:
        return GraphedStep(supernet, recipe)
    return lambda *arguments: sliced_step(supernet, recipe, *arguments)


def sliced_step(
    supernet: Supernet, recipe: Training, images: Tensor, targets: Tensor, kept: Tensor, weight: Tensor, archs: Tensor
) -> Tensor:
    """Every arch in turn, as slices: the least arithmetic. The first arch, taught by `targets`, teaches the others.

    What the archs have in common runs once, forward and backward: its gradient is the sum of theirs.
    """
    total = torch.zeros((), device=images.device)
    with mixed_precision(recipe, images.device):
        common = supernet.begin(images, archs, Statistics())
    gradients = [torch.zeros_like(each) for each in common]
    for index, arch in enumerate(archs):
        begun = [leaf(common[0]), leaf(common[1][:, : supernet.first_inner(arch)])]
        with mixed_precision(recipe, images.device):
            logits = supernet.finish(*begun, arch, Statistics())
        total += backward(logits, targets, kept, weight)
        for gradient, each in zip(gradients, begun, strict=True):
            if each.requires_grad:
                gradient[:, : each.shape[1]] += each.grad
        if index == 0:
            targets = distilled(targets, logits, kept, recipe.distillation)
    if tuned := [pair for pair in zip(common, gradients, strict=True) if pair[0].requires_grad]:
        torch.autograd.backward(*zip(*tuned, strict=True))
    return total / len(archs)


def leaf(x: Tensor) -> Tensor:
    """`x` as the start of a graph of its own: a slice's gradient would be of full width, in another memory layout."""
    return x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(x.requires_grad)


def compute_type(recipe: Training, device: torch.device) -> torch.dtype:
    """What convolutions run in: bfloat16 where it pays, on GPUs and on processors with AMX units; else float32.

    A step of CIFAR-100's network takes 0.6 times as long with these units, 1.3 to 2.7 times without (measured).
    """
    pays = device.type == "cuda" or jobs.has_amx()
    return torch.bfloat16 if recipe.mixed_precision and pays else torch.float32


def mixed_precision(recipe: Training, device: torch.device) -> torch.autocast:
    """Has a forward pass run in `compute_type`."""
    enabled = compute_type(recipe, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def backward(logits: Tensor, targets: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    """Add one subnet's gradients; returns its loss, detached."""
    loss = masked_cross_entropy(logits, targets, kept, weight)
    loss.backward()
    return loss.detach()


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
        self.kept = torch.ones(batch, classes, dtype=torch.bool, device=device)
        self.weight = torch.ones(batch, device=device)
        self.loss = torch.zeros((), device=device)
        self.logits = torch.zeros(batch, classes, device=device)
        self.graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}

    def __call__(self, images: Tensor, targets: Tensor, kept: Tensor, weight: Tensor, archs: Tensor) -> Tensor:
        """As sliced_step."""
        if len(images) != len(self.images):
            self.allocate(len(images))
        self.images.copy_(images)
        self.kept.copy_(kept)
        self.weight.copy_(weight)
        self.targets.copy_(targets)
        self.loss.zero_()
        for index, arch in enumerate(archs.tolist()):
            self.graph(tuple(arch)).replay()
            if index == 0:
                self.targets.copy_(distilled(self.targets, self.logits, kept, self.recipe.distillation))
        return self.loss / len(archs)

    def graph(self, arch: tuple[int, ...]) -> torch.cuda.CUDAGraph:
        if arch not in self.graphs:
            self.graphs[arch] = self.capture(torch.tensor(arch))
        return self.graphs[arch]

    def capture(self, arch: Tensor) -> torch.cuda.CUDAGraph:
        """Record one subnet's forward and backward; the warm-up that capturing needs leaves no trace."""
        kept = [self.loss, *(parameter.grad for parameter in self.supernet.parameters())]
        copies = [tensor.clone() for tensor in kept]
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.run(arch)
            graph.capture_begin(pool=self.pool)  # torch.cuda.graph() would collect garbage each time: far slower
            self.run(arch)
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        torch._foreach_copy_(kept, copies)
        return graph

    def run(self, arch: Tensor) -> None:
        with mixed_precision(self.recipe, self.images.device):
            logits = self.supernet(self.images, arch, Statistics())
        self.loss += backward(logits, self.targets, self.kept, self.weight)
        self.logits.copy_(logits.detach())


def distilled(hard: Tensor, teacher: Tensor, kept: Tensor, share: float) -> Tensor:
    """Targets [n, classes]: `share` of the teacher's softmax over the kept classes, the rest hard."""
    return (1 - share) * hard + share * mask_logits(teacher.detach(), kept).softmax(-1)


# -------------------------------------------------------------------- optimiser and checkpoints


def make_optimizer(supernet: nn.Module, recipe: Training) -> torch.optim.SGD:
    """SGD with Nesterov momentum for what requires gradients; norms and biases are not decayed."""
    trained = [p for p in supernet.parameters() if p.requires_grad]
    decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.momentum > 0)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Training, progress: float) -> None:
    """Linear warm-up, then linear decay to zero; `progress` in [0, 1)."""
    up = progress / recipe.warmup if recipe.warmup else 1.0
    down = (1 - progress) / (1 - recipe.warmup)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * max(0.01, min(up, down))


def save_checkpoint(path: Path, supernet: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict]) -> None:
    """Weights, momentum and history in one safetensors file."""
    buffers = [state.get("momentum_buffer") for state in optimizer.state.values()]
    momentum = {f"momentum.{i}": buffer for i, buffer in enumerate(buffers) if buffer is not None}
    weights = {f"weights.{name}": tensor for name, tensor in supernet.state_dict().items()}
    rows = torch.tensor([list(row.values()) for row in history], dtype=torch.float64)
    save_tensors({**weights, **momentum, "history": rows}, path, {"columns": ",".join(history[0])})


def load_checkpoint(path: Path, supernet: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Restore what save_checkpoint wrote; an empty history where there is no file."""
    if not path.is_file():
        return []
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        columns = file.metadata()["columns"].split(",")
    supernet.load_state_dict({n.removeprefix("weights."): t for n, t in tensors.items() if n.startswith("weights.")})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        if f"momentum.{index}" in tensors:
            optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{index}"].to(parameter.device)
    history = [dict(zip(columns, row, strict=True)) for row in tensors["history"].tolist()]
    return [row | {"epoch": int(row["epoch"])} for row in history]
