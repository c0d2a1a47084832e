"""MobileNetV3: one network in all its forms at its cost, and OFA's own network, tensor by tensor."""

import pytest
import torch
from cases import LITE, check_space, lively, random_bytes, random_images, seeded

from eas import export_onnx
from eas.additive import AdditiveGenerator
from eas.data import Hierarchy, Split
from eas.data.batches import as_input
from eas.layers import CalibratedStatistics, FixedStatistics, Statistics
from eas.serving import deploy
from eas.spaces import SPACES, MobileNetV3Space
from eas.spaces.inverted_residual import make_divisible
from eas.spaces.ofa_weights import load_ofa

TINY = MobileNetV3Space(20, 1, 0.25, depths=(1, 3), kernels=(3, 5, 7), expansions=(1, 2, 4), strides=(1, 1, 2, 2, 1, 2))
FULL = MobileNetV3Space(33, 3)  # an odd side: strides round up
COARSE = MobileNetV3Space(20, 1, 0.25, depths=(1,), kernels=(3,), expansions=(1, 2), strides=(2, 1, 1, 2, 1, 1))
CLASSES = 12


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("space", "count"), [(TINY, 25), (FULL, 6), (COARSE, 4)])
def test_gated_sliced_and_extracted_are_the_same_network_at_the_cost_of_the_space(space, count):
    check_space(space, count)


def test_the_paper_s_budgets_lie_between_the_smallest_and_the_largest_arch():
    space = MobileNetV3Space(224, 3)
    assert [int(space.madds(arch, 1000)) // 10**6 for arch in (space.smallest, space.largest)] == [121, 566]
    assert space.stage_names()[0] == "stage 1, 56 x 56 pixels" and space.form_names()[0][-1] == "7x7, 6"


def test_convolutions_begin_as_he_has_it_by_their_own_fan_out():
    torch.manual_seed(0)
    for network in (FULL.supernet(CLASSES, [0.5] * 3, [0.5] * 3), FULL.network(FULL.largest, CLASSES)):
        block = network.stages[-1][-1]
        for layer, fan in ((block.expand, block.expand.out_channels), (block.depthwise, 7 * 7)):
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("channels", "expected"), [(3, 8), (11.9, 16), (12, 16), (16.8, 16), (18, 24), (19.2, 24)])
def test_channels_are_multiples_of_eight(channels, expected):
    assert make_divisible(channels) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": (3, 4)}, "kernels must be odd, got 4"),
        ({"expansions": (4, 3)}, "expansions must be strictly ascending"),
        ({"strides": (2, 2, 2)}, "strides"),
        ({"width": 0.0}, "width"),
    ],
)
def test_a_recipe_that_makes_no_space_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SPACES["mobilenetv3"](**changes)


@pytest.mark.parametrize(("space", "count"), [(TINY, 2), (LITE, 1)], ids=["shortcut", "no shortcut"])
@torch.no_grad()
def test_archs_that_share_a_stem_get_what_each_gets_alone(space, count):
    supernet, images = lively(space, CLASSES), random_images(6, space)
    archs = torch.stack([space.largest, space.smallest, *space.sample(4, seeded())])
    stem = supernet.run_stem(images, archs, Statistics())
    assert supernet.run_stem(images, archs[1:2], Statistics())[-1].shape[1] == supernet.first_hidden(space.smallest)
    for arch in archs:
        part = supernet.stem_part(stem, arch)
        assert len(part) == len(stem) == count  # the block's input is kept for a shortcut only
        close(supernet.run_rest(part, arch, Statistics()), supernet(images, arch, Statistics()))


def test_sliced_and_gated_have_the_same_gradients():
    for arch in TINY.sample(3, seeded()):
        found = []
        for gated in (False, True):
            supernet, images = lively(TINY, CLASSES).double(), random_images(6, TINY).double()
            forward = (supernet.forward_gated, *TINY.gates(arch)) if gated else (supernet, arch)
            logits = forward[0](images, *(each.double() if gated else each for each in forward[1:]), Statistics())
            logits.square().mean().backward()
            found.append({name: weight.grad for name, weight in supernet.named_parameters()})
        for name, sliced in found[0].items():
            gated = found[1][name]
            close(gated, torch.zeros_like(gated) if sliced is None else sliced)


def test_a_block_at_gate_zero_passes_its_shortcut():
    block = lively(TINY, CLASSES).stages[0][1]
    x, zero, one = torch.randn(4, block.shape.inputs, 8, 8), torch.zeros(()), torch.ones(())
    ones = torch.ones(block.project.in_channels), None
    assert torch.equal(block(x, Statistics(), torch.tensor([0.2, 0.3, 0.5]), gates=(*ones, zero)), x)
    assert not torch.equal(block(x, Statistics(), torch.tensor([0.2, 0.3, 0.5]), gates=(*ones, one)), x)


def test_kernels_begin_as_centres_of_larger_ones():
    layer = lively(TINY, CLASSES).stages[2][1].depthwise
    assert [layer.filters(kernel).shape[-1] for kernel in range(3)] == [3, 5, 7]
    assert torch.equal(layer.filters(0), layer.weight[:, :, 2:5, 2:5])
    assert torch.equal(layer.mixture(torch.tensor([0.0, 1.0, 0.0]), 8)[..., 1:6, 1:6], layer.filters(1, 8))


@pytest.mark.parametrize("space", [TINY, LITE], ids=["mobilenetv3", "efficientnet lite"])
@torch.no_grad()
def test_sorted_channels_leave_the_largest_arch_and_put_the_important_first(space):
    supernet, images = lively(space, CLASSES), random_images(6, space)
    before = [supernet(images, arch, Statistics()) for arch in (space.largest, space.smallest)]
    supernet.sort_channels()
    after = [supernet(images, arch, Statistics()) for arch in (space.largest, space.smallest)]
    close(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-2
    for block in (block for stage in supernet.stages for block in stage):
        importance = block.project.weight.abs().sum((0, 2, 3))
        assert torch.equal(importance, importance.sort(descending=True).values)


@torch.no_grad()
def test_a_supernet_that_begins_as_identity_has_blocks_that_add_nothing():
    supernet, x = lively(TINY, CLASSES), torch.randn(4, 8, 8, 8)
    supernet.begin_as_identity()
    block = supernet.stages[0][1]
    block.project_norm.bias.zero_()
    assert block.shape.residual and torch.equal(block(x, Statistics(), 2), x)


# -------------------------------------------------------------------- OFA's network


def ofa_network(width=1.0):
    """OFA's own network with random weights at which no layer is special."""
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks", exc_type=ImportError)
    choices = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    torch.manual_seed(3)
    network = networks.OFAMobileNetV3(CLASSES, dropout_rate=0, width_mult=width, **choices)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.02)
    return network.eval()


def as_ofa(space, arch):
    """An arch as OFA's set_active_subnet takes it."""
    forms = [(space.kernels[k], space.expansions[e]) for k, e in space.pairs[arch[space.stages :]].tolist()]
    return {"ks": [k for k, _ in forms], "e": [e for _, e in forms], "d": space.depth(arch).tolist()}


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """OFA's network, and a supernet that has read its weights from a file."""
    network, path = ofa_network(), tmp_path_factory.mktemp("ofa") / "ofa_mbv3_d234_e346_k357_w1.0"
    torch.save({"state_dict": network.state_dict()}, path)
    supernet = MobileNetV3Space(64, 3).supernet(CLASSES, [0.0] * 3, [1.0] * 3)
    load_ofa(supernet, path)
    return network, supernet


@pytest.mark.parametrize("side", [64, 96])
@torch.no_grad()
def test_200_archs_of_two_image_sizes_have_ofa_s_logits_and_costs(peers, side):
    from ofa.utils.flops_counter import profile

    (network, supernet), space, rng = peers, MobileNetV3Space(side, 3), seeded(side)
    images = torch.rand(6, 3, side, side, generator=rng)
    for index, arch in enumerate([space.largest, space.smallest, *space.sample(98, rng)]):
        network.train().set_active_subnet(**as_ofa(space, arch))
        close(network(images), supernet(images, arch, Statistics()))
        if index % 10 == 0:
            madds, parameters = profile(network.get_active_subnet(), (1, 3, side, side))
            assert (space.madds(arch, CLASSES), space.parameters(arch, CLASSES)) == (madds, parameters)


@torch.no_grad()
def test_calibrated_as_ofa_does_it_they_are_the_same_networks(peers):
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    (network, supernet), space, rng = peers, MobileNetV3Space(96, 3), seeded()
    images, others = torch.rand(2, 12, 3, 96, 96, generator=rng)
    for arch in space.sample(5, rng):
        network.set_active_subnet(**as_ofa(space, arch))
        set_running_statistics(network, [(images, None)])
        statistics = CalibratedStatistics()
        supernet(images, arch, statistics)
        expected = network.eval()(others)
        close(expected, supernet(others, arch, FixedStatistics(statistics.recorded)))
        close(expected, supernet.extract(arch, range(CLASSES), statistics)(others))


@pytest.mark.parametrize("width", [0.5, 1.2])
@torch.no_grad()
def test_other_widths_are_ofa_s_too(width, tmp_path):
    network, path, space = ofa_network(width=width), tmp_path / "weights", MobileNetV3Space(48, 3, width)
    older = {name.replace(".conv.", ".mobile_inverted_conv.", 1): each for name, each in network.state_dict().items()}
    torch.save(older if width > 1 else network.state_dict(), path)
    supernet = space.supernet(CLASSES, [0.0] * 3, [1.0] * 3)
    load_ofa(supernet, path)
    images = torch.rand(6, 3, 48, 48, generator=seeded())
    for arch in (space.largest, space.smallest, *space.sample(3, seeded())):
        network.set_active_subnet(**as_ofa(space, arch))
        close(network.train()(images), supernet(images, arch, Statistics()))


def test_a_file_that_is_no_checkpoint_of_the_space_is_told_of_in_one_line(peers, tmp_path):
    network, _ = peers
    supernet, path = MobileNetV3Space(64, 3, 1.2).supernet(CLASSES, [0.0] * 3, [1.0] * 3), tmp_path / "weights"
    with pytest.raises(FileNotFoundError, match="weights is missing"):
        load_ofa(supernet, path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="weights is no checkpoint of OFA's MobileNetV3: "):
        load_ofa(supernet, path)
    torch.save(network.state_dict(), path)
    with pytest.raises(ValueError, match=r"weights is of another network: .* in place of .*: look at the space"):
        load_ofa(supernet, path)
    torch.save({"blocks.1.conv.depth_conv.conv.13to11_matrix": torch.eye(121)}, path)
    with pytest.raises(ValueError, match="weights is no checkpoint"):
        load_ofa(supernet, path)


def test_a_classifier_of_other_classes_is_left_as_it_is(peers, tmp_path):
    network, _ = peers
    torch.save(network.state_dict(), tmp_path / "weights")
    supernet = MobileNetV3Space(64, 3).supernet(3, [0.0] * 3, [1.0] * 3)
    before = supernet.classifier.weight.clone()
    load_ofa(supernet, tmp_path / "weights")
    assert torch.equal(supernet.classifier.weight, before)
    assert torch.equal(supernet.mix.weight, network.feature_mix_layer.conv.weight.flatten(1))


# -------------------------------------------------------------------- from a scenario to files


def test_a_specialised_network_keeps_its_budget_and_goes_through_files_and_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    hierarchy = Hierarchy.from_groups({"one": ["a", "b", "c"], "two": ["d", "e"]})
    supernet, images = lively(TINY, 5).requires_grad_(False), random_bytes(40, TINY)
    generator, mask = AdditiveGenerator(TINY, 5), hierarchy.class_mask(["one"])
    budget = float(TINY.madds(TINY.smallest, 3)) * 1.4
    parts = (supernet, generator, hierarchy, mask, budget, Split(images, torch.arange(40) % 5))
    network, card = deploy.specialize(*parts, synthetic=True)
    assert card.space.kind == "mobilenetv3" and card.madds <= budget and card.classes == ("a", "b", "c")
    deploy.save(network, card, tmp_path / "network")
    again, read = deploy.load(tmp_path / "network")
    path = export_onnx(network, card, tmp_path / "network")
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"images": images.permute(0, 2, 3, 1).numpy()})
    with torch.inference_mode():
        expected = network(as_input(images))
        assert read == card and torch.equal(again(as_input(images)), expected)
    close(torch.from_numpy(logits), expected)
