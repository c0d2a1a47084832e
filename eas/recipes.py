"""Typed hyper-parameters that the method's functions take; params.yaml names them as here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from eas.registry import Count, Few, Finite, LearningRate, Rate, Section


class Augment(Section):
    """Random changes of training images; pixels where nothing else is said. 0, false and a crop of 1 switch one off."""

    shift: Annotated[int, Field(ge=0)] = 2
    flip: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # the least share of an image that is cut out and scaled up again
    color: Annotated[float, Field(ge=0, le=1)] = 0.0  # by how much brightness, contrast and saturation change

    @property
    def by_image(self) -> bool:
        """Whether every image is changed by itself, which workers do."""
        return self.crop < 1 or self.color > 0


class Start(Section):
    """Weights that a supernet begins with, in place of random ones."""

    weights: str  # a file, relative to the repository or the study's own file; or a name that the space knows
    sort_channels: bool = False  # by importance: where they are of a network that was trained at its largest only


class Training(Section):
    """How a supernet is trained, or tuned."""

    epochs: Few
    batch_size: Count
    learning_rate: LearningRate
    random_subnets: Annotated[int, Field(ge=0, le=1000)]  # a step, beside the largest and the smallest
    distinct_archs: Count = 256  # that the random subnets are drawn from
    warmup: Rate = 0.15  # fraction of the steps
    momentum: Rate = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 5e-4
    zero_init: bool = True  # every block begins as its shortcut
    label_smoothing: Rate = 0.0
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of the largest subnet in a smaller one's loss
    augment: Augment = Augment()
    start: Start | None = None
    mixed_precision: bool = True  # bfloat16 where the hardware has matrix units for it; false: float32 everywhere


class Dropout(Section):
    """A setting of superclass dropout (see eas.dropout)."""

    variant: Literal["none", "batch", "own", "sample"]
    rate: Rate = 0.0
    begin: Rate = 0.0  # share of the training after which it begins: before, all classes count

    @property
    def name(self) -> str:
        begin = f"-from-{self.begin:g}" if self.begin else ""
        return self.variant if self.variant == "none" else f"{self.variant}-{self.rate:g}{begin}"


NO_DROPOUT = Dropout(variant="none")


class Branch(Section):
    """A way to tune superclass branches: which weights, how fast, on sets of how many superclasses."""

    part: Literal["all", "norms", "classifier"]  # norms: scales, shifts and the classifier
    supernet: Literal["dropout", "plain"] = "dropout"  # that of the comparison which it is tuned from
    learning_rate: LearningRate
    batch_size: Count | None = None  # this and `epochs`: those of all branches, unless given
    epochs: Few | None = None
    archs: Literal["sandwich", "generated"] = "sandwich"  # generated: one a step, the set's own at a random budget
    sets: Annotated[dict[Few, Finite], Field(min_length=1)] = {1: 1.0}  # superclasses in a set: how often drawn
    common: Annotated[float, Field(ge=0, le=1)] = 0.0  # how fast what all have in common learns, in times of the rate
    alike: bool = False  # nothing else learns, so that all branches are the same: a control, shared weights tuned on
    decay: Annotated[float, Field(ge=0, le=100)] | None = None  # of the differences from shared weights
    label: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")] | None = None  # its name; else part, rate and batch size are

    @property
    def name(self) -> str:
        batch = f"-batch-{self.batch_size}" if self.batch_size else ""
        return self.label or f"{self.part}-{self.learning_rate:g}{batch}"

    def training(self, recipe: Training, epochs: int, batch_size: int) -> Training:
        """How it is trained: as the supernet, but for what differs; `epochs` and `batch_size` are all branches'."""
        update = {"epochs": self.epochs or epochs, "batch_size": self.batch_size or batch_size}
        update |= {"learning_rate": self.learning_rate}
        if self.decay is not None:
            update |= {"weight_decay": self.decay}
        return recipe.model_copy(update=update)


class GeneratorTraining(Section):
    """How a generator is trained on one signal."""

    steps: Count
    scenarios: Few = 256  # a step
    learning_rate: LearningRate = 3e-3
    penalty: Finite = 10.0  # on the squared relative distance from the budget
    entropy: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # reward at the start, falling to none
