"""Specialised networks for runtimes without torch."""

import json
import sys
import warnings
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest
import torch
from tiny_kit import make_kit

from eas import export_onnx
from eas.data.batches import as_input
from eas.files import sealed
from eas.serving import deploy
from eas.serving.onnx_files import CHECKED, OPERATORS, OnnxNetwork, as_onnx, checked_shapes, session_of
from eas.serving.quantize import random_quantized
from eas.spaces import EfficientNetLiteSpace


@pytest.fixture
def kit(supernet, dataset):
    return make_kit(supernet, dataset)


NAMES = ["digits", "arrows", "Α"]


@pytest.mark.parametrize("budget", [2.5e5, 5e5, 2e6])
def test_an_onnx_runtime_gives_the_same_logits(kit, dataset, tmp_path, budget):
    network, card = kit.specialize(NAMES, budget)
    path = export_onnx(network, card, tmp_path / "deep" / "v1.0")
    assert [path] == list((tmp_path / "deep").iterdir()) and path.name == "v1.0.onnx"
    session = onnxruntime.InferenceSession(path)
    for count in (1, 2, 50):
        images = dataset.test.images[:count]
        (logits,) = session.run(["logits"], {"images": images.permute(0, 2, 3, 1).numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(logits), network(as_input(images)), rtol=1e-4, atol=1e-4)


def test_a_network_that_was_loaded_is_exported_as_well(kit, tmp_path):
    network, card = kit.specialize(NAMES, 5e5)
    deploy.save(network, card, tmp_path / "network")
    first = export_onnx(network, card, tmp_path / "first").read_bytes()
    again = export_onnx(*deploy.load(tmp_path / "network"), tmp_path / "again").read_bytes()
    assert first == again


def test_an_onnx_file_is_valid_and_says_what_it_is(kit, tmp_path):
    network, card = kit.specialize(NAMES, 5e5)
    path = export_onnx(network, card, tmp_path / "network")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    said = session.get_modelmeta().custom_metadata_map
    said = {name: json.loads(value) for name, value in said.items()}
    assert said.pop("input") == "uint8 [n, 16, 16, 1]: grey, 0 to 255; the centre square, scaled (bicubic)"
    content, seal = path.read_bytes(), said.pop("sha256")
    assert sha256(content.replace(seal.encode(), b"0" * 64)).hexdigest() == seal and sealed(content, seal) == content
    assert len(said.pop("check")) == CHECKED and said == card.model_dump(mode="json")
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", ["n", 16, 16, 1], "tensor(uint8)")
    assert (logits.name, logits.shape) == ("logits", ["n", len(card.classes)])


@pytest.mark.parametrize("wrong", ["range", "layout"])
def test_images_of_another_range_or_layout_are_refused_by_the_runtime(kit, dataset, tmp_path, wrong):
    session = onnxruntime.InferenceSession(export_onnx(*kit.specialize(NAMES, 5e5), tmp_path / "network"))
    right = dataset.test.images[:2].permute(0, 2, 3, 1).numpy()
    session.run(["logits"], {"images": right})
    images = {"range": right.astype("float32") / 255, "layout": dataset.test.images[:2].numpy()}[wrong]
    with pytest.raises(Exception, match=r"[Uu]nexpected input data type|[Gg]ot invalid dimensions"):
        session.run(["logits"], {"images": images})


def test_an_onnx_file_names_no_path_of_the_machine_that_wrote_it(kit, tmp_path):
    content = export_onnx(*kit.specialize(NAMES, 5e5), tmp_path / "network").read_bytes()
    for path in (deploy.__file__, torch.__file__, str(tmp_path)):
        assert str(Path(path).parent).encode() not in content
    assert b".py" not in content


def test_exporting_says_nothing_and_leaves_the_network_as_it_was(kit, tmp_path, capfd):
    network, card = kit.specialize(NAMES, 5e5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(network, card, tmp_path / "network")
    assert capfd.readouterr() == ("", "") and not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_without_its_package_onnx_is_an_error_that_says_how_to_install_it(kit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'eas\[onnx\]'") as caught:
        export_onnx(*kit.specialize(NAMES, 5e5), tmp_path / "network")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [as_onnx, random_quantized], ids=["float", "int8"])
def test_the_size_of_every_layer_is_told_also_where_sides_are_padded_unequally(export):
    """EfficientNet-Lite0's, which networks for one's own photographs are of."""
    space = EfficientNetLiteSpace(64, 3)
    network = space.network(space.smallest, 5).eval()
    model = onnx.load_model_from_string(export(network, 3, 64))
    kinds = {node.op_type for node in model.graph.node}
    assert ("Pad" in kinds) == (export is as_onnx) and kinds <= set(OPERATORS.split())  # 8 bits: part of convolutions
    shapes = checked_shapes(model, SimpleNamespace(image_size=64, in_channels=3))
    assert shapes["logits"] == [1, 5] and all(0 not in shape for shape in shapes.values())
    if export is as_onnx:
        images = torch.rand(3, 3, 64, 64).mul(255).round()
        said = OnnxNetwork(session_of(model.SerializeToString()))(images / 255)
        torch.testing.assert_close(said, network(images / 255), rtol=1e-4, atol=1e-4)
