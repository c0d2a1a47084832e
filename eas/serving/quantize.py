"""Exported networks in 8-bit integers: a third of the bytes, and faster where a processor has instructions for them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eas.serving.onnx_files import as_onnx, require

CALIBRATED = 128  # images that the ranges of activations are taken from, at most
BATCH = 16


class Reader:
    """What onnxruntime asks for images, [n, size, size, channels] in batches."""

    def __init__(self, images: np.ndarray):
        self.batches = iter([{"images": batch} for batch in np.split(images, range(BATCH, len(images), BATCH))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantized(model: bytes, images: Tensor) -> bytes:
    """An ONNX model of `as_onnx` in 8-bit integers, by onnxruntime: static, weights by channel, ranges the widest.

    Weights use seven of the bits: processors without instructions for this (x86-64 before VNNI) add up two products in
    16 bits, which cuts sums of eight-bit weights off. On one of these that took 3 points of CIFAR-100's networks.

    `images` uint8 [n, channels, size, size] are such as it will see: ranges are taken from CALIBRATED of them.
    ModuleNotFoundError where a package is missing.
    """
    require("onnx", "onnxruntime")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:CALIBRATED]
    seen = images[rows].permute(0, 2, 3, 1).contiguous().numpy()
    with tempfile.TemporaryDirectory() as folder, silent():
        source, ready, target = (Path(folder) / name for name in ("source.onnx", "ready.onnx", "target.onnx"))
        source.write_bytes(model)
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            target,
            Reader(seen),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return target.read_bytes()


@contextmanager
def silent() -> Iterator[None]:
    """Without what onnxruntime's quantisation logs of every layer that it leaves as it is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def random_quantized(network: nn.Module, channels: int, pixels: int, least_odds: float | None = None) -> bytes:
    """A network in 8-bit integers, calibrated on noise: as fast as on images, for what is only timed."""
    noise = np.random.default_rng(0).integers(256, size=(BATCH, channels, pixels, pixels), dtype=np.uint8)
    return quantized(as_onnx(network, channels, pixels, least_odds), torch.from_numpy(noise))
