"""From a scenario to a specialised network, to a file, and back.

python -m eas.deploy cifar100 flowers fish --madds 20e6 --to flowers-and-fish --onnx
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eas import data, jobs, search
from eas.config import Study, load_study
from eas.data import Dataset, Hierarchy, Split, as_input, save_tensors
from eas.evaluation import calibrate, measure_archs
from eas.fitting import load_generator, load_model
from eas.generator import Generator
from eas.proposals import choose_signal
from eas.study import calibration_images, load_supernet, require, settings_of, supernet_path
from eas.supernet import PreResNet, Supernet, extract
from eas.tuning import branches_path, choose_branch, load_branch

FORMAT = "eas-specialized-1"


@dataclass(frozen=True)
class Card:
    """What a specialised network is: everything but its weights, as plain data."""

    classes: tuple[str, ...]  # in the order of the logits
    budget_madds: float
    madds: int
    parameters: int
    image_size: int
    in_channels: int
    widths: tuple[int, ...]
    inner: tuple[tuple[int, ...], ...]  # inner channels of the blocks, stage by stage
    arch: tuple[int, ...]
    synthetic: bool  # whether it learned from synthetic images


def specialize(
    supernet: Supernet,
    generator: Generator,
    hierarchy: Hierarchy,
    names: Sequence[str],
    budget_madds: float,
    calibration: Split,
    *,
    synthetic: bool,
) -> tuple[PreResNet, Card]:
    """The specialised network for the named superclasses and classes under a budget, calibrated, in eval mode.

    The generator picks the arch in one forward pass; the classifier keeps the rows of the scenario's classes;
    `calibration` holds images of all classes (shared weights) on the supernet's device.

    Raises:
        ValueError: an unknown name, no name, or a budget below the smallest arch; the message says what is possible.
    """
    kept = hierarchy.kept(names)
    arch = generator.generate(kept[None], torch.tensor([budget_madds], dtype=torch.float64))[0]
    classes = kept.nonzero()[:, 0].tolist()
    network = extract(supernet, arch, classes, calibrate(supernet, arch, calibration))
    space = supernet.space
    card = Card(
        classes=tuple(hierarchy.classes[i] for i in classes),
        budget_madds=float(budget_madds),
        madds=int(space.madds(arch, len(classes))),
        parameters=int(space.parameters(arch, len(classes))),
        image_size=space.image_size,
        in_channels=space.in_channels,
        widths=space.widths,
        inner=tuple(map(tuple, space.describe(arch))),
        arch=tuple(arch.tolist()),
        synthetic=synthetic,
    )
    return network, card


# -------------------------------------------------------------------- from a study's files


@dataclass(frozen=True)
class Specializer:
    """A study's supernet `eas` and generator, ready to serve any scenario; make one with `load_specializer`."""

    study: Study
    dataset: Dataset
    supernet: Supernet
    generator: Generator
    model: search.AccuracyModel  # for the opponents of `compare`
    branches: Path | None

    def specialize(self, names: Sequence[str], budget_madds: float) -> tuple[PreResNet, Card]:
        """As the function `specialize`; with the superclass's own weights where it is one and the study has branches.

        A branch is calibrated on the images that it was tuned on, shared weights on images of all classes.
        """
        supernet, calibration = self.supernet, calibration_images(self.study, self.dataset)
        superclasses = self.dataset.hierarchy.superclasses
        if self.branches and len(names) == 1 and names[0] in superclasses:
            supernet = load_branch(copy.deepcopy(supernet), self.branches, superclasses.index(names[0]))
            calibration = self.dataset.train.only(self.dataset.hierarchy.kept(names))
        synthetic = self.study.data.name == "glyphs"
        parts = (supernet, self.generator, self.dataset.hierarchy, names, budget_madds, calibration)
        return specialize(*parts, synthetic=synthetic)

    def compare(self, names: Sequence[str], budget_madds: float) -> pd.DataFrame:
        """What to expect of the generator and of opponents: columns method, madds, top1 (selection split).

        Raises:
            ValueError: the kit came without a selection split; or as `specialize`.
        """
        if not len(self.dataset.selection):
            raise ValueError("no images to compare methods on: make the kit with load_specializer, from a data set")
        kept = self.dataset.hierarchy.kept(names)[None]
        budget, space = torch.tensor([budget_madds], dtype=torch.float64), self.supernet.space
        effort = {"evaluations": self.study.search.evaluations, "population": self.study.search.population, "seed": 0}
        archs = {"generator": self.generator.generate(kept, budget)}
        archs["uniform"] = search.uniform(space, budget, kept.sum(1))
        with torch.inference_mode():
            archs["evolution_aware"] = search.evolution(space, self.model, kept, budget, **effort)
        every, calibration = torch.cat(list(archs.values())), calibration_images(self.study, self.dataset)
        top1 = measure_archs(self.supernet, every, kept.expand(len(every), -1), calibration, self.dataset.selection)
        return pd.DataFrame({"method": archs.keys(), "madds": space.madds(every, kept.sum()), "top1": top1})


def load_specializer(study: Study, folder: Path, dataset: Dataset, seed: int) -> Specializer:
    """The parts that one seed of a study left in `folder`, on the CPU.

    Raises:
        FileNotFoundError: a part is missing; the message says which notebook makes it.
    """
    setting = settings_of(study, folder)["eas"]
    generator = load_generator(study, folder, dataset, "eas", seed, choose_signal(study, folder))
    model = load_model(study, folder, dataset, "eas", seed, aware=True)
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed)).cpu()
    branches = None
    if study.branches:
        branches = require(branches_path(folder, choose_branch(study, folder), seed), study, "02_supernet")
    return Specializer(study, dataset, supernet, generator, model, branches)


IMAGES = "calibration.safetensors"  # beside the published weights: all that specialising needs of the data set


def write_images(dataset: Dataset, folder: Path) -> None:
    """Write the calibration split, and what the data set's images are normalised by, for `published`."""
    split = dataset.calibration
    tensors = {"images": split.images, "labels": split.labels}
    save_tensors(tensors | {n: torch.tensor(getattr(dataset, n)) for n in ("mean", "std")}, folder / IMAGES)


def published(name: str, root: str | Path = ".") -> Specializer:
    """The parts that the repository holds of a study, under weights/<name>: no data set is needed, and no training.

    Branches are calibrated on the few images of their superclass that are kept with them. Against the training images,
    which `load_specializer` uses, this costs a branch a little accuracy.

    Raises:
        FileNotFoundError: the repository holds no weights of this study.
        ValueError: an unknown study.
    """
    study, folder = load_study(name, root), Path(root) / "weights" / name
    if not (folder / IMAGES).is_file():
        raise FileNotFoundError(f"{folder / IMAGES} is missing: no weights of the study {name} are published there")
    tensors = load_file(folder / IMAGES)
    kept, none = Split(tensors["images"], tensors["labels"]), Split(tensors["images"][:0], tensors["labels"][:0])
    mean, std = (tuple(tensors[key].tolist()) for key in ("mean", "std"))
    splits = {"train": kept, "calibration": kept, "selection": none, "test": none}
    dataset = Dataset(data.hierarchy(study.data.name), mean=mean, std=std, **splits)
    return load_specializer(study, folder, dataset, study.seeds[0])


def top1(network: PreResNet, card: Card, hierarchy: Hierarchy, split: Split) -> float:
    """Superclass top-1 of a specialised network in percent, on the images of its classes."""
    chosen = split.only(hierarchy.kept(card.classes))
    rows = torch.tensor([hierarchy.classes.index(name) for name in card.classes])
    with torch.inference_mode():
        said = rows[network(as_input(chosen.images)).argmax(1)]
    return (said == chosen.labels).double().mean().item() * 100


# -------------------------------------------------------------------- files


def save(network: PreResNet, card: Card, path: str | Path) -> Path:
    """Write `path`.safetensors (weights) and `path`.json (the card, with the weights' SHA-256); returns the former."""
    weights = Path(f"{path}.safetensors")
    save_tensors(network.state_dict(), weights)
    content = {"format": FORMAT, "sha256": sha256(weights), **asdict(card)}
    beside = Path(f"{path}.json.part")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.rename(f"{path}.json")
    return weights


def load(path: str | Path) -> tuple[PreResNet, Card]:
    """Read what `save` wrote; the network is in eval mode on the CPU.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a file is damaged, or is not a specialised network.
    """
    weights, text = Path(f"{path}.safetensors"), Path(f"{path}.json")
    for file in (weights, text):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: a specialised network is a .safetensors and a .json file")
    try:
        content = json.loads(text.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{text} is damaged: it is not JSON") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f"{text} is not the card of a specialised network ({FORMAT})")
    if content.pop("sha256", None) != sha256(weights):
        raise ValueError(f"{weights} is damaged, or belongs to another card: its SHA-256 differs from {text}")
    try:
        card = Card(**{name: as_tuple(value) for name, value in content.items()})
        network = PreResNet(card.in_channels, card.widths, card.inner, len(card.classes))
        network.load_state_dict(load_file(weights))
    except (TypeError, IndexError, RuntimeError, SafetensorError) as err:
        raise ValueError(f"{weights} does not fit its card: {str(err).splitlines()[0]}") from None
    return network.eval(), card


def as_tuple(value):
    """JSON's lists as tuples, all the way down."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def export_onnx(network: PreResNet, card: Card, path: str | Path) -> Path:
    """Write `path`.onnx, one file for runtimes that know neither torch nor this package; returns it.

    Input `images` float32 [n, channels, size, size] in [0, 1], normalised inside; output `logits` float32 [n, classes].
    The card is in the model's metadata, a JSON value for each of its fields: `classes` are those of the logits.

    Raises:
        ModuleNotFoundError: onnx and onnxscript are not installed; the message says how to.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ModuleNotFoundError(f"ONNX needs {' and '.join(missing)}: pip install -e '.[onnx]'")
    images = torch.zeros(2, card.in_channels, card.image_size, card.image_size)
    program = torch.onnx.export(
        network,
        (images,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props.update({name: json.dumps(value) for name, value in asdict(card).items()})
    for node in program.model.graph:
        node.metadata_props.clear()  # the lines of source, with this machine's paths, that it came from
    target = Path(f"{path}.onnx")
    target.parent.mkdir(parents=True, exist_ok=True)
    program.save(f"{target}.part")
    return Path(f"{target}.part").rename(target)


@torch.inference_mode()
def predict(network: PreResNet, card: Card, images: Tensor) -> list[str]:
    """Class names for uint8 images [n, channels, size, size].

    Raises:
        ValueError: images of another type or shape than the network was made for.
    """
    expected = (card.in_channels, card.image_size, card.image_size)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"images must be uint8 [n, {', '.join(map(str, expected))}], got {images.dtype} {list(images.shape)}"
        )
    return [card.classes[i] for i in network(images.float() / 255).argmax(1).tolist()]


# -------------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> int:
    """Specialise from published weights and write the two files; an error is one line."""
    parser = argparse.ArgumentParser(
        prog="python -m eas.deploy", description="A network for exactly your classes and budget, in two small files."
    )
    parser.add_argument("study", help="one with weights in the repository: cifar100")
    parser.add_argument("names", nargs="+", metavar="name", help="superclasses and classes to tell apart")
    parser.add_argument("--madds", type=float, required=True, help="budget of multiply-adds, such as 20e6")
    parser.add_argument("--to", required=True, metavar="PATH", help="of the files, without .safetensors and .json")
    parser.add_argument("--onnx", action="store_true", help="also write PATH.onnx, for runtimes without torch")
    options = parser.parse_args(arguments)
    jobs.keep_memory()  # calibration, which is nearly all of the time, takes a third of it then
    try:
        network, card = published(options.study).specialize(options.names, options.madds)
        if options.onnx:
            print(f"wrote {export_onnx(network, card, options.to)}")
        weights = save(network, card, options.to)
    except (ImportError, OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    size = weights.stat().st_size / 1e6
    costs = f"{card.madds / 1e6:.1f}M multiply-adds, {card.parameters:,} parameters"
    print(f"wrote {weights} ({size:.2f} MB, {costs}) for {', '.join(card.classes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
