"""What branches gain rests on the hierarchy: of groups drawn at random they must gain less.

Classes of a superclass look alike, so that a short training tells superclasses apart and not their classes. A branch
for a superclass learns what its classes differ in; those of a random group the shared weights tell apart already.
"""

import torch
from cases import seeded

from eas.branches import compose_branches, superclass_shares, tune_branches
from eas.data import Hierarchy, Split
from eas.dropout import SuperclassDropout
from eas.evaluation import measure_archs
from eas.recipes import NO_DROPOUT, Augment, Training
from eas.spaces.preresnet import PreResNetRecipe
from eas.training import train

GROUPS, SIZE, PIXELS = 6, 3, 12  # superclasses, classes in each
SPACE = PreResNetRecipe(widths=(8, 16), depths=(1, 2), ratios=(0.5, 1.0)).build(PIXELS, 1)
PLAIN = Augment(shift=0, flip=False)
RECIPE = Training(epochs=5, batch_size=32, learning_rate=0.1, random_subnets=1, augment=PLAIN, mixed_precision=False)


def draw_images(count, seed):
    """Images of every class: the pattern of its superclass, a fainter one of its own, and noise."""
    shape, labels, rng = (1, PIXELS, PIXELS), torch.arange(GROUPS * SIZE).repeat(count), seeded()
    patterns = torch.randn(GROUPS, *shape, generator=rng).repeat_interleave(SIZE, 0)
    patterns = patterns + 0.4 * torch.randn(GROUPS * SIZE, *shape, generator=rng)
    images = patterns[labels] + 0.7 * torch.randn(len(labels), *shape, generator=seeded(seed))
    return Split((128 + 32 * images).clamp(0, 255).to(torch.uint8), labels)


def branch_gain(order):
    """Mean points of branches over shared weights, where the classes in this order make the groups, in threes."""
    groups = order.view(GROUPS, SIZE).tolist()
    hierarchy = Hierarchy.from_groups({f"group {i}": [f"class {each}" for each in own] for i, own in enumerate(groups)})
    place = order.argsort()  # of a class among those of the hierarchy
    learn, test = (Split(split.images, place[split.labels]) for split in (draw_images(40, 1), draw_images(40, 2)))
    masks = torch.stack([hierarchy.class_mask([name]) for name in hierarchy.superclasses])
    torch.manual_seed(0)
    supernet = SPACE.supernet(len(order), (0.5,), (0.15,))
    train(supernet, learn, SuperclassDropout(hierarchy.parent, NO_DROPOUT), RECIPE, seed=0)
    draw_single = lambda count, rng: masks[torch.randint(GROUPS, (count,), generator=rng)]  # noqa: E731
    branches = tune_branches(supernet, learn, hierarchy, "all", RECIPE, draw_single, seed=0)
    gains = []
    for mask in masks:
        own = compose_branches(supernet, branches, superclass_shares(hierarchy, mask))
        top1 = [measure_archs(each, SPACE.largest[None], mask[None], learn, test) for each in (own, supernet)]
        gains.append(top1[0] - top1[1])
    return torch.cat(gains).mean().item()


def test_branches_of_random_groups_gain_less():
    own = branch_gain(torch.arange(GROUPS * SIZE))
    permuted = branch_gain(torch.randperm(GROUPS * SIZE, generator=seeded()))
    assert own > 5 and permuted < own / 2
