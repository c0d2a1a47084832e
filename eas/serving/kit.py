"""What serves any scenario of one trained system; as files, it is a folder: see eas.serving.kit_files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eas.branches import BRANCH_IMAGES, compose_branches, superclass_shares
from eas.costs import Cost
from eas.data import Hierarchy, Split
from eas.evaluation import calibration_sample
from eas.expected import ExpectedAccuracy
from eas.generator import ArchGenerator
from eas.serving import deploy
from eas.serving.answers import accuracy_on, refused_on
from eas.serving.deploy import CALIBRATION_IMAGES, Card, in_turn
from eas.spaces import Supernet
from eas.spaces.supernet import resized

BUDGETS = 64  # that are tried to find the cheapest network for an accuracy
MOST_STRANGERS = 500  # of these, images of other classes that a network is tested on


@dataclass(frozen=True)
class Kit:
    """A trained system, on the CPU, ready to serve any scenario."""

    hierarchy: Hierarchy
    supernet: Supernet
    generator: ArchGenerator
    branches: dict[str, Tensor] | None  # of the superclasses, as eas.branches stores them, where there are any
    calibration: Split  # images of all classes, which the shared weights' statistics are taken from
    branch_images: Split  # those whose images of a set's superclasses branches' statistics are taken from
    synthetic: bool
    largest_set: int = 1  # the most superclasses of a set that branches serve
    mixed_sets: bool = True  # whether they serve some of the classes of several superclasses
    expected: ExpectedAccuracy | None = None  # what networks reach, where that was measured
    where: str = "branches"  # the file that these are of
    test: Split | None = None  # images of all classes that nothing was trained on or chosen with
    unseen: Split | None = None  # those that choices were made with, where `branch_images` were trained on
    calibrated: int = CALIBRATION_IMAGES  # so many of the images that statistics can be taken from are run

    def branches_for(self, class_mask: Tensor) -> list[str]:
        """The superclasses whose branches serve a set of classes; none where the weights do that all classes share.

        Those of all superclasses that the set has classes of, unless there are more than `largest_set`, or the kit has
        no `mixed_sets` and this one is.
        """
        shares = superclass_shares(self.hierarchy, class_mask)
        names = [self.hierarchy.superclasses[index] for index in shares.nonzero()[:, 0].tolist()]
        mixed = len(names) > 1 and not torch.equal(class_mask, self.hierarchy.class_mask(names))
        served = len(names) <= self.largest_set and (self.mixed_sets or not mixed)
        return names if self.branches and served else []

    def weights(self, class_mask: Tensor) -> tuple[Supernet, Split]:
        """The supernet that serves a set of classes, and the images that its statistics are taken from.

        Those of branches are taken from images of their superclasses, also where the set has some of the classes
        only: a kit has few images (with those of two classes, branches are worse than shared weights).
        """
        if not (names := self.branches_for(class_mask)):
            return self.supernet, self.calibration
        shares = superclass_shares(self.hierarchy, class_mask)
        images = calibration_sample(self.branch_images.only(self.hierarchy.class_mask(names)), BRANCH_IMAGES)
        return compose_branches(self.supernet, self.branches, shares, self.where), images

    def unseen_with(self, class_mask: Tensor) -> Split | None:
        """Images that nothing was trained on; None where there are none of a set of classes, or none of others."""
        images = self.unseen or self.branch_images
        return images if len({*class_mask[images.labels].tolist()}) == 2 else None

    def expected_top1(self, class_mask: Tensor, madds: Tensor) -> Tensor:
        """What networks for a set of classes are expected to reach at costs [n], in percent: see ExpectedAccuracy.

        ValueError where the kit does not know.
        """
        if self.expected is None or not class_mask[self.expected.labels].any():
            raise ValueError("this kit does not know what networks for these classes reach: ask for a budget instead")
        return self.expected(class_mask, madds, len(self.branches_for(class_mask)))

    def cheapest_budget(self, class_mask: Tensor, top1: float, outputs: int | None = None) -> float:
        """The smallest budget, in multiply-adds, whose network is expected to reach `top1` percent.

        It may have more `outputs` than classes. Of BUDGETS in the generator's range. ValueError, which says the best.
        """
        space, outputs = self.supernet.space, outputs or int(class_mask.sum())
        ends = self.generator.budget_range.clamp(min=float(space.madds(space.smallest, outputs)))
        budgets, counts = torch.linspace(*ends.tolist(), BUDGETS, dtype=torch.float64), torch.full((BUDGETS,), outputs)
        archs = self.generator.generate(class_mask.expand(BUDGETS, -1), budgets, outputs=counts)
        madds = space.madds(archs, class_mask.sum())
        expected = self.expected_top1(class_mask, madds)[:, 0]
        if not len(enough := (expected >= top1).nonzero()[:, 0]):
            best, cost = expected.max().item(), madds[expected.argmax()].item() / 1e6
            raise ValueError(f"no network is expected to reach {top1:g} %: the best {best:.1f} %, with {cost:.4g}M")
        return budgets[enough[madds[enough].argmin()]].item()

    def specialize(
        self,
        names: str | Sequence[str],
        budget_madds: float | None = None,
        *,
        top1: float | None = None,
        bounds: Sequence[tuple[Cost, float]] = (),
        refuse: bool = False,
    ) -> tuple[nn.Module, Card]:
        """The specialised network for the named superclasses and classes, in eval mode.

        Under a budget of multiply-adds, `bounds` of other costs (a number of eas.costs.PARAMETERS, a LatencyTable's
        seconds), or all of these; or the cheapest one that is expected to reach `top1` percent. With `refuse` it also
        tells images of none of its classes, for what it costs (see eas.serving.strangers), if there are images for it.

        ValueError for an unknown name, no name, a bound below the smallest arch or an accuracy that no network is
        expected to reach, which says what is possible; or no bound, or one beside `top1`.
        """
        class_mask = self.hierarchy.class_mask([names] if isinstance(names, str) else names)
        if (budget_madds is None and not bounds) == (top1 is None):
            raise ValueError("give either a budget of multiply-adds, or other bounds, or a top-1 in percent")
        unseen = self.unseen_with(class_mask) if refuse else None
        if top1 is not None:
            budget_madds = self.cheapest_budget(class_mask, top1, len(class_mask) if unseen else None)
        supernet, images = self.weights(class_mask)
        parts = (supernet, self.generator, self.hierarchy, class_mask, budget_madds, in_turn(images, self.calibrated))
        network, card = deploy.specialize(*parts, synthetic=self.synthetic, bounds=bounds, unseen=unseen)
        if self.expected and class_mask[self.expected.labels].any():
            one = card.choice_space()  # what is expected was measured on networks with these outputs only
            madds = one.madds(torch.tensor([card.arch]), len(card.classes))
            (expected,) = self.expected_top1(class_mask, madds).tolist()
            card = card.model_copy(update={"expected_top1": tuple(round(each, 2) for each in expected)})
        return network, card

    def tested(self, network: nn.Module, card: Card) -> Card:
        """The card with how right the network is on the kit's test images, where it has any of the classes."""
        place = torch.full((len(self.hierarchy.classes),), -1)
        place[[self.hierarchy.classes.index(name) for name in card.classes]] = torch.arange(len(card.classes))
        if self.test is None or not len(own := self.test.only(place >= 0)):
            return card
        own = Split(resized(own.images, card.image_size), place[own.labels])
        told = {"test": accuracy_on(network, card, own)}
        if card.strangers:
            others = calibration_sample(self.test.only(place < 0), MOST_STRANGERS)
            refused = refused_on(network, card, own.images), refused_on(network, card, others.images)
            names = "refused_own", "refused_others"
            told["strangers"] = card.strangers.model_copy(update=dict(zip(names, refused, strict=True)))
        return card.model_copy(update=told)
