"""One source of truth for slicing: gated == sliced == extracted == the plain network, in gradients too; exact costs."""

import pytest
import reference
import torch
from cases import (
    GLYPHS,
    LITE,
    ODD,
    SIZED_MOBILENET,
    SMALL,
    check_space,
    lively,
    random_bytes,
    random_images,
    seeded,
)
from torch import nn

from eas.data import Split
from eas.evaluation import calibrate
from eas.layers import CalibratedStatistics, FixedStatistics, Statistics
from eas.spaces import PreResNet, PreResNetSpace
from eas.spaces.preresnet import ElasticBlock, ElasticPreResNet
from eas.spaces.supernet import Supernet

CLASSES = 12
STRIDED = PreResNetSpace(21, 3, widths=(4, 8), depths=(1, 2), ratios=(0.5, 1.0), stem_stride=2)
ONE_DEEP = PreResNetSpace(16, 1, widths=(8, 16), depths=(1,), ratios=(0.25, 0.5, 1.0))
COARSE = PreResNetSpace(21, 3, widths=(4, 8), depths=(1, 2), ratios=(0.5, 1.0), stem_stride=4)


def new(space=GLYPHS):
    return lively(space, CLASSES)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def calibrated(supernet, arch, count=8):
    return calibrate(supernet, arch, Split(random_bytes(count), torch.zeros(count).long()))


def gradients(supernet):
    return {name: parameter.grad for name, parameter in supernet.named_parameters()}


# -------------------------------------------------------------------- one network, four forms, at its cost


@pytest.mark.parametrize(
    ("space", "count"), [(GLYPHS, 40), (ODD, 25), (SMALL, 15), (ONE_DEEP, 8), (STRIDED, 10), (COARSE, 10)]
)
def test_gated_sliced_and_extracted_are_the_same_network_at_the_cost_of_the_space(space, count):
    check_space(space, count)


@pytest.mark.parametrize("space", [GLYPHS, ODD, STRIDED, COARSE])
@torch.no_grad()
def test_the_largest_arch_is_the_plain_network(space):
    supernet, images = new(space), random_images(8, space)
    inner = [[width] * space.blocks_per_stage for width in space.widths]
    plain = PreResNet(space, inner, CLASSES)
    missing = plain.load_state_dict(supernet.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.split(".")[-1].startswith(("running_", "num_batches")) for key in missing.missing_keys)
    close(supernet(images, space.largest, Statistics()), plain.train()(images))
    statistics = CalibratedStatistics()
    close(supernet(images, space.largest, statistics), plain(images))
    plain.load_state_dict(supernet.extract(space.largest, range(CLASSES), statistics).state_dict())
    close(supernet(images, space.largest, FixedStatistics(statistics.recorded)), plain.eval()(images))


def test_madds_of_a_case_worked_out_by_hand():
    space = PreResNetSpace(8, 1, widths=(4, 6), depths=(1, 2), ratios=(0.5, 1.0))
    arch = torch.tensor([0, 1, 1, 0, 0, 1])  # inner channels [4], [3, 6]
    stem = 9 * 1 * 4 * 64
    first = 9 * (4 * 4 + 4 * 4) * 64
    second = (9 * (4 * 3 + 3 * 6) + 4 * 6) * 16 + 9 * (6 * 6 + 6 * 6) * 16
    assert space.describe(arch) == [[4], [3, 6]]
    assert space.madds(arch, 5) == stem + first + second + 6 * 5
    norms = 2 * (4 + 4) + 2 * (4 + 3) + 2 * (6 + 6) + 2 * 6
    weights = 9 * 4 + 9 * 32 + 9 * (12 + 18) + 24 + 9 * 72
    assert space.parameters(arch, 5) == weights + norms + (6 + 1) * 5


def test_resolution_halves_and_rounds_up_and_no_block_is_without_channels():
    assert [GLYPHS.resolution(stage) for stage in range(3)] == [16, 8, 4]
    assert [ODD.resolution(stage) for stage in range(3)] == [15, 8, 4]
    assert ODD.inner_channels[0].tolist() == [1, 4, 10]  # of 0.5, 4 and 10
    assert GLYPHS.describe(GLYPHS.largest) == [[8] * 3, [16] * 3, [32] * 3]
    assert GLYPHS.describe(GLYPHS.smallest) == [[2], [4], [8]]
    assert GLYPHS.form_names()[0] == ["2", "3", "4", "6", "8"] and GLYPHS.form_sizes()[-1].tolist()[-1] == 1
    assert ODD.stage_names()[1] == "stage 2, 8 x 8 pixels"
    assert [STRIDED.resolution(stage) for stage in range(2)] == [11, 6]
    assert [COARSE.resolution(stage) for stage in range(2)] == [6, 3]
    assert STRIDED.recipe.build(21, 3) == STRIDED


# -------------------------------------------------------------------- what is extracted


def test_extracted_weights_are_slices_of_the_supernet():
    supernet, arch, classes = new(), GLYPHS.sample(1, seeded(5))[0], [7, 2, 11]
    network = supernet.extract(arch, classes, calibrated(supernet, arch))
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
    supernet, images, statistics = new(), random_images(4), CalibratedStatistics()
    supernet(images, GLYPHS.largest, statistics)
    network = supernet.extract(GLYPHS.largest, range(CLASSES), statistics)
    before = network(images)
    moments = [moment for both in statistics.recorded.values() for moment in both]
    for tensor in (*supernet.parameters(), *supernet.buffers(), *moments):
        tensor.zero_()
    assert torch.equal(network(images), before)


@pytest.mark.parametrize("classes", [[3], [11, 4, 8, 0]])
def test_extracting_classes_picks_their_rows_in_that_order(classes):
    supernet, images, arch = new(), random_images(6), GLYPHS.sample(1, seeded(1))[0]
    statistics = calibrated(supernet, arch)
    everything = supernet.extract(arch, range(CLASSES), statistics)(images)
    found = supernet.extract(arch, classes, statistics)(images)
    assert found.shape == (6, len(classes))
    torch.testing.assert_close(found, everything[:, classes])


# -------------------------------------------------------------------- the supernet itself


def test_a_supernet_normalises_its_images():
    space = PreResNetSpace(16, 3, widths=(8,), depths=(1,), ratios=(1.0,))
    supernet, images = space.supernet(CLASSES, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]), torch.rand(2, 3, 16, 16)
    by_hand = torch.stack([(images[:, c] - (c + 1) / 10) / (0.5 + c / 10) for c in range(3)], 1)
    torch.testing.assert_close(supernet.first_layer(images), supernet.stem(by_hand))


def test_equal_seeds_give_equal_supernets(space, hierarchy, dataset, supernet):
    torch.manual_seed(0)
    again = space.supernet(len(hierarchy.classes), dataset.mean, dataset.std)
    assert all(map(torch.equal, supernet.state_dict().values(), again.state_dict().values()))
    assert supernet.classifier.out_features == 160


def test_canonical_archs_are_the_same_network():
    supernet, images, arch = new(), random_images(4), GLYPHS.smallest.clone()
    arch[GLYPHS.stages + 1] = 3  # the width of a block that is not kept
    assert not torch.equal(GLYPHS.canonical(arch), arch)
    one, other = (supernet(images, row, Statistics()) for row in (arch, GLYPHS.canonical(arch)))
    assert torch.equal(one, other)
    close(*(supernet.forward_gated(images, *GLYPHS.gates(row), Statistics()) for row in (arch, GLYPHS.smallest)))


def test_a_supernet_that_begins_as_identity_is_its_shortcuts_alone():
    supernet, images = new(), random_images(6)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.begin_as_identity()
    changed = [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(changed) == GLYPHS.blocks and all(name.endswith("conv2.weight") for name in changed)
    largest, smallest = (supernet(images, arch, Statistics()) for arch in (GLYPHS.largest, GLYPHS.smallest))
    torch.testing.assert_close(largest, smallest)
    largest.square().sum().backward()
    assert set(changed) < {name for name, gradient in gradients(supernet).items() if (gradient != 0).any()}


@torch.no_grad()
def test_archs_that_share_a_stem_get_what_each_gets_alone():
    supernet, images = new(), random_images(5)
    archs = torch.cat([GLYPHS.sample(8, seeded(3)), GLYPHS.smallest[None]])
    stem = supernet.run_stem(images, archs, Statistics())
    assert len({supernet.first_inner(arch) for arch in archs}) > 3
    assert supernet.run_stem(images, archs[-1:], Statistics())[1].shape[1] == supernet.first_inner(archs[-1])
    for arch in archs:
        part = supernet.stem_part(stem, arch)
        assert part[1].shape[1] == supernet.first_inner(arch)
        close(supernet.run_rest(part, arch, Statistics()), supernet(images, arch, Statistics()))


def test_convolutions_begin_as_he_has_it_by_their_fan_out():
    torch.manual_seed(0)
    space = PreResNetSpace(16, 1, widths=(8, 128), depths=(1,), ratios=(1.0,))
    for network in (space.supernet(CLASSES, [0.5], [0.5]), space.network(space.largest, CLASSES)):
        for layer, fan in ((network.stages[1][0].conv1, 128 * 9), (network.stages[1][0].shortcut, 128)):
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.1)


class ByGates(ElasticPreResNet):
    """What a supernet may leave out, left out."""

    run_stem, stem_part, run_rest = Supernet.run_stem, Supernet.stem_part, Supernet.run_rest


@torch.no_grad()
def test_a_supernet_that_says_nothing_of_slices_runs_by_gates():
    supernet, images = new(), random_images(5)
    slow = ByGates(GLYPHS, CLASSES, [0.4], [0.2])
    slow.load_state_dict(supernet.state_dict())
    for arch in GLYPHS.sample(3, seeded()):
        close(slow(images, arch, Statistics()), supernet(images, arch, Statistics()))
    assert slow.to("meta")(images.to("meta"), GLYPHS.smallest, Statistics()).device.type == "meta"


# -------------------------------------------------------------------- gates and gradients


@pytest.mark.parametrize("space", [GLYPHS, SIZED_MOBILENET, LITE], ids=["preresnet", "mobilenetv3", "lite"])
def test_gates_are_applied_on_the_device_of_the_network_where_the_tables_of_the_space_are_not(space):
    depth, form, *_ = (gates.to("meta") for gates in space.gates(space.largest))
    images = random_images(4, space).to("meta")
    logits = lively(space, CLASSES).to("meta").forward_gated(images, depth, form, Statistics())
    assert logits.device.type == "meta" and logits.shape == (4, CLASSES)


def test_gates_are_cumulative_probabilities_times_that_of_the_block():
    depth = torch.tensor([0.2, 0.3, 0.5]).expand(3, 3)
    form = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]).expand(9, 5)
    gates = new().channel_gates(depth, form)
    first = torch.tensor([1, 1, 0.9, 0.7, 0.4, 0.4, 0.15, 0.15])  # widths 2, 3, 4, 6 and 8
    torch.testing.assert_close(gates[0, :8], first)
    torch.testing.assert_close(gates[1, :8], 0.8 * first)
    torch.testing.assert_close(gates[8, ::4], 0.5 * first)
    assert gates.shape == (9, 32) and (gates[0, 8:] == 0).all()


@pytest.mark.parametrize("space", [GLYPHS, ODD])
def test_gates_on_weights_are_gates_on_feature_maps(space):
    supernet, images, rng = new(space), random_images(6, space), seeded()
    relaxed = [torch.rand(gates.shape, generator=rng).mul(4).softmax(-1) for gates in space.gates(space.largest)]
    found = []
    for forward in (supernet.forward_gated, lambda *args: reference.forward_gated(supernet, *args)):
        depth, form = (each.clone().requires_grad_() for each in relaxed)
        supernet.zero_grad()
        logits = forward(images, depth, form, Statistics())
        logits.square().sum().backward()
        found.append([logits, depth.grad, form.grad, *gradients(supernet).values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_sliced_and_gated_have_the_same_gradients(seed):
    supernet, images, labels, arch = new(), random_images(8), torch.arange(8), GLYPHS.sample(1, seeded(seed))[0]
    found = []
    for forward in (
        lambda: supernet(images, arch, Statistics()),
        lambda: supernet.forward_gated(images, *GLYPHS.gates(arch), Statistics()),
    ):
        for parameter in supernet.parameters():
            parameter.grad = torch.zeros_like(parameter)
        nn.functional.cross_entropy(forward(), labels).backward()
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
    supernet, images, rng = new().double(), random_images(6).double(), seeded()
    depth = torch.rand(3, 3, generator=rng, dtype=torch.float64).softmax(-1)
    form = torch.rand(9, 5, generator=rng, dtype=torch.float64).softmax(-1)
    along = [torch.randn(gates.shape, generator=rng, dtype=torch.float64) for gates in (depth, form)]
    weights = torch.randn(6, CLASSES, generator=rng)

    def value(step):
        logits = supernet.forward_gated(images, depth + step * along[0], form + step * along[1], Statistics())
        return (logits * weights).double().sum()

    step = torch.tensor(0.0, requires_grad=True, dtype=torch.float64)
    (slope,) = torch.autograd.grad(value(step), step)
    with torch.no_grad():
        difference = (value(1e-5) - value(-1e-5)) / 2e-5
    assert slope.abs() > 1
    torch.testing.assert_close(slope, difference, rtol=0.05, atol=0)  # logits are float32, and ReLUs have kinks


def test_a_block_at_gate_zero_passes_its_shortcut():
    block, x = ElasticBlock(6, 6, stride=1), torch.randn(4, 6, 8, 8, generator=seeded())
    whole = block(x, Statistics())
    assert torch.equal(block(x, Statistics(), gate=torch.zeros(6)), x)
    torch.testing.assert_close(block(x, Statistics(), gate=torch.ones(6)), whole)
    torch.testing.assert_close(block(x, Statistics(), gate=torch.full((6,), 0.5)), (x + whole) / 2)


def test_a_channel_at_gate_zero_adds_nothing_and_gets_no_gradient():
    block, x = ElasticBlock(4, 6, stride=2), torch.randn(5, 4, 8, 8, generator=seeded())
    gate = (torch.arange(6) < 2).float()
    gated = block(x, Statistics(), gate=gate)
    torch.testing.assert_close(gated, block(x, Statistics(), inner=2))
    gated.square().sum().backward()
    for gradient in (block.conv1.weight.grad, block.norm2.weight.grad, block.norm2.bias.grad):
        assert (gradient[2:] == 0).all() and (gradient[:2] != 0).any()
    assert (block.conv2.weight.grad[:, 2:] == 0).all() and (block.conv2.weight.grad[:, :2] != 0).any()
    with torch.no_grad():
        block.conv1.weight[2:] = 99
        block.conv2.weight[:, 2:] = 99
    torch.testing.assert_close(block(x, Statistics(), gate=gate), gated)
