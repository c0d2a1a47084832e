"""Networks in 8-bit integers."""

import dataclasses
import logging
import sys

import pytest
import torch
from tiny_kit import make_kit, write_tiny_kit

import eas
from eas import export_onnx, load_kit, predict
from eas.data.batches import as_input
from eas.serving import cli, deploy
from eas.serving.onnx_files import OnnxNetwork, as_onnx, session_of
from eas.serving.quantize import quantized
from eas.serving.verify import verify


@pytest.fixture
def kit(supernet, dataset):
    return make_kit(supernet, dataset)


@pytest.mark.parametrize("refuse", [False, True])
def test_a_network_in_integers_says_nearly_the_same(kit, dataset, tmp_path, refuse):
    network, card = kit.specialize("arrows", 1e6, refuse=refuse)
    own = dataset.train.only(kit.hierarchy.class_mask(["arrows"])).images
    path = export_onnx(network, card, tmp_path / "network.int8", int8=own)
    assert path.stat().st_size < export_onnx(network, card, tmp_path / "network").stat().st_size
    small, read = deploy.load(path)
    assert read == card
    images = dataset.test.only(kit.hierarchy.class_mask(["arrows"])).images[:200]
    with torch.inference_mode():
        exact = network(as_input(images))
    near = small(as_input(images))
    assert not torch.equal(near, exact)
    assert torch.corrcoef(torch.stack([near.flatten(), exact.flatten()]))[0, 1] > 0.98
    assert (near.argmax(1) == exact.argmax(1)).float().mean() > 0.75  # it is not trained: logits are close
    assert len(predict(small, read, images)) == len(images)
    assert verify(path).as_exported < 1e-3  # its check holds its own answers


def test_calibrating_on_other_images_gives_other_ranges(kit, dataset):
    network, card = kit.specialize("arrows", 1e6)
    content = as_onnx(network, card.in_channels, card.image_size)
    light, dark = dataset.train.images, dataset.train.images[:50] // 8
    first, again, other = (quantized(content, images) for images in (light, light, dark))
    images = as_input(dataset.test.images[:20])
    logits = [OnnxNetwork(session_of(each))(images) for each in (first, again, other)]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_weights_use_seven_bits_as_sums_of_two_products_have_sixteen(kit, dataset):
    onnx = pytest.importorskip("onnx")
    network, card = kit.specialize("arrows", 1e6)
    content = quantized(as_onnx(network, card.in_channels, card.image_size), dataset.train.images[:20])
    tensors = onnx.load_from_string(content).graph.initializer
    arrays = [onnx.numpy_helper.to_array(each) for each in tensors]
    weights = [each for each in arrays if each.ndim == 4 and each.dtype.name == "int8"]
    assert len(weights) > 3 and max(abs(each.astype(int)).max() for each in weights) == 64  # 2 * 64 * 255 < 2**15


def test_quantising_says_nothing_and_leaves_logging_as_it_was(kit, dataset, capfd):
    network, card = kit.specialize("arrows", 1e6)
    quantized(as_onnx(network, card.in_channels, card.image_size), dataset.train.images[:20])
    assert capfd.readouterr() == ("", "") and logging.root.manager.disable == logging.NOTSET


def test_without_its_packages_it_is_an_error_that_says_how_to_install_them(kit, dataset, monkeypatch):
    network, card = kit.specialize("arrows", 1e6)
    content = as_onnx(network, card.in_channels, card.image_size)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'eas\[onnx\]'"):
        quantized(content, dataset.train.images[:20])


def test_a_command_writes_it_and_its_card_says_what_it_reaches_itself(kit, dataset, tmp_path, capsys, monkeypatch):
    (tmp_path / "kit").mkdir()
    folder, target = write_tiny_kit(tmp_path / "kit", kit, dataset), tmp_path / "network"
    tested = dataclasses.replace(load_kit(folder), test=dataset.test)
    monkeypatch.setattr(eas, "load_kit", lambda path: tested)
    arguments = ["specialize", folder, "arrows", "--madds", "0.5M", "--int8", "--to", target]
    assert cli.main(list(map(str, arguments))) == 0
    said = capsys.readouterr().out
    assert f"wrote {target}.int8.onnx (" in said and " ms, in floats " in said
    integers, card = deploy.load(f"{target}.int8.onnx")
    assert card == tested.tested(integers, card) and card.test and card.strangers.refused_others is not None
    floats = deploy.load(target)[1]
    measured = {"test": floats.test, "strangers": floats.strangers}
    assert card.model_copy(update=measured) == floats == tested.tested(*deploy.load(target))
    assert said.count("none of these: said of") == 2
