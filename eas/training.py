"""One training loop for supernets: sandwich rule, in-place distillation, and whatever decides which classes count."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from eas.cuda_graphs import GraphedStep
from eas.data import Split
from eas.data.batches import batches
from eas.dropout import soft_targets
from eas.files import checksum, read_tensors, reason, write_tensors
from eas.ranks import ALONE, Ranks
from eas.recipes import Training
from eas.sandwich import sliced_step
from eas.spaces import ChoiceSpace, Supernet

DrawArchs = Callable[[torch.Generator], Tensor]  # a step's archs, int64 [subnets, decisions]; the first one teaches
Feed = Callable[[torch.Generator, int], Iterator[tuple[Tensor, Tensor]]]  # an epoch, some batches skipped; see batches
ClassesThatCount = Callable[[Tensor, torch.Generator, float], tuple[Tensor, Tensor]]  # see SuperclassDropout.__call__
StepFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # see sliced_step
SAVE_EVERY = 60  # seconds, beside the end of every epoch


class Diverged(RuntimeError):
    """The loss stopped being a number; the last good checkpoint is kept."""


def train(
    supernet: Supernet,
    split: Split,
    dropout: ClassesThatCount,
    recipe: Training,
    *,
    step_function: StepFunction | None = None,
    ranks: Ranks = ALONE,
    **options: Any,
) -> list[dict[str, float]]:
    """Train `supernet` in place on its own device (where `split` must be); options and history as `optimize`.

    `step_function`, one of this supernet and recipe, may be passed again to save a GPU its captures.
    """
    step_function = step_function or make_step(supernet, recipe)
    ranks.part(size := min(recipe.batch_size, len(split)))  # better now than in the first step
    feed = partial(batches, split, recipe.batch_size, recipe.augment, ranks=ranks)
    steps = max(1, len(split) // max(1, size))
    return optimize(supernet, supernet.space, steps, feed, dropout, recipe, step_function, ranks=ranks, **options)


def optimize(
    weights: nn.Module,
    space: ChoiceSpace,
    steps: int,
    feed: Feed,
    classes: ClassesThatCount,
    recipe: Training,
    step_function: StepFunction,
    *,
    seed: int,
    checkpoint: Path | None = None,
    label: str = "supernet",
    draw_archs: DrawArchs | None = None,
    watch: Callable[[], dict[str, float]] | None = None,
    ranks: Ranks = ALONE,
) -> list[dict[str, float]]:
    """Train `weights` in place, whose gradients `step_function` computes, `steps` an epoch; returns one row an epoch.

    Every step trains several subnets on the same images: those of `draw_archs`, or of the `sandwich`. The first one's
    prediction, renormalised over the classes that count, is the others' teacher [related code: superclass dropout with
    distillation]. What `watch` measures after every epoch is in its row.

    With `checkpoint`, a safetensors file, the state is saved every minute and after every epoch, and an existing
    file is continued to the same result; use another name when the recipe changes. Of several `ranks` each trains on
    its part of every batch; the first one saves.

    Raises:
        Diverged: the loss or a weight is NaN or infinite; says where, and leaves the last good checkpoint.
    """
    device = next(weights.parameters()).device
    optimizer = make_optimizer(weights, recipe)
    saved = Checkpoint(checkpoint, weights, optimizer) if checkpoint else None
    history, skip, part = saved.load() if saved else ([], 0, 0.0)
    ranks.begin(weights)
    saved = saved if ranks.writes else None
    draw_archs = draw_archs or sandwich(space, recipe, seed)
    whole = {"total": recipe.epochs, "initial": len(history), "unit": "epoch", "mininterval": 1}
    whole |= {} if ranks.writes else {"disable": True}  # said only where it is meant: False would show a worker's bar
    epochs = tqdm(range(len(history), recipe.epochs), label, **whole)
    for epoch in epochs:
        # Seeded per epoch, so that a resumed run draws what an uninterrupted one would have drawn.
        generator = torch.Generator(device).manual_seed(seed * 100_003 + epoch)
        arch_generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        total = torch.full((), part, device=device)
        for step, (images, labels) in enumerate(feed(generator, skip)):
            progress = (epoch * steps + step) / (recipe.epochs * steps)
            archs = draw_archs(arch_generator)
            class_mask, weight = classes(labels, generator, progress)
            if step < skip:  # done before the interruption: what is random is drawn again, and nothing else
                continue
            set_learning_rate(optimizer, recipe, progress)
            optimizer.zero_grad(set_to_none=False)
            targets, own = soft_targets(labels, class_mask, recipe.label_smoothing), ranks.part(len(labels))
            loss = step_function(images, targets[own], class_mask[own], weight[own], archs)
            total += ranks.add_up(weights.parameters(), loss, weight)
            optimizer.step()
            if device.type == "cpu" and not total.isfinite():  # a GPU is not waited for
                break
            if saved and saved.is_due() and step + 1 < steps and not divergence(weights, total.item()):
                saved.save(history, step + 1, total.item())
        skip, part = 0, 0.0
        loss = total.item() / steps
        if what := divergence(weights, loss):
            good = f"; the last good state is in {checkpoint}" if checkpoint and epoch else ""
            raise Diverged(f"{label}: {what} by step {step + 1} of epoch {epoch + 1}; try a lower learning rate{good}")
        history.append({"epoch": epoch + 1, "loss": loss} | (watch() if watch else {}))
        if saved:
            saved.save(history)
        epochs.set_postfix({name: f"{value:.3g}" for name, value in history[-1].items() if name != "epoch"})
    return history


def sandwich(space: ChoiceSpace, recipe: Training, seed: int) -> DrawArchs:
    """The largest, `recipe.random_subnets` of `recipe.distinct_archs` random ones, the smallest (Yu & Huang 2019)."""
    sample = space.sample(recipe.distinct_archs, torch.Generator().manual_seed(seed))

    def draw(rng: torch.Generator) -> Tensor:
        picked = sample[torch.randint(len(sample), (recipe.random_subnets,), generator=rng)]
        return torch.stack([space.largest, *picked, space.smallest])

    return draw


def divergence(module: nn.Module, loss: float) -> str:
    """What is no number any more, in words; empty while all is well."""
    if not math.isfinite(loss):
        return f"loss is {loss}"
    finite = all(weights.isfinite().all() for weights in module.parameters())
    return "" if finite else "weights are infinite or NaN"


# -------------------------------------------------------------------- one step


def make_step(supernet: Supernet, recipe: Training) -> StepFunction:
    """How a step's gradients are computed on the supernet's device; a call adds to `.grad`, returns the mean loss."""
    for parameter in supernet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if supernet.mean.is_cuda:
        return GraphedStep(supernet, recipe)
    return lambda *arguments: sliced_step(supernet, recipe, *arguments)


# -------------------------------------------------------------------- optimiser and checkpoints


def make_optimizer(module: nn.Module, recipe: Training) -> torch.optim.SGD:
    """SGD with Nesterov momentum for what requires gradients; norms and biases are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.momentum > 0)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Training, progress: float) -> None:
    """Linear warm-up, then linear decay to zero, never below a hundredth of the rate; `progress` in [0, 1)."""
    up = progress / recipe.warmup if recipe.warmup else 1.0
    down = (1 - progress) / (1 - recipe.warmup)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * max(0.01, min(up, down))


class Checkpoint:
    """A training's state in one safetensors file: weights, momentum, history, and how far its epoch has come."""

    def __init__(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer):
        self.path, self.module, self.optimizer = path, module, optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.momentum = bool(optimizer.defaults["momentum"])
        self.last = time.monotonic()

    def is_due(self) -> bool:
        """Whether it was not saved for SAVE_EVERY seconds."""
        return time.monotonic() - self.last > SAVE_EVERY

    def save(self, history: list[dict], step: int = 0, total: float = 0.0) -> None:
        """`step` steps of the epoch behind the history are done, whose losses add up to `total`."""
        momentum = {}
        if self.momentum:  # of a parameter that took part in no step yet: zeros, which mean the same
            state = (
                self.optimizer.state.get(p, {}).get("momentum_buffer", torch.zeros_like(p)) for p in self.parameters
            )
            momentum = {f"momentum.{index}": buffer for index, buffer in enumerate(state)}
        weights = {f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors, told = {**weights, **momentum}, {"history": history, "step": step, "total": total}
        on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        told["checksum"] = checksum(on_cpu, told)
        write_tensors(on_cpu, self.path, {"progress": json.dumps(told)})
        self.last = time.monotonic()

    def load(self) -> tuple[list[dict[str, float]], int, float]:
        """Restore what `save` wrote, and return its arguments; where there is no such file, change nothing.

        A file that is damaged, or of another network, is told of: the training that it belonged to begins anew.
        """
        if not self.path.is_file():
            return [], 0, 0.0
        due = {f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        if self.momentum:
            due |= {f"momentum.{index}": parameter for index, parameter in enumerate(self.parameters)}
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in due.items()}
        try:
            tensors, metadata = read_tensors(self.path)
            if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != shapes:
                raise ValueError("it is of another network or recipe")
            found = self.progress(json.loads(metadata["progress"]), tensors)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            tqdm.write(f"{self.path} is no good checkpoint ({reason(error)}): training begins anew")
            return [], 0, 0.0
        weights = {n.removeprefix("weights."): t for n, t in tensors.items() if n.startswith("weights.")}
        self.module.load_state_dict(weights)
        for index, parameter in enumerate(self.parameters):
            if f"momentum.{index}" in tensors:
                momentum = tensors[f"momentum.{index}"].to(parameter.device)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        return found

    @staticmethod
    def progress(told: dict, tensors: dict[str, Tensor]) -> tuple[list[dict[str, float]], int, float]:
        """What `load` returns, from what `save` told; ValueError where these are no numbers, or others."""
        sealed = told.pop("checksum", None)  # none in a checkpoint of an older version
        history, step, total = told["history"], told["step"], told["total"]
        numbers = [row["loss"] for row in history] + [value for row in history for value in row.values()]
        right = [row["epoch"] for row in history] == [*range(1, len(history) + 1)]
        if len(told) > 3 or not right or not isinstance(step, int) or step < 0:
            raise ValueError("its history is none")
        whole = sealed in (None, checksum(tensors, told))
        if not whole or not all(map(math.isfinite, [*numbers, total])):
            raise ValueError("it holds other numbers than were saved")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("it holds what is no number")
        return history, step, total
