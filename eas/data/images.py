"""How an image file becomes pixels: the same for images to learn from and for those that a network is shown."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from eas.files import reason

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # Pillow runs other programs for some others, as for EPS
MOST_PIXELS = 50_000_000  # that are decoded: a few hundred MB
MODES = {1: "L", 3: "RGB"}  # by number of channels

# Of damage, and of many pixels, Pillow warns in lines of its own; here a file is read, or refused in one line.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_pixels(path: str | Path | BinaryIO, size: int, channels: int = 3) -> Tensor:
    """An image file, or what of one is in memory, as uint8 [channels, size, size].

    Upright (EXIF), in colour or grey, the centre cut out, which is as wide as the shorter side, and scaled (bicubic).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; one line that names it.
    """
    named = isinstance(path, str | Path)
    if named and not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        with Image.open(path, formats=FORMATS) as file:
            whole = file.size
            file.draft(None, (2 * size, 2 * size))  # a large JPEG file is decoded at a half, a quarter or an eighth
            width, height = whole if "progressive" in file.info else file.size  # of which all is held nevertheless
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels are too many: scale it down")
            image, kind = ImageOps.exif_transpose(file), file.format
        pixels = np.array(in_bytes(image, kind).convert(MODES[channels]))
    except Exception as err:  # damage makes Pillow's readers raise all kinds
        what = path if named else "what was given"
        raise ValueError(f"{what} is no image that can be read: {reason(err)}") from None
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side].reshape(1, side, side, channels)
    image = torch.from_numpy(square).permute(0, 3, 1, 2)
    if side != size:  # torch's is several times as fast as Pillow's
        image = F.interpolate(image, (size, size), mode="bicubic", align_corners=False, antialias=True)
    return image[0]


def in_bytes(image: Image.Image, kind: str) -> Image.Image:
    """The image of a kind of file, of 16 bits the upper 8, which Pillow would cut off at 255.

    ValueError where a TIFF file has floats, or 32 bits: nobody knows what of these is white.
    """
    if image.mode == "F" or (image.mode == "I" and kind == "TIFF"):
        raise ValueError(f"its values are no colours of 8 or 16 bits (Pillow's mode {image.mode})")
    return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)) if image.mode.startswith("I") else image
