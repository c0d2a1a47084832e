"""A kit to play with in a notebook: pick classes, move a bound, see the network, save it, show it photographs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from eas.evaluation import calibration_sample
from eas.serving.answers import class_probabilities, predict
from eas.serving.deploy import Card, save
from eas.serving.kit import Kit
from eas.serving.latency import LatencyTable, latency_table
from eas.serving.onnx_files import export_onnx
from eas.spaces.supernet import resized
from pipeline.report import figures

POINTS = 40  # of the curves
LOOKED_AT = 500  # images of the confusion matrix, at most
WRITTEN = 12  # classes whose cells hold numbers
MADDS, MS = "million multiply-adds", "milliseconds"


class Playground:
    """The controls and what they show; `view` is what a notebook displays."""

    def __init__(self, kit: Kit, folder: str | Path = "."):
        self.kit, self.folder, self.table = kit, Path(folder), None
        self.network: nn.Module | None = None
        self.card: Card | None = None
        wide = {"rows": 8, "layout": {"width": "14em"}}
        self.superclasses = ipywidgets.SelectMultiple(
            options=kit.hierarchy.superclasses, value=kit.hierarchy.superclasses[:1], **wide
        )
        self.classes = ipywidgets.SelectMultiple(options=sorted(kit.hierarchy.classes), **wide)
        self.unit = ipywidgets.ToggleButtons(options=[MADDS, MS], style={"button_width": "initial"})
        low, high = (kit.generator.budget_range / 1e6).tolist()
        self.bound = ipywidgets.FloatSlider(
            min=low,
            max=high,
            value=(low + high) / 2,
            step=(high - low) / 100,
            continuous_update=False,
            readout_format=".3g",
        )
        self.save_button = ipywidgets.Button(description="Save", icon="download")
        self.upload = ipywidgets.FileUpload(accept="image/*", multiple=True, description="Photographs")
        self.shown, self.said = ipywidgets.Output(), ipywidgets.Output()
        for control in (self.superclasses, self.classes, self.bound):
            control.observe(self.refresh, "value")
        self.unit.observe(self.change_unit, "value")
        self.save_button.on_click(self.save)
        self.upload.observe(self.answer, "value")
        picked = [titled("superclasses (Ctrl: several)", self.superclasses), titled("and classes", self.classes)]
        asked = ipywidgets.VBox([titled("at most", self.unit, self.bound), self.save_button, self.upload, self.said])
        self.view = ipywidgets.VBox([ipywidgets.HBox([*picked, asked]), self.shown])
        self.refresh()

    @property
    def names(self) -> list[str]:
        """What is picked."""
        return [*self.superclasses.value, *self.classes.value]

    def change_unit(self, change: dict) -> None:
        """Have the slider mean multiply-adds or milliseconds; the first time these are measured."""
        if change["new"] == MS and self.table is None:
            with self.shown:
                print("measuring how long networks take on this machine: half a minute")
                self.table = latency_table(self.kit.supernet.space)
        low, high = ends(self.kit, self.table if change["new"] == MS else None)
        self.bound.unobserve(self.refresh, "value")
        self.bound.max = max(high, self.bound.min)  # never an end beyond the other, which the slider refuses
        self.bound.min, self.bound.max, self.bound.step = low, high, (high - low) / 100
        self.bound.value = (low + high) / 2
        self.bound.observe(self.refresh, "value")
        self.refresh()

    def refresh(self, change: dict | None = None) -> None:
        """Make the network that is asked for, and show it."""
        self.said.clear_output()
        self.shown.clear_output(wait=True)
        with self.shown:
            try:
                table = self.table if self.unit.value == MS else None
                self.network, self.card = make(self.kit, self.names, self.bound.value, table)
            except ValueError as error:  # nothing is picked, say
                self.network = self.card = None
                print(error)
                return
            print(sentence(self.kit, self.card, self.names, self.table))
            for figure in (arch_figure(self.kit, self.card), accuracy_figure(self.kit, self.network, self.card)):
                display(figure)
                plt.close(figure)

    def save(self, button: ipywidgets.Button | None = None) -> None:
        """Write the network's files, for this package and for an ONNX runtime."""
        self.said.clear_output(wait=True)
        with self.said:
            if self.network is None:
                print("there is no network to save: pick a class")
                return
            path = self.folder / "+".join(self.names).replace("/", "-")
            written = [save(self.network, self.card, path)]
            try:
                written.append(export_onnx(self.network, self.card, path))
            except ModuleNotFoundError as error:
                print(error)
            print(f"wrote {' and '.join(map(str, written))}")

    def answer(self, change: dict) -> None:
        """Say what uploaded photographs show."""
        self.said.clear_output(wait=True)
        with self.said:
            if self.network is None:
                print("there is no network to ask: pick a class")
                return
            for file in change["new"]:
                print(f"{file['name']}: {answer_of(self.network, self.card, bytes(file['content']))}")


def titled(title: str, *controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Controls under a title."""
    return ipywidgets.VBox([ipywidgets.Label(title), *controls])


def ends(kit: Kit, table: LatencyTable | None) -> tuple[float, float]:
    """The least and the most that is worth asking for, in millions of multiply-adds or milliseconds."""
    if table is None:
        low, high = kit.generator.budget_range.tolist()
        return low / 1e6, high / 1e6
    space, count = kit.supernet.space, len(kit.hierarchy.classes)
    low, high = (float(table.seconds(space, arch, count)) for arch in (space.smallest, space.largest))
    return 1e3 * low * (1 + table.margin), 1e3 * high * (1 + table.margin)


def make(kit: Kit, names: Sequence[str], most: float, table: LatencyTable | None) -> tuple[nn.Module, Card]:
    """The network for some names, under millions of multiply-adds, or under milliseconds where there is a table.

    It tells strangers. ValueError as Kit.specialize; a sentence where nothing is named.
    """
    if not names:
        raise ValueError("pick a superclass or a class")
    if table is None:
        return kit.specialize(names, most * 1e6, refuse=True)
    return kit.specialize(names, bounds=[(table, most * table.scale)], refuse=True)


def sentence(kit: Kit, card: Card, names: Sequence[str], table: LatencyTable | None) -> str:
    """What the network is, in words."""
    parts = [
        f"{' + '.join(names)}: {len(card.classes)} classes, {card.madds / 1e6:.3g}M multiply-adds, "
        f"{card.parameters / 1e3:.3g} thousand parameters"
    ]
    if table:
        one = card.choice_space()
        parts.append(f"{1e3 * float(table.seconds(one, torch.tensor(card.arch), card.outputs)):.3g} ms here")
    if card.expected_top1:
        parts.append("expected top-1 {:.1f} % [{:.1f}, {:.1f}]".format(*card.expected_top1))
    branches = kit.branches_for(kit.hierarchy.class_mask(names))
    parts.append(f"weights: {'branches of ' + ', '.join(branches) if branches else 'shared by all classes'}")
    return "; ".join(parts)


def answer_of(network: nn.Module, card: Card, content: bytes) -> str:
    """What a photograph shows, in words; what is wrong with it where it cannot be read."""
    try:
        (answer,) = predict(network, card, [io.BytesIO(content)])
    except ValueError as error:
        return str(error)
    return ", ".join(f"{name} {share:.0%}" for name, share in answer[:3])


def arch_figure(kit: Kit, card: Card) -> Figure:
    """The arch, block by block."""
    figures.style()
    return figures.draw_arch(card.choice_space(), torch.tensor(card.arch), card.outputs)


def accuracy_figure(kit: Kit, network: nn.Module, card: Card) -> Figure:
    """What networks for these classes are expected to reach, and what this one takes for what."""
    figure, ((left, right),) = figures.panels(1, 2, height=3.6)
    draw_expected(left, kit, card)
    draw_confusion(right, kit, network, card)
    return figure


def draw_expected(axis: Axes, kit: Kit, card: Card) -> None:
    """Expected top-1 over multiply-adds, with shared weights and those that the kit gives; this network among them."""
    axis.set(title="what to expect", xlabel=MADDS, ylabel="top-1 (%)")
    if card.expected_top1 is None:
        axis.text(0.5, 0.5, "this kit does not know", ha="center", transform=axis.transAxes)
        return
    mask, madds = kit.hierarchy.class_mask(card.classes), torch.linspace(*kit.generator.budget_range.tolist(), POINTS)
    branches = len(kit.branches_for(mask))
    for count, name, look in ((0, "shared weights", "--"), (branches, "weights of their own", "-")):
        if count or name == "shared weights":
            reached, low, high = kit.expected(mask, madds, count).T
            (line,) = axis.plot(madds / 1e6, reached, look, label=name)
            axis.fill_between(madds / 1e6, low, high, color=line.get_color(), alpha=0.1, linewidth=0)
    axis.axvline(card.madds / 1e6, color="0.3", linewidth=1, linestyle=":")
    axis.plot(card.madds / 1e6, card.expected_top1[0], "o", color="black", label="this network")
    axis.legend(loc="lower right")


def confusion(kit: Kit, network: nn.Module, card: Card) -> tuple[pd.DataFrame, int]:
    """Of each class (rows) how many percent are taken for each, on the kit's images; and how many these are."""
    place = torch.full((len(kit.hierarchy.classes),), -1)
    place[[kit.hierarchy.classes.index(name) for name in card.classes]] = torch.arange(len(card.classes))
    images = calibration_sample((kit.unseen or kit.branch_images).only(place >= 0), LOOKED_AT)
    said = class_probabilities(network, card, resized(images.images, card.image_size)).argmax(1)
    counts = torch.zeros(len(card.classes), len(card.classes))
    counts.index_put_((place[images.labels], said), torch.ones(len(said)), accumulate=True)
    shares: Tensor = 100 * counts / counts.sum(1, keepdim=True).clamp_min(1)
    return pd.DataFrame(shares.numpy(), card.classes, card.classes), len(said)


def draw_confusion(axis: Axes, kit: Kit, network: nn.Module, card: Card) -> None:
    """The confusion matrix as a map."""
    table, count = confusion(kit, network, card)
    few = len(table) <= WRITTEN
    figures.draw_map(axis, table, "% of the class's images", vmin=0, vmax=100, annot=few, fmt=".0f")
    axis.set(title=f"on {count} of the kit's images", xlabel="taken for", ylabel="")
    if not few:
        axis.set(xticks=[], yticks=[])
