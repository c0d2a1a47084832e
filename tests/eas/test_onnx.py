"""Specialised networks for runtimes without torch."""

import json
import sys
import warnings
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from tiny_kit import make_kit

from eas import export_onnx
from eas.serving import deploy


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
        images = dataset.test.images[:count].float() / 255
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-4)


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
    assert {name: json.loads(value) for name, value in said.items()} == card.model_dump(mode="json")
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", ["n", 1, 16, 16], "tensor(float)")
    assert (logits.name, logits.shape) == ("logits", ["n", len(card.classes)])


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
