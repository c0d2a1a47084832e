"""One source of truth for slicing: gated == sliced == extracted == the plain network, statistics and gradients too."""

import pytest
import torch
from torch import nn

from eas.config import load_study
from eas.data import Split, as_input
from eas.evaluation import calibrate
from eas.layers import CalibratedStatistics, ElasticBlock, ElasticConv2d, ElasticNorm, FixedStatistics, Statistics
from eas.space import SearchSpace
from eas.supernet import PreResNet, Supernet, begin_as_identity, extract

CLASSES = 12
GLYPHS = SearchSpace(16, 1, widths=(8, 16, 32), depths=(1, 2, 3), ratios=(0.25, 0.375, 0.5, 0.75, 1.0))
COLOUR = SearchSpace(15, 3, widths=(10, 7, 7), depths=(1, 3), ratios=(0.05, 0.4, 1.0))  # odd sides, gaps in depth
SPACES = {"glyphs": GLYPHS, "colour": COLOUR}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def lively(space=GLYPHS, seed=0):
    """A supernet none of whose weights is at a special value: norms and biases too are random."""
    torch.manual_seed(seed)
    supernet = Supernet(space, CLASSES, [0.4, 0.5, 0.6][: space.in_channels], [0.2, 0.3, 0.25][: space.in_channels])
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.ndim == 1:
                parameter += torch.randn_like(parameter) * 0.3
    return supernet


def random_bytes(count, space=GLYPHS, seed=0):
    shape = (count, space.in_channels, space.image_size, space.image_size)
    return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)


def random_images(count, space=GLYPHS, seed=0):
    return as_input(random_bytes(count, space, seed))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def gradients(supernet):
    return {name: parameter.grad for name, parameter in supernet.named_parameters()}


# -------------------------------------------------------------------- one network, four forms


def test_the_space_of_these_tests_is_the_one_of_the_study(pytestconfig):
    assert SearchSpace.from_study(load_study("glyphs", pytestconfig.rootpath), 1) == GLYPHS


@pytest.mark.parametrize(("name", "count"), [("glyphs", 200), ("colour", 60)])
@torch.no_grad()
def test_gated_sliced_and_extracted_give_the_same_logits(name, count):
    space, groups = SPACES[name], 20
    supernet = lively(space)
    calibration, images = random_bytes(16, space, seed=1), random_images(6, space, seed=2)
    archs = torch.cat([space.sample(count - 2, seeded()), space.largest[None], space.smallest[None]])
    distinct = set()
    for several in archs.split(groups):
        both = torch.cat([as_input(calibration), images])
        gated = supernet.forward_gated(both, *space.gates(several), CalibratedStatistics(16, groups))[:, 16:]
        for arch, by_gates in zip(several, gated, strict=True):
            statistics = calibrate(supernet, arch, Split(calibration, torch.zeros(16).long()))
            sliced = supernet(images, arch, FixedStatistics(statistics.recorded))
            extracted = extract(supernet, arch, range(CLASSES), statistics)(images)
            assert sliced.shape == (6, CLASSES) and sliced.std(0).min() > 1e-3
            close(sliced, by_gates)
            close(sliced, extracted)
            distinct.add(round(sliced.sum().item(), 3))
    assert len(distinct) > 0.9 * len(archs.unique(dim=0))  # different archs are different networks


@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_the_largest_arch_is_the_plain_network(name):
    space = SPACES[name]
    supernet, images = lively(space), random_images(8, space)
    inner = [[width] * space.blocks_per_stage for width in space.widths]
    plain = PreResNet(space.in_channels, space.widths, inner, CLASSES)
    missing = plain.load_state_dict(supernet.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.split(".")[-1].startswith(("running_", "num_batches")) for key in missing.missing_keys)
    close(supernet(images, space.largest, Statistics()), plain.train()(images))
    calibrated = CalibratedStatistics(8)
    close(supernet(images, space.largest, calibrated), plain(images))
    plain.load_state_dict(extract(supernet, space.largest, range(CLASSES), calibrated).state_dict())
    close(supernet(images, space.largest, FixedStatistics(calibrated.recorded)), plain.eval()(images))


def test_extracted_weights_are_slices_of_the_supernet():
    supernet, arch, classes = lively(), GLYPHS.sample(1, seeded(5))[0], [7, 2, 11]
    statistics = calibrate(supernet, arch, Split(random_bytes(8), torch.zeros(8).long()))
    network = extract(supernet, arch, classes, statistics)
    source, compared = supernet.state_dict(), 0
    for name, tensor in network.state_dict().items():
        if name.startswith("classifier"):
            assert torch.equal(tensor, source[name][classes])
        elif name in source:
            assert torch.equal(tensor, source[name][tuple(map(slice, tensor.shape))])
        else:
            assert name.split(".")[-1] in ("running_mean", "running_var", "num_batches_tracked")
            continue
        compared += 1
    assert compared == 2 + len(list(network.parameters()))  # and the buffers: mean and std
    for stage, channels in zip(network.stages, GLYPHS.describe(arch), strict=True):
        assert [block.conv1.out_channels for block in stage] == channels
    assert not network.training and isinstance(network.norm, nn.BatchNorm2d)


@torch.no_grad()
def test_an_extracted_network_shares_no_memory_with_the_supernet():
    supernet, images = lively(), random_images(4)
    statistics = CalibratedStatistics(4)
    supernet(images, GLYPHS.largest, statistics)
    network = extract(supernet, GLYPHS.largest, range(CLASSES), statistics)
    before = network(images)
    moments = [moment for both in statistics.recorded.values() for moment in both]
    for tensor in (*supernet.parameters(), *supernet.buffers(), *moments):
        tensor.zero_()
    assert torch.equal(network(images), before)


@pytest.mark.parametrize("classes", [[3], [0, 1, 2], [11, 4, 8, 0]])
def test_extracting_classes_picks_their_rows_in_that_order(classes):
    supernet, images, arch = lively(), random_images(6), GLYPHS.sample(1, seeded(1))[0]
    statistics = calibrate(supernet, arch, Split(random_bytes(8), torch.zeros(8).long()))
    everything = extract(supernet, arch, range(CLASSES), statistics)(images)
    found = extract(supernet, arch, classes, statistics)(images)
    assert found.shape == (6, len(classes))
    torch.testing.assert_close(found, everything[:, classes])


def test_a_supernet_normalises_its_images():
    space = SearchSpace(16, 3, widths=(8,), depths=(1,), ratios=(1.0,))
    torch.manual_seed(0)
    supernet = Supernet(space, CLASSES, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    images = torch.rand(2, 3, 16, 16)
    by_hand = torch.stack([(images[:, c] - (c + 1) / 10) / (0.5 + c / 10) for c in range(3)], 1)
    torch.testing.assert_close(supernet.start(images), supernet.stem(by_hand))


def test_equal_seeds_give_equal_supernets(space, hierarchy, dataset, supernet):
    torch.manual_seed(0)
    again = Supernet(space, len(hierarchy.classes), dataset.mean, dataset.std)
    assert all(map(torch.equal, supernet.state_dict().values(), again.state_dict().values()))
    assert supernet.classifier.out_features == 160


def test_canonical_archs_are_the_same_network():
    supernet, images = lively(), random_images(4)
    arch = GLYPHS.smallest.clone()
    arch[GLYPHS.stages + 1] = 3  # the width of a block that is not kept
    assert not torch.equal(GLYPHS.canonical(arch), arch)
    one, other = (supernet(images, row, Statistics()) for row in (arch, GLYPHS.canonical(arch)))
    assert torch.equal(one, other)
    gated = supernet.forward_gated(images, *GLYPHS.gates(torch.stack([arch, GLYPHS.smallest])), Statistics(2))
    close(gated[0], gated[1])


def test_a_supernet_that_begins_as_identity_is_its_shortcuts_alone():
    supernet, images = lively(), random_images(6)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    begin_as_identity(supernet)
    changed = [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(changed) == GLYPHS.blocks and all(name.endswith("conv2.weight") for name in changed)
    largest, smallest = (supernet(images, arch, Statistics()) for arch in (GLYPHS.largest, GLYPHS.smallest))
    torch.testing.assert_close(largest, smallest)
    largest.square().sum().backward()
    moved = {name for name, gradient in gradients(supernet).items() if (gradient != 0).any()}
    assert set(changed) < moved  # what is zero at first can learn


# -------------------------------------------------------------------- statistics


@pytest.mark.parametrize("kind", ["batch", "calibrated"])
@torch.no_grad()
def test_the_statistics_of_groups_are_those_of_each_alone(kind):
    def statistics(groups):
        return Statistics(groups) if kind == "batch" else CalibratedStatistics(5, groups)

    supernet, images, archs = lively(), random_images(8), GLYPHS.sample(4, seeded(2))
    together = supernet.forward_gated(images, *GLYPHS.gates(archs), statistics(4))
    assert together.shape == (4, 8, CLASSES)
    for arch, logits in zip(archs, together, strict=True):
        close(logits, supernet.forward_gated(images, *GLYPHS.gates(arch[None]), statistics(1))[0])
        close(logits, supernet(images, arch, statistics(1)))


def test_moments_are_mean_and_biased_variance_of_the_first_images():
    x = torch.randn(3 * 4, 5, 6, 6, generator=seeded()) * torch.arange(1, 6)[:, None, None] + 7
    x = x.to(memory_format=torch.channels_last)
    mean, variance = Statistics(3).moments(x, 2)
    assert mean.shape == variance.shape == (3, 5)
    for group in range(3):
        first = x[group * 4 : group * 4 + 2].double()
        torch.testing.assert_close(mean[group].double(), first.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(variance[group].double(), first.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-5)
    everything, _ = Statistics(1).moments(x)
    torch.testing.assert_close(everything[0], x.mean((0, 2, 3)))


@pytest.mark.parametrize("groups", [1, 3])
def test_a_norm_is_torch_batch_norm_on_the_statistics_it_is_given(groups):
    norm = ElasticNorm(8)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(groups * 4, 5, 6, 6, generator=seeded()) * 3 + 1  # five of the eight channels
    whole = nn.BatchNorm2d(5, eps=1e-5)
    whole.weight.data, whole.bias.data = norm.weight[:5].detach(), norm.bias[:5].detach()
    each = torch.cat([whole(part) for part in x.split(4)])
    torch.testing.assert_close(norm(x, Statistics(groups)), each, rtol=1e-4, atol=1e-5)
    calibrated = CalibratedStatistics(4, groups)
    torch.testing.assert_close(norm(x, calibrated), each, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm(x, FixedStatistics(calibrated.recorded)), each, rtol=1e-4, atol=1e-5)
    assert [tensor.shape for tensor in calibrated.recorded[norm]] == [(groups, 5)] * 2


@torch.no_grad()
def test_calibrated_statistics_do_not_see_the_images_after_the_first():
    supernet, images, others = lively(), random_images(20), random_images(20, seed=9)
    mixed = torch.cat([images[:12], others[12:]])
    one, other = (supernet(x, GLYPHS.largest, CalibratedStatistics(12))[:12] for x in (images, mixed))
    close(one, other)
    close(one, supernet(images[:12], GLYPHS.largest, Statistics()))
    assert (one - supernet(mixed, GLYPHS.largest, Statistics())[:12]).abs().max() > 1e-2


@torch.no_grad()
def test_fixed_statistics_make_an_image_independent_of_its_batch():
    supernet, images = lively(), random_images(10)
    statistics = CalibratedStatistics(10)
    whole = supernet(images, GLYPHS.smallest, statistics)
    fixed = FixedStatistics(statistics.recorded)
    close(whole, torch.cat([supernet(image, GLYPHS.smallest, fixed) for image in images.split(1)]))


@torch.no_grad()
def test_layers_keep_no_state_between_calls():
    supernet, images = lively(), random_images(6)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    first = supernet(images, GLYPHS.smallest, Statistics())
    supernet(images, GLYPHS.largest, CalibratedStatistics(3))
    supernet.forward_gated(images, *GLYPHS.gates(GLYPHS.sample(2, seeded())), Statistics(2))
    assert torch.equal(supernet(images, GLYPHS.smallest, Statistics()), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


# -------------------------------------------------------------------- layers


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_a_convolution_uses_its_leading_filters_and_channels(kernel, stride):
    layer = ElasticConv2d(6, 10, kernel, stride)
    x = torch.randn(2, 4, 9, 9, generator=seeded())
    plain = nn.Conv2d(4, 7, kernel, stride, kernel // 2, bias=False)
    plain.weight.data = layer.weight.detach()[:7, :4]
    torch.testing.assert_close(layer(x, 7), plain(x))
    assert layer(x).shape[1] == 10 and layer.bias is None


def test_a_block_at_gate_zero_passes_its_shortcut():
    block, x = ElasticBlock(6, 6, stride=1), torch.randn(4, 6, 8, 8, generator=seeded())
    gate = torch.tensor([0.0, 1.0, 0.0, 0.5])[:, None, None, None]
    found, whole = block(x, Statistics(), block_gate=gate), block(x, Statistics())
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(found[1], whole[1])
    torch.testing.assert_close(found[3], (x[3] + whole[3]) / 2)


def test_a_channel_at_gate_zero_adds_nothing_and_gets_no_gradient():
    block, x = ElasticBlock(4, 6, stride=2), torch.randn(5, 4, 8, 8, generator=seeded())
    gate = (torch.arange(6) < 2).float().expand(5, 6)[:, :, None, None]
    gated = block(x, Statistics(), channel_gate=gate)
    torch.testing.assert_close(gated, block(x, Statistics(), inner=2))
    gated.square().sum().backward()
    for gradient in (block.conv1.weight.grad, block.norm2.weight.grad, block.norm2.bias.grad):
        assert (gradient[2:] == 0).all() and (gradient[:2] != 0).any()
    assert (block.conv2.weight.grad[:, 2:] == 0).all() and (block.conv2.weight.grad[:, :2] != 0).any()
    with torch.no_grad():
        block.conv1.weight[2:] = 99
        block.conv2.weight[:, 2:] = 99
    torch.testing.assert_close(block(x, Statistics(), channel_gate=gate), gated)


# -------------------------------------------------------------------- gates and gradients


def test_gates_are_cumulative_probabilities():
    supernet = lively()
    depth = torch.tensor([0.2, 0.3, 0.5]).expand(1, 3, 3)
    width = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]).expand(1, 9, 5)
    keep, channels = supernet.gates(depth, width)
    torch.testing.assert_close(keep, torch.tensor([1.0, 0.8, 0.5] * 3)[None])
    first = torch.tensor([1, 1, 0.9, 0.7, 0.4, 0.4, 0.15, 0.15])  # widths 2, 3, 4, 6 and 8
    torch.testing.assert_close(channels[0, 0, :8], first)
    torch.testing.assert_close(channels[0, 8, ::4], first)
    assert channels.shape == (1, 9, 32) and (channels[0, 0, 8:] == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_sliced_and_gated_have_the_same_gradients(seed):
    supernet, images = lively(), random_images(8)
    labels = torch.arange(8)
    arch = GLYPHS.sample(1, seeded(seed))[0]
    found = []
    for logits in (
        lambda: supernet(images, arch, Statistics()),
        lambda: supernet.forward_gated(images, *GLYPHS.gates(arch[None]), Statistics())[0],
    ):
        for parameter in supernet.parameters():
            parameter.grad = torch.zeros_like(parameter)
        nn.functional.cross_entropy(logits(), labels).backward()
        found.append(gradients(supernet))
    for name, sliced in found[0].items():
        torch.testing.assert_close(
            sliced, found[1][name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text
        )
    kept = dict(zip([f"stages.{s}.{b}." for s in range(3) for b in range(3)], GLYPHS.active(arch), strict=True))
    for name, gradient in found[1].items():
        active = all(keep for prefix, keep in kept.items() if name.startswith(prefix))
        assert bool((gradient != 0).any()) == active, name


def test_gates_between_choices_have_gradients_that_finite_differences_confirm():
    supernet, images, rng = lively().double(), random_images(6).double(), seeded()
    depth = torch.rand(1, 3, 3, generator=rng, dtype=torch.float64).softmax(-1)
    width = torch.rand(1, 9, 5, generator=rng, dtype=torch.float64).softmax(-1)
    along = [torch.randn(gates.shape, generator=rng, dtype=torch.float64) for gates in (depth, width)]
    weights = torch.randn(6, CLASSES, generator=rng)

    def value(step):
        logits = supernet.forward_gated(images, depth + step * along[0], width + step * along[1], Statistics())
        return (logits[0] * weights).double().sum()

    step = torch.tensor(0.0, requires_grad=True, dtype=torch.float64)
    (slope,) = torch.autograd.grad(value(step), step)
    with torch.no_grad():
        difference = (value(1e-5) - value(-1e-5)) / 2e-5
    assert slope.abs() > 1
    torch.testing.assert_close(slope, difference, rtol=0.05, atol=0)  # logits are float32, and ReLUs have kinks
