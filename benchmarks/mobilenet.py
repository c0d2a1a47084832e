"""OFA's MobileNetV3 space as OFA's finder sees it, and one accuracy predictor that both sides read."""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import FLOPsTable, OfaPredictor
from eas.generator import ScenarioSampler
from eas.predictor import AccuracyPredictor
from eas.spaces import MobileNetV3Space

SIDE = 224  # pixels; OFA also searches this, but the paper's budgets are at that size
PAIRS = tuple(product((3, 5, 7), (3, 4, 6)))  # the nine forms of a block: kernel and expansion
CLASSES, SUPERCLASSES = 100, 20  # of the scenarios; the predictor does not read them


def new_space() -> MobileNetV3Space:
    """OFA's space at the width of its table and at one image size."""
    return MobileNetV3Space(SIDE, 3, width=1.2)


def as_sample(space: MobileNetV3Space, arch: Tensor) -> dict:
    """The arch, int64 [decisions], as OFA's finder writes it."""
    pairs = [PAIRS[form] for form in space.form_of(arch).tolist()]
    kernels, expansions = (list(values) for values in zip(*pairs, strict=True))
    return {"wid": None, "ks": kernels, "e": expansions, "d": space.depth(arch).tolist(), "r": [SIDE]}


def from_sample(space: MobileNetV3Space, sample: dict) -> Tensor:
    """The reverse of `as_sample`, canonical."""
    depths = [space.depths.index(depth) for depth in sample["d"]]
    forms = [PAIRS.index(pair) for pair in zip(sample["ks"], sample["e"], strict=True)]
    return space.canonical(torch.tensor(depths + forms))


def flops_table(space: MobileNetV3Space) -> FLOPsTable:
    """A table as OFA's finder asks it, with the space's own costs for CLASSES classes."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(path := Path(folder) / "empty.npy", {})  # else it would measure those of its own network
        table = FLOPsTable(device="cpu", load_efficiency_table=path)
    blocks = [dict(zip(PAIRS, row, strict=True)) for row in (space.block_madds / 1e6).tolist()]
    fixed = {0: int(space.fixed_madds(CLASSES)) / 1e6}
    table.efficiency_dict = {SIDE: {"mobile_inverted_blocks": [{(3, 1): 0.0}, *blocks], "other_blocks": fixed}}
    return table


class SharedPredictor(nn.Module):
    """OFA's accuracy predictor, read from our features: both sides ask the same network.

    `peer` is what OFA's finder calls. Its published weights are not in the package, so it is fitted to a made-up
    accuracy (`fit`): speed can be compared, and how well a method optimises the predictor, but not accuracies.
    """

    def __init__(self, space: MobileNetV3Space, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.space, self.peer = space, OfaPredictor(pretrained=False, device="cpu")
        self.layers = self.peer.model
        forms = torch.zeros(space.blocks, space.forms, 120)
        nothing = OfaPredictor.spec2feats([0] * space.blocks, [0] * space.blocks, [4] * 5, SIDE)
        for block, (form, (kernel, expansion)) in product(range(space.blocks), enumerate(PAIRS)):
            kernels, expansions = ([0] * space.blocks for _ in range(2))
            kernels[block], expansions[block] = kernel, expansion
            features = OfaPredictor.spec2feats(kernels, expansions, [4] * 5, SIDE)
            forms[block, form] = (features - nothing)[:120]
        self.register_buffer("matrix", nn.functional.pad(forms.flatten(0, 1), (0, 8)))
        self.register_buffer("nothing", nothing)

    def forward(self, features: Tensor, class_masks: Tensor) -> Tensor:
        """Predicted accuracy [n] from ChoiceSpace.features [n, features]; the classes are not read, as in OFA."""
        forms = features[:, self.space.stages * len(self.space.depths) :]
        return self.layers(forms @ self.matrix + self.nothing)[:, 0]

    score = AccuracyPredictor.score

    def fit(self, steps: int) -> None:
        """Fit to: every block helps by the square root of its cost, some blocks more than others, some forms too.

        In standard deviations over archs, as the studies' predictors.
        """
        rng = torch.Generator().manual_seed(0)
        cost = self.space.block_madds.double()
        helps = (cost / cost.max()).sqrt() * torch.rand(len(cost), 1, generator=rng)
        helps = (helps + 0.05 * torch.randn(cost.shape, generator=rng)).float()

        def truth(archs: Tensor) -> Tensor:
            return ((helps * self.space.gates(archs)[1]).sum(-1) * self.space.active(archs)).sum(-1)

        some = truth(self.space.sample(10_000, rng))
        optimizer = torch.optim.Adam(self.layers.parameters(), 1e-3)
        any_class = torch.ones(1, 1)
        for _ in range(steps):
            archs = self.space.sample(512, rng)
            target = (truth(archs) - some.mean()) / some.std()
            loss = (self.score(archs, any_class) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.eval().requires_grad_(False)


def scenario_sampler(budgets: tuple[float, float]) -> ScenarioSampler:
    """Draws class masks bool [n, classes] and budgets [n]: one to three superclasses, any budget in the range."""
    parent = torch.arange(CLASSES) % SUPERCLASSES

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        picked = torch.randint(SUPERCLASSES, (n, 3), generator=rng)  # the same one twice is a smaller union
        member = torch.zeros(n, SUPERCLASSES, dtype=torch.bool).scatter(1, picked, True)
        low, high = budgets
        return member[:, parent], low + (high - low) * torch.rand(n, dtype=torch.float64, generator=rng)

    return draw
