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
from eas.recipes import NO_DROPOUT, Training
from eas.spaces import MobileNetV3Space
from eas.spaces.ofa_weights import renamed
from eas.training import make_optimizer, make_step

BATCHES = {64: 32, 112: 16}  # images a step at every image size, in pixels
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


def prepare(side: str, size: int, batch: int) -> timing.Work:
    """One side's step."""
    space, rng = MobileNetV3Space(size, 3), torch.Generator().manual_seed(0)
    archs = torch.stack([space.largest, *space.sample(RECIPE.random_subnets, rng), space.smallest])
    images = torch.rand(batch, 3, size, size, generator=rng)
    labels = torch.randint(CLASSES, (batch,), generator=rng)
    torch.manual_seed(0)
    peer = OfaMobileNetV3(space, CLASSES)
    if side == OFA:
        optimizer, normalised = make_optimizer(peer, RECIPE), (images - 0.5) / 0.25
        given = (normalised, labels, archs, RECIPE.label_smoothing, RECIPE.distillation)
        return partial(ofa_step, peer.train(), optimizer, *given)
    recipe, supernet = (
        RECIPE.model_copy(update={"mixed_precision": side == EAS}),
        space.supernet(CLASSES, [0.5] * 3, [0.25] * 3),
    )
    supernet.load_state_dict(renamed(peer.network.state_dict(), space), strict=False)
    dropout = SuperclassDropout(torch.arange(CLASSES) * SUPERCLASSES // CLASSES, NO_DROPOUT)
    class_mask, weight = dropout(labels, torch.Generator(), 0.0)
    optimizer, compute = make_optimizer(supernet, recipe), make_step(supernet, recipe)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        compute(images, soft_targets(labels, class_mask, recipe.label_smoothing), class_mask, weight, archs)
        optimizer.step()

    return step
