"""OFA's MobileNetV3 space as rows of integers, with OFA's costs, and one accuracy predictor that both sides read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NoReturn

import torch
from torch import Tensor, nn

from benchmarks.peers import FLOPsTable, OfaPredictor
from eas.generator import ScenarioSampler
from eas.predictor import AccuracyPredictor
from eas.spaces import ChoiceSpace
from eas.spaces.base import cached_table

SIDE = 224  # pixels; OFA also searches this, but the paper's budgets are at that size
SIDES = (56, 28, 14, 14, 7)  # of the stages' feature maps, behind their first block
KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
PAIRS = tuple(product(KERNELS, EXPANSIONS))  # the nine forms of a block; the first one is the cheapest
CLASSES, SUPERCLASSES = 100, 20  # of the scenarios; the predictor does not read them


@dataclass(frozen=True)
class MobileNetSpace(ChoiceSpace):
    """Five stages of two to four blocks; a block's form is one of nine pairs (kernel, expansion).

    `costs` are the multiply-adds of every block in every form, [blocks][forms]; `fixed` those of what every arch has.
    OFA's table knows nothing else, so that this space has archs and costs, but no networks.
    """

    costs: tuple[tuple[int, ...], ...]
    fixed: int

    image_size, in_channels, depths = SIDE, 3, DEPTHS
    stages, forms = len(SIDES), len(PAIRS)

    @classmethod
    def from_table(cls, table: FLOPsTable) -> MobileNetSpace:
        """The space with the costs of OFA's table, rounded to whole multiply-adds."""
        entry = table.efficiency_dict[SIDE]
        first, *blocks = entry["mobile_inverted_blocks"]
        costs = tuple(tuple(round(block[pair] * 1e6) for pair in PAIRS) for block in blocks)
        return cls(costs, fixed=round((sum(entry["other_blocks"].values()) + first[3, 1]) * 1e6))

    @cached_table
    def block_madds(self) -> Tensor:
        return torch.tensor(self.costs)

    def fixed_madds(self, class_counts: Tensor | int) -> Tensor:
        """See ChoiceSpace; OFA's table has one classifier for all: its cost does not depend on the classes."""
        return torch.full_like(torch.as_tensor(class_counts), self.fixed)

    def form_names(self) -> list[list[str]]:
        return [[f"{kernel}x{kernel}, {expansion}" for kernel, expansion in PAIRS]] * self.blocks

    def form_sizes(self) -> Tensor:
        return self.block_madds / self.block_madds.max()

    def stage_names(self) -> list[str]:
        return [f"stage {stage}, {side} x {side} pixels" for stage, side in enumerate(SIDES, start=1)]

    # ---------------------------------------------------------------- what a table of costs has no answer for

    @property
    def block_parameters(self) -> NoReturn:
        raise NotImplementedError("OFA's table has multiply-adds, but no parameters")

    def fixed_parameters(self, class_counts: Tensor | int) -> NoReturn:
        raise NotImplementedError("OFA's table has multiply-adds, but no parameters")

    @property
    def recipe(self) -> NoReturn:
        raise NotImplementedError("this space is made of OFA's table, not of params.yaml")

    def supernet(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> NoReturn:
        raise NotImplementedError("only costs are compared in this space: its elastic network is OFA's own")

    def network(self, arch: Tensor, classes: int) -> NoReturn:
        raise NotImplementedError("only costs are compared in this space: its networks are OFA's own")

    # ---------------------------------------------------------------- archs as OFA writes them

    def as_sample(self, arch: Tensor) -> dict:
        """The arch, int64 [decisions], as OFA's finder writes it."""
        pairs = [PAIRS[form] for form in arch[self.stages :].tolist()]
        kernels, expansions = (list(values) for values in zip(*pairs, strict=True))
        return {"wid": None, "ks": kernels, "e": expansions, "d": self.depth(arch).tolist(), "r": [SIDE]}

    def from_sample(self, sample: dict) -> Tensor:
        """The reverse of `as_sample`, canonical."""
        depths = [DEPTHS.index(depth) for depth in sample["d"]]
        forms = [PAIRS.index(pair) for pair in zip(sample["ks"], sample["e"], strict=True)]
        return self.canonical(torch.tensor(depths + forms))


class SharedPredictor(nn.Module):
    """OFA's accuracy predictor, read from our features: both sides ask the same network.

    `peer` is what OFA's finder calls. Its published weights are not in the package, so it is fitted to a made-up
    accuracy (`fit`): speed can be compared, and how well a method optimises the predictor, but not accuracies.
    """

    def __init__(self, space: MobileNetSpace, seed: int):
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
        forms = features[:, self.space.stages * len(DEPTHS) :]
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
