"""Search spaces, scenarios, scores and supernets that several tests share; and what holds for any search space."""

from math import prod

import torch
from torch import nn

from eas.data.batches import as_input
from eas.dropout import soft_targets
from eas.layers import CalibratedStatistics, FixedStatistics
from eas.spaces import ChoiceSpace, EfficientNetLiteSpace, MobileNetV3Space, PreResNetSpace
from eas.spaces.supernet import resized

GLYPHS = PreResNetSpace(16, 1, widths=(8, 16, 32), depths=(1, 2, 3), ratios=(0.25, 0.375, 0.5, 0.75, 1.0))
CIFAR100 = PreResNetSpace(32, 3, widths=(16, 32, 64), depths=(1, 2, 3, 4), ratios=(0.25, 0.5, 0.75, 1.0))
SMALL = PreResNetSpace(16, 1, widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0))
ODD = PreResNetSpace(15, 3, widths=(10, 7, 7), depths=(1, 3), ratios=(0.05, 0.4, 1.0))  # odd sides, a gap in depth
SIZED = PreResNetSpace(16, 1, widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0), image_sizes=(9, 12, 16))
SIZED_MOBILENET = MobileNetV3Space(20, 1, 0.25, (1, 2), (3, 5), (1, 2), (1, 1, 2, 2, 1, 2), image_sizes=(11, 20))
LITE = EfficientNetLiteSpace(33, 3)  # sides even and odd
ONE_ARCH = PreResNetSpace(16, 1, widths=(8, 16), depths=(2,), ratios=(0.5,))


def table_space(stages, depths, madds, **ragged):
    """A space that is nothing but its costs, int64 [blocks, forms]: all that decoding sees of one."""
    content = {"stages": stages, "depths": depths, "forms": madds.shape[1], "block_madds": madds} | ragged
    content["fixed_madds"] = lambda self, counts: 1000 + 7 * torch.as_tensor(counts)
    return type("TableSpace", (ChoiceSpace,), dict.fromkeys(ChoiceSpace.__abstractmethods__) | content)()


def mobilenet_costs():
    """Of five stages of four blocks, in nine forms: kernel and expansion, whose costs do not rise in their order."""
    forms = torch.tensor([[kernel, expansion] for kernel in (3, 5, 7) for expansion in (3, 4, 6)])
    width, pixels = torch.tensor([24, 40, 80, 112, 160]), torch.tensor([56, 28, 14, 14, 7]) ** 2
    width, pixels = (each.repeat_interleave(4)[:, None] for each in (width, pixels))
    return forms[:, 1] * width * (2 * width + forms[:, 0] ** 2) * pixels


MOBILENET = table_space(5, (2, 3, 4), mobilenet_costs())
EQUAL_COSTS = table_space(2, (1, 2, 4), torch.tensor([[5, 9, 9, 30]]).repeat(8, 1))


def ragged_space():
    """Stages of up to three, one and three blocks, one of them of two at least; blocks of one to four forms."""
    costs = [[4, 6, 9, 12], [3, 7, 8], [5, 11], [20, 26, 24, 40]] + [[0]] * 2 + [[13, 17], [6, 9, 31], [8]]
    rows = torch.tensor([row + row[:1] * (4 - len(row)) for row in costs])
    return table_space(3, (), rows, stage_depths=((1, 2, 3), (1,), (2, 3)), block_forms=list(map(len, costs)))


RAGGED = ragged_space()
DECODED = {"small": SMALL, "glyphs": GLYPHS, "odd": ODD, "mobilenet": MOBILENET, "equal costs": EQUAL_COSTS}
DECODED |= {"ragged": RAGGED, "lite": LITE}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def every_arch(space):
    """All archs of a small space, canonical."""
    archs = torch.cartesian_prod(*(torch.arange(count) for count in space.choices.tolist()))
    archs = space.canonical(archs).unique(dim=0)
    assert len(archs) == space.size
    return archs


def random_scores(space, count, seed=0):
    rng = seeded(seed)
    return tuple(torch.randn(count, *shape, generator=rng) for shape in space.gate_shapes)


def random_class_masks(count, classes=160, seed=2):
    """Sets of classes of all sizes, none of them empty."""
    rng = seeded(seed)
    masks = torch.rand(count, classes, generator=rng) < torch.rand(count, 1, generator=rng)
    masks[torch.arange(count), torch.randint(classes, (count,), generator=rng)] = True
    return masks


def possible_budgets(space, count, class_counts, seed=1):
    """Whole numbers from the cost of the smallest arch to a little beyond the largest; the ends among them."""
    low, high = (space.madds(arch, class_counts).double() for arch in (space.smallest, space.largest))
    share = torch.rand(count, dtype=torch.float64, generator=seeded(seed)) * 1.05
    share[: count // 20] = 0
    return (low + (high - low) * share).floor()


def random_bytes(count, space=GLYPHS, seed=0):
    shape = (count, space.in_channels, space.image_size, space.image_size)
    return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)


def random_images(count, space=GLYPHS, seed=0):
    return as_input(random_bytes(count, space, seed))


class Additive:
    """In the place of a predictor: every choice has its worth, for every scenario alike or by its classes."""

    def __init__(self, space, classes, aware=False):
        self.space, depths = space, prod(space.gate_shapes[0])
        rising = torch.rand(classes if aware else 1, depths + space.blocks * space.forms, generator=seeded(5))
        depth, form = rising.split([depths, space.blocks * space.forms], 1)
        self.worth = torch.cat([depth, form.unflatten(1, (space.blocks, -1)).cumsum(-1).flatten(1)], 1)

    def score(self, archs, class_masks):
        worth = self.worth
        if len(worth) > 1:
            masks = class_masks.float()
            worth = masks @ worth / masks.sum(-1, keepdim=True)
        return (self.space.features(*self.space.gates(archs)) * worth).sum(-1)


def random_step(count=16, smoothing=0.0, seed=0):
    """Images of 16 pixels, targets, class mask and weight of one batch of 160 classes."""
    rng = seeded(seed)
    images, labels = torch.rand(count, 1, 16, 16, generator=rng), torch.randint(160, (count,), generator=rng)
    class_mask = torch.rand(count, 160, generator=rng) < 0.5
    class_mask[torch.arange(count), labels] = True
    weight = (torch.rand(count, generator=rng) < 0.8).float()
    return images, soft_targets(labels, class_mask, smoothing), class_mask, weight


# -------------------------------------------------------------------- what holds for any search space


@torch.no_grad()
def check_space(space, count, classes=12):
    """So many archs of a space: each is one network in all its forms, at the cost that the space says."""
    supernet, rng = lively(space, classes), torch.Generator().manual_seed(1)
    shape = space.in_channels, space.image_size, space.image_size
    calibration, images = torch.rand(16, *shape, generator=rng), torch.rand(6, *shape, generator=rng)
    archs = torch.stack([space.largest, space.smallest, *space.sample(count - 2, rng)])
    kept, sums = torch.randint(1, classes + 1, (count,), generator=rng), set()
    for arch, number in zip(archs, kept.tolist(), strict=True):
        statistics, of_gates = CalibratedStatistics(), CalibratedStatistics()
        (depth, form, *_), (one, own) = space.gates(arch), space.at_size_of(arch)
        supernet(calibration, arch, statistics)
        supernet.forward_gated(resized(calibration, one.image_size), depth, form, of_gates)
        sliced = supernet(images, arch, FixedStatistics(statistics.recorded))
        scaled = resized(images, one.image_size)
        gated = supernet.forward_gated(scaled, depth, form, FixedStatistics(of_gates.recorded))
        picked = torch.randperm(classes, generator=rng)[:number]
        extracted = supernet.extract(arch, picked.tolist(), statistics)
        read = one.network(own, number).eval()
        read.load_state_dict(extracted.state_dict())
        assert sliced.shape == (6, classes) and sliced.std(0).min() > 1e-3
        torch.testing.assert_close(gated, sliced, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(extracted(scaled), sliced[:, picked], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(read(scaled), extracted(scaled))
        assert not extracted.training
        assert space.madds(arch, number) == counted_madds(extracted, scaled[:1])
        assert space.parameters(arch, number) == sum(p.numel() for p in extracted.parameters() if p.requires_grad)
        sums.add(round(sliced.sum().item(), 5))
    assert len(sums) > 0.9 * len(archs.unique(dim=0))  # other archs are other networks
    assert space.recipe.build(space.image_size, space.in_channels) == space
    sizes = space.form_sizes()
    assert [len(names) for names in space.form_names()] == space.block_forms and sizes.shape == space.gate_shapes[1]
    assert len(space.block_names()) == space.in_stage.sum() and len(space.stage_names()) == space.stages
    assert sizes[space.in_stage].min() > 0 and sizes.max() <= 1


def lively(space, classes, seed=0):
    """A supernet none of whose weights is at a special value: norms and biases too are random."""
    torch.manual_seed(seed)
    supernet = space.supernet(classes, [0.4, 0.5, 0.6][: space.in_channels], [0.2, 0.3, 0.25][: space.in_channels])
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.ndim == 1:
                parameter += torch.randn_like(parameter) * 0.3
    return supernet


def counted_madds(network, image):
    """Multiply-adds of a network's convolutions and linear layers, as its forward pass goes."""
    found = []

    def hook(layer, inputs, output):
        each = layer.in_channels // layer.groups * prod(layer.kernel_size) if output.ndim == 4 else layer.in_features
        found.append(output[0].numel() * each)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    network(image)
    for each in hooks:
        each.remove()
    assert len(found) == len(layers)
    return sum(found)
