"""From a scenario to a running network, step by step: ours, and OFA's own code for the steps that it has.

Both sides have the same network with the same random weights, except in the step `extract`: OFA extracts networks of
its own classes only. How OFA finds an arch is not timed here.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.peers import OfaPreResNet
from eas import data, deploy
from eas.config import load_study
from eas.data import Hierarchy, Split, as_input
from eas.evaluation import calibrate
from eas.fitting import new_generator
from eas.generator import Generator
from eas.space import SearchSpace
from eas.supernet import PreResNet, Supernet, extract

BATCH = 200  # images a batch when OFA calibrates [RunManager.reset_running_statistics]
MEAN, STD = (0.5,) * 3, (0.25,) * 3


@dataclass(frozen=True)
class Sizes:
    """Images to calibrate on (None: as many as the study does), and images a batch in inference."""

    calibration: int | None = None
    inference: tuple[int, ...] = (1, 100)


FULL = Sizes()


@dataclass(frozen=True)
class Step:
    """One side's work in one step; `what` says in short words what it runs on."""

    side: str
    step: str
    what: str
    work: timing.Work


@dataclass(frozen=True)
class Parts:
    """What a scenario's network is made from, the network, and the same one in OFA's layers."""

    supernet: Supernet
    generator: Generator
    hierarchy: Hierarchy
    images: Tensor  # uint8 [n, 3, side, side]
    calibration: Split  # the first of them
    names: tuple[str, ...]  # the scenario
    budget: float  # multiply-adds
    network: PreResNet
    card: deploy.Card
    peer: OfaPreResNet

    @property
    def arch(self) -> Tensor:
        """int64 [decisions]"""
        return torch.tensor(self.card.arch)

    def normalised(self, count: int) -> Tensor:
        """The first images as the peer reads them: float [count, 3, side, side]."""
        return (as_input(self.images[:count]) - self.supernet.mean) / self.supernet.std


def measure(sizes: Sizes = FULL, root: str | Path = ".") -> pd.DataFrame:
    """Times on the study cifar100's space; columns side, step, what, seconds, low, high, rounds (see timing.compare).

    The peer's images are floats and normalised before its time begins; ours are as they are stored. Each side has its
    own memory layout: ours is channels last, OFA's is torch's default.
    """
    parts = prepare(sizes, root)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [
            timed(generate_steps(parts)),
            timed(calibrate_steps(parts)),
            extraction(parts),
            timed(export_steps(parts, folder)),
            *(timed(inference_steps(parts, count)) for count in sizes.inference),
            timed(
                [Step("eas", "all", "all of these, first inference on one image", partial(all_steps, parts, folder))]
            ),
        ]
    return pd.concat(tables, ignore_index=True)


def ratios(table: pd.DataFrame) -> dict[str, float]:
    """How many times as long the peer takes, of `measure`'s table, where both do the same on the same images."""
    seconds = table.set_index(["side", "step"]).seconds
    ours = seconds["eas", "calibrate"]
    return {
        "calibrate, equal batches": float(seconds["ofa", "calibrate"] / ours),
        "calibrate, each in its own batches": float(seconds["ofa", "calibrate in batches"] / ours),
    }


def timed(steps: Sequence[Step]) -> pd.DataFrame:
    """Time the works of a step, both sides in turns; a row each."""
    table = timing.compare({f"{step.side}: {step.what}": step.work for step in steps}, steps[0].step)
    about = pd.DataFrame({name: [getattr(step, name) for step in steps] for name in ("side", "step", "what")})
    return about.join(table.drop(columns="work"))


# -------------------------------------------------------------------- what is timed


def prepare(sizes: Sizes, root: str | Path) -> Parts:
    """Random weights and random images: times do not depend on them. One superclass, the middle one of the budgets."""
    study, hierarchy = load_study("cifar100", root), data.hierarchy("cifar100")
    torch.manual_seed(0)
    supernet = Supernet(SearchSpace.from_study(study, len(MEAN)), len(hierarchy.classes), MEAN, STD)
    generator = new_generator(study, supernet.space, hierarchy, blind=False)
    side, count = study.data.image_size, sizes.calibration or study.evaluation.calibration_images
    images = torch.randint(256, (max(count, *sizes.inference), len(MEAN), side, side), dtype=torch.uint8)
    calibration = Split(images[:count], torch.randint(len(hierarchy.classes), (count,)))
    names, budgets = hierarchy.superclasses[:1], sorted(study.scenarios.budgets)
    budget = budgets[len(budgets) // 2] * 1e6
    given = (supernet, generator, hierarchy, names, budget, calibration)
    network, card = deploy.specialize(*given, synthetic=True)
    peer = OfaPreResNet(supernet.space, len(hierarchy.classes)).eval()
    peer.load_supernet(supernet.state_dict())
    peer.set_active_subnet(torch.tensor(card.arch))
    return Parts(supernet, generator, hierarchy, images, calibration, names, budget, network, card, peer)


def generate_steps(parts: Parts) -> list[Step]:
    kept = parts.hierarchy.kept(parts.names)[None]
    budget = torch.tensor([parts.budget], dtype=torch.float64)
    return [Step("eas", "generate", "one scenario", partial(parts.generator.generate, kept, budget))]


def calibrate_steps(parts: Parts) -> list[Step]:
    """The same images three times: ours sees them at once, OFA's function at once and in its own batches."""
    count = len(parts.calibration)
    images, labels = parts.normalised(count), parts.calibration.labels
    at_once = [(images, labels)]
    in_batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    ours = partial(calibrate, parts.supernet, parts.arch, parts.calibration)
    return [
        Step("eas", "calibrate", f"{count} images at once", ours),
        Step("ofa", "calibrate", f"{count} images at once", partial(set_running_statistics, parts.peer, at_once)),
        Step(
            "ofa",
            "calibrate in batches",
            f"{count} images in batches of {BATCH}, its default",
            partial(set_running_statistics, parts.peer, in_batches),
        ),
    ]


def extraction(parts: Parts) -> pd.DataFrame:
    """Times of a whole extraction, then per million parameters of the extracted network.

    OFA has no such network as ours: it extracts a random subnet of its MobileNetV3, of other layers and another size.
    """
    statistics = calibrate(parts.supernet, parts.arch, parts.calibration)
    classes = [parts.hierarchy.classes.index(name) for name in parts.card.classes]
    ours = partial(extract, parts.supernet, parts.arch, classes, statistics)
    peer = OFAMobileNetV3(ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])
    random.seed(0)  # what OFA draws with
    peer.sample_active_subnet()
    theirs = partial(peer.get_active_subnet, preserve_weight=True)
    millions = [parameters(network) / 1e6 for network in (parts.network, theirs())]
    what = [f"{n}, {m:.3g}M parameters" for n, m in zip(("PreResNet", "MobileNetV3"), millions, strict=True)]
    table = timed([Step("eas", "extract", what[0], ours), Step("ofa", "extract", what[1], theirs)])
    each = table.assign(step="extract, per million parameters")
    each[["seconds", "low", "high"]] = each[["seconds", "low", "high"]].div(millions, axis=0)
    return pd.concat([table, each])


def parameters(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


def export_steps(parts: Parts, folder: Path) -> list[Step]:
    """The same extracted network in our two files, and as OFA writes networks [RunManager.save_model]."""

    def theirs() -> None:
        torch.save({"state_dict": parts.network.state_dict()}, folder / "peer.pth.tar")

    ours = partial(deploy.save, parts.network, parts.card, folder / "ours")
    return [
        Step("eas", "export", "safetensors, SHA-256 and card", ours),
        Step("ofa", "export", "the same network's state_dict by torch.save", theirs),
    ]


def inference_steps(parts: Parts, count: int) -> list[Step]:
    """The extracted network, warm; the peer runs the same arch inside its elastic network, with all classes."""
    images, normalised = as_input(parts.images[:count]), parts.normalised(count)
    step, infer = f"inference, {count} image{'s' * (count > 1)}", torch.inference_mode()
    return [
        Step("eas", step, "extracted network", infer(partial(parts.network, images))),
        Step("ofa", step, "active subnet, not extracted", infer(partial(parts.peer, normalised))),
    ]


def all_steps(parts: Parts, folder: Path) -> Tensor:
    """Scenario to logits [1, classes kept] as a user of eas.deploy does it: every time a new network."""
    given = (parts.supernet, parts.generator, parts.hierarchy, parts.names, parts.budget, parts.calibration)
    network, card = deploy.specialize(*given, synthetic=True)
    deploy.save(network, card, folder / "all")
    with torch.inference_mode():
        return network(as_input(parts.images[:1]))
