"""Benchmark 2, in OFA's own network: one training step of its MobileNetV3, by its layers and loop and by ours."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

from benchmarks import timing
from benchmarks.peers import OfaMobileNetV3, ofa_step
from benchmarks.training_step import EAS, FLOAT32, OFA
from eas import devices
from eas.dropout import SuperclassDropout, soft_targets
from eas.layers import Statistics
from eas.recipes import NO_DROPOUT, Training
from eas.spaces import MobileNetV3Space, Supernet
from eas.spaces.ofa_weights import renamed
from eas.training import make_optimizer, make_step

BATCHES = {64: 32, 112: 16}  # images a step at every image size, in pixels
SAME = (64, 96)  # pixels, at which the two networks are compared
CLASSES, SUPERCLASSES = 100, 20
RECIPE = Training(epochs=1, batch_size=32, learning_rate=0.01, random_subnets=2, weight_decay=3e-5)


def measure() -> pd.DataFrame:
    """Columns image_size, side, images_per_second; seconds of a step, low, high, rounds.

    Both sides take the same archs (largest, two random ones, smallest), weights and images. OFA's trains in float32, in
    torch's ordinary memory layout, as it does; ours in bfloat16 where the processor has AMX units.
    """
    tables = []
    for size, batch in BATCHES.items():
        sides = [EAS, *[FLOAT32] * devices.has_amx(), OFA]
        works = {side: prepare(side, size, batch) for side in sides}
        table = timing.compare(works, f"training, mobilenetv3, {size} pixels").rename(columns={"work": "side"})
        tables.append(table.assign(image_size=size, images_per_second=batch / table.seconds))
    table = pd.concat(tables, ignore_index=True)
    return table[["image_size", *(column for column in table if column != "image_size")]]


def both_networks(space: MobileNetV3Space) -> tuple[OfaMobileNetV3, Supernet]:
    """The peer's network and ours with the same random weights."""
    torch.manual_seed(0)
    peer, supernet = OfaMobileNetV3(space, CLASSES), space.supernet(CLASSES, [0.5] * 3, [0.25] * 3)
    supernet.load_state_dict(renamed(peer.network.state_dict(), space), strict=False)
    return peer, supernet


@torch.no_grad()
def equality(archs: int = 200) -> pd.DataFrame:
    """Columns image_size, archs (random ones, the largest and the smallest among them), largest_difference, deviation.

    The largest difference of a logit between OFA's network and ours, in float32, with statistics of the same images;
    the logits' standard deviation beside it.
    """
    rows = []
    for size in SAME:
        space, rng = MobileNetV3Space(size, 3), torch.Generator().manual_seed(size)
        (peer, supernet), images = both_networks(space), torch.rand(12, 3, size, size, generator=rng)
        differences, logits = [], torch.zeros(0)
        for arch in [space.largest, space.smallest, *space.sample(archs - 2, rng)]:
            peer.train().set_active_subnet(arch)
            logits = peer((images - 0.5) / 0.25)
            differences.append((logits - supernet(images, arch, Statistics())).abs().max().item())
        row = {"image_size": size, "archs": archs, "largest_difference": max(differences)}
        rows.append(row | {"deviation": logits.std().item()})
    return pd.DataFrame(rows)


def prepare(side: str, size: int, batch: int) -> timing.Work:
    """One side's step."""
    space, rng = MobileNetV3Space(size, 3), torch.Generator().manual_seed(0)
    archs = torch.stack([space.largest, *space.sample(RECIPE.random_subnets, rng), space.smallest])
    images = torch.rand(batch, 3, size, size, generator=rng)
    labels = torch.randint(CLASSES, (batch,), generator=rng)
    peer, supernet = both_networks(space)
    if side == OFA:
        optimizer, normalised = make_optimizer(peer, RECIPE), (images - 0.5) / 0.25
        given = (normalised, labels, archs, RECIPE.label_smoothing, RECIPE.distillation)
        return partial(ofa_step, peer.train(), optimizer, *given)
    recipe = RECIPE.model_copy(update={"mixed_precision": side == EAS})
    dropout = SuperclassDropout(torch.arange(CLASSES) * SUPERCLASSES // CLASSES, NO_DROPOUT)
    class_mask, weight = dropout(labels, torch.Generator(), 0.0)
    optimizer, compute = make_optimizer(supernet, recipe), make_step(supernet, recipe)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        compute(images, soft_targets(labels, class_mask, recipe.label_smoothing), class_mask, weight, archs)
        optimizer.step()

    return step
