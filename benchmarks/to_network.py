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
from eas.data import Hierarchy, Split
from eas.data.batches import as_input
from eas.evaluation import calibrate
from eas.generator import Generator
from eas.serving import deploy
from eas.spaces import Supernet
from pipeline.generators import new_generator
from pipeline.params import load_study

BATCH = 200  # images a batch when OFA calibrates [RunManager.reset_running_statistics]
MEAN, STD = (0.5,) * 3, (0.25,) * 3
ALL = "all of these, first inference on one image"


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
    class_mask: Tensor  # the scenario's classes, bool [classes]
    budget: float  # its multiply-adds
    network: nn.Module
    card: deploy.Card
    peer: OfaPreResNet

    @property
    def arch(self) -> Tensor:
        """int64 [decisions]"""
        return torch.tensor(self.card.arch)

    def peer_images(self, count: int) -> Tensor:
        """The first images as the peer reads them, normalised: float [count, 3, side, side]."""
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
            time_steps(generate_steps(parts)),
            time_steps(calibrate_steps(parts)),
            time_extraction(parts),
            time_steps(export_steps(parts, folder)),
            *(time_steps(inference_steps(parts, count)) for count in sizes.inference),
            time_steps([Step("eas", "all", ALL, partial(all_steps, parts, folder))]),
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


def time_steps(steps: Sequence[Step]) -> pd.DataFrame:
    """Time the works of a step, both sides in turns; a row each."""
    table = timing.compare({f"{step.side}: {step.what}": step.work for step in steps}, steps[0].step)
    about = pd.DataFrame({name: [getattr(step, name) for step in steps] for name in ("side", "step", "what")})
    return about.join(table.drop(columns="work"))


# -------------------------------------------------------------------- what is timed


def prepare(sizes: Sizes, root: str | Path) -> Parts:
    """Random weights and random images: times do not depend on them. One superclass, the middle one of the budgets."""
    study = load_study("cifar100", root)
    hierarchy, space = study.data.hierarchy(), study.space.build(study.data.image_size, len(MEAN))
    torch.manual_seed(0)
    supernet = space.supernet(len(hierarchy.classes), MEAN, STD)
    generator = new_generator(study, space, hierarchy)
    side, count = study.data.image_size, sizes.calibration or study.evaluation.calibration_images
    images = torch.randint(256, (max(count, *sizes.inference), len(MEAN), side, side), dtype=torch.uint8)
    calibration = Split(images[:count], torch.randint(len(hierarchy.classes), (count,)))
    class_mask, budgets = hierarchy.class_mask(hierarchy.superclasses[:1]), study.scenarios.budgets
    budget = budgets[len(budgets) // 2] * 1e6
    scenario = (supernet, generator, hierarchy, class_mask, budget, calibration)
    network, card = deploy.specialize(*scenario, synthetic=True)
    peer = OfaPreResNet(space, len(hierarchy.classes)).eval()
    peer.load_supernet(supernet.state_dict())
    peer.set_active_subnet(torch.tensor(card.arch))
    return Parts(supernet, generator, hierarchy, images, calibration, class_mask, budget, network, card, peer)


def generate_steps(parts: Parts) -> list[Step]:
    budget = torch.tensor([parts.budget], dtype=torch.float64)
    return [Step("eas", "generate", "one scenario", partial(parts.generator.generate, parts.class_mask[None], budget))]


def calibrate_steps(parts: Parts) -> list[Step]:
    """The same images three times: ours sees them at once, OFA's function at once and in its own batches."""
    count = len(parts.calibration)
    images, labels = parts.peer_images(count), parts.calibration.labels
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


def time_extraction(parts: Parts) -> pd.DataFrame:
    """Times of a whole extraction, then per million parameters of the extracted network.

    OFA has no such network as ours: it extracts a random subnet of its MobileNetV3, of other layers and another size.
    """
    statistics = calibrate(parts.supernet, parts.arch, parts.calibration)
    classes = parts.class_mask.nonzero()[:, 0].tolist()
    ours = partial(parts.supernet.extract, parts.arch, classes, statistics)
    peer = OFAMobileNetV3(ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])
    random.seed(0)  # what OFA draws with
    peer.sample_active_subnet()
    theirs = partial(peer.get_active_subnet, preserve_weight=True)
    millions = [parameters(network) / 1e6 for network in (parts.network, theirs())]
    what = [f"{n}, {m:.3g}M parameters" for n, m in zip(("PreResNet", "MobileNetV3"), millions, strict=True)]
    table = time_steps([Step("eas", "extract", what[0], ours), Step("ofa", "extract", what[1], theirs)])
    per_million = table.assign(step="extract, per million parameters")
    per_million[["seconds", "low", "high"]] = table[["seconds", "low", "high"]].div(millions, axis=0)
    return pd.concat([table, per_million])


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
    images, peer_images = as_input(parts.images[:count]), parts.peer_images(count)
    step, infer = f"inference, {count} image{'s' * (count > 1)}", torch.inference_mode()
    return [
        Step("eas", step, "extracted network", infer(partial(parts.network, images))),
        Step("ofa", step, "active subnet, not extracted", infer(partial(parts.peer, peer_images))),
    ]


def all_steps(parts: Parts, folder: Path) -> Tensor:
    """Scenario to logits [1, classes of the scenario] as a user does it: every time a new network."""
    scenario = (parts.supernet, parts.generator, parts.hierarchy, parts.class_mask, parts.budget, parts.calibration)
    network, card = deploy.specialize(*scenario, synthetic=True)
    deploy.save(network, card, folder / "all")
    with torch.inference_mode():
        return network(as_input(parts.images[:1]))
