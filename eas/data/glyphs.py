"""The glyphs data set: characters of ten writing systems, which every machine draws for itself.

The characters come from the DejaVu fonts inside matplotlib, so nothing is downloaded. A writing system is a
superclass and a character a class. Look-alikes of different systems (A, Α, А or 0, O, Ο, О, Օ) are there on purpose:
only the superclass tells them apart, so a network for one superclass has an easier task than one for all.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from eas.data.base import SOURCES, Hierarchy, Source, Split

SUPERCLASSES: dict[str, str] = {
    "digits": "0123456789",
    "latin capitals": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "latin small": "abdeghkmnoqrty",
    "greek": "ΑΒΓΔΕΘΛΞΟΠΡΣΦΧΨΩ",
    "cyrillic": "АБВДЖЗИЛОПРФЧЯ",
    "armenian": "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ",
    "georgian": "აბგდევზთიკლ",
    "arrows": "←↑→↓↔↕↶↷",
    "operators": "÷=≠≈≤≥±∑√∂∈",
    "signs": "&@#%?!§¶$€£¥",
}

# Families and weights are all known from training, but never together. An oblique is a sheared upright, and both share
# their arrows: the two always go to the same side, or the distortion would turn a training image into a test image.
TRAIN_TYPEFACES: tuple[str, ...] = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
)
TEST_TYPEFACES: tuple[str, ...] = (
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
)

TEMPLATE = 64  # side of an undistorted glyph, in pixels
FILL = 0.75  # share of the side that the longer side of a glyph takes up
OVERSAMPLING = 3  # glyphs are distorted at this multiple of the image size, then averaged: smooth edges


@SOURCES.register
class Glyphs(Source):
    """Every character in every typeface, `per_typeface` times; test images are of typefaces of their own."""

    kind: Literal["glyphs"] = "glyphs"
    image_size: Annotated[int, Field(ge=8, le=TEMPLATE)]
    per_typeface: Annotated[int, Field(gt=0, le=1000)] = 1
    about = (
        "*Images: **glyphs**, a synthetic data set. Characters of ten writing systems (the superclasses), "
        "rendered from the DejaVu typefaces with random distortion and noise; the test images use typefaces kept out "
        "of training. What holds here need not hold on photographs.*"
    )
    synthetic = True

    def hierarchy(self, root: str | Path = ".") -> Hierarchy:
        return Hierarchy.from_groups(SUPERCLASSES)

    def load(self, root: str | Path = ".") -> tuple[Split, Split]:
        shape = {"image_size": self.image_size, "per_typeface": self.per_typeface}
        train = Split(*render(TRAIN_TYPEFACES, seed=self.seed, **shape))
        return train, Split(*render(TEST_TYPEFACES, seed=self.seed + 1, **shape))


def render(
    typefaces: Sequence[str],
    *,
    image_size: int,
    per_typeface: int,
    seed: int,
    superclasses: Mapping[str, str] = SUPERCLASSES,
    distortion: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw every character `per_typeface` times in every typeface, each time distorted at random.

    The images are ordered by typeface, then by copy, then by class. A typeface's copies depend on nothing but the
    seed, its name and the other arguments: more typefaces or more copies leave the images that were there unchanged.

    Args:
        typefaces: File stems of fonts that matplotlib ships.
        seed: Not negative; equal seeds give equal images.
        superclasses: Superclass name to its characters, no character twice.
        distortion: Scales all distortions; 0 gives clean, centred, light glyphs on black.

    Returns uint8 images [N, 1, image_size, image_size] and int64 labels [N], classes numbered in the order of the
    superclasses, N = classes * len(typefaces) * per_typeface. ValueError, in one line, where a number is out of range,
    a typeface unknown or without a character, or the superclasses no hierarchy.
    """
    if image_size < 8 or per_typeface < 1 or seed < 0:
        raise ValueError("image_size must be 8 or more, per_typeface 1 or more and seed not negative")
    if not (math.isfinite(distortion) and distortion >= 0):
        raise ValueError(f"distortion must be finite and not negative, got {distortion}")
    if not typefaces:
        raise ValueError("there must be at least one typeface")
    characters = Hierarchy.from_groups(superclasses).classes
    images = []
    for typeface in typefaces:
        glyphs = templates(typeface, characters)
        for copy in range(per_typeface):
            # The typeface's name is part of the seed, or training and test images of one class would share their noise.
            rng = np.random.default_rng([seed, zlib.crc32(typeface.encode()), copy])
            images.append(distort(glyphs, image_size, distortion, rng))
    labels = torch.arange(len(characters)).repeat(len(typefaces) * per_typeface)
    return torch.cat(images), labels


def font_path(typeface: str) -> Path:
    """The font file of a typeface; ValueError if matplotlib ships none of that name."""
    try:
        import matplotlib  # only who draws needs it
    except ModuleNotFoundError:
        raise ModuleNotFoundError("glyphs are drawn in matplotlib's fonts: pip install 'eas[study]'") from None

    fonts = {path.stem: path for path in (Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf")}
    if typeface not in fonts:
        raise ValueError(f"unknown typeface {typeface!r}; known: {', '.join(TRAIN_TYPEFACES + TEST_TYPEFACES)}")
    return fonts[typeface]


def templates(typeface: str, characters: Sequence[str]) -> torch.Tensor:
    """Clean glyphs as float32 [len(characters), 1, TEMPLATE, TEMPLATE], 0 (paper) to 1 (ink).

    Every glyph is centred and scaled to the same longer side, so that size does not tell a superclass. ValueError where
    the typeface is unknown or lacks a character.
    """
    path = font_path(typeface)
    from matplotlib.ft2font import FT2Font

    covered = FT2Font(str(path)).get_charmap()
    if missing := [char for char in characters if ord(char) not in covered]:
        raise ValueError(f"typeface {typeface!r} does not cover the characters: {' '.join(missing)}")
    # The basic layout is in every build of PIL; the other one is optional.
    font = ImageFont.truetype(str(path), size=2 * TEMPLATE, layout_engine=ImageFont.Layout.BASIC)
    return torch.from_numpy(np.stack([template(font, char) for char in characters]))[:, None] / 255


def template(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """One glyph, float32 [TEMPLATE, TEMPLATE] from 0 to 255, its inked box centred and scaled to FILL."""
    page = Image.new("L", (4 * TEMPLATE, 4 * TEMPLATE))
    ImageDraw.Draw(page).text((2 * TEMPLATE, 2 * TEMPLATE), character, fill=255, font=font, anchor="mm")
    # The font's own box is no use: it spans the space between letters too, more to one side than to the other.
    box = page.getbbox()
    if box is None:
        raise ValueError(f"character {character!r} leaves no ink: only visible characters can be classes")
    glyph = page.crop(box)
    scale = FILL * TEMPLATE / max(glyph.size)
    # Even sides have a whole number of pixels left of the centre and as many right of it.
    width, height = (max(2, 2 * round(side * scale / 2)) for side in glyph.size)
    corner = ((TEMPLATE - width) // 2, (TEMPLATE - height) // 2)
    canvas = Image.new("L", (TEMPLATE, TEMPLATE))
    canvas.paste(glyph.resize((width, height), Image.Resampling.BOX), corner)
    return np.asarray(canvas, dtype=np.float32)


def distort(glyphs: torch.Tensor, image_size: int, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """One random image of each of the `glyphs` [C, 1, TEMPLATE, TEMPLATE]: uint8 [C, 1, image_size, image_size]."""
    count, side = len(glyphs), image_size * OVERSAMPLING
    grid = F.affine_grid(random_affine(count, amount, rng), [count, 1, side, side], align_corners=False)
    ink = F.grid_sample(soften(glyphs), grid, align_corners=False)
    # A blurred glyph is a height map: where the cut is lower the strokes are thicker, and a rough cut frays them.
    cut = 0.42 + amount * uniform(rng, count, -0.20, 0.16) + amount * 0.15 * normal(rng, count, side)
    ink = F.avg_pool2d(((ink - cut) * 8 + 0.5).clamp(0, 1), OVERSAMPLING)
    return paint(ink, amount, rng)


def soften(glyphs: torch.Tensor) -> torch.Tensor:
    """The glyphs blurred over about a stroke's width, so that they can be cut at a chosen thickness."""
    for _ in range(2):
        glyphs = F.avg_pool2d(glyphs, kernel_size=3, stride=1, padding=1)
    return glyphs


def random_affine(count: int, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """Float32 [count, 2, 3] maps from image to glyph coordinates, as `affine_grid` takes them."""
    angle, shear_x, shear_y, shift_x, shift_y = amount * rng.uniform(-1, 1, (5, count))
    angle = np.deg2rad(20 * angle)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(count, 2, 2)
    one = np.ones(count)
    shear = np.stack([one, 0.35 * shear_x, 0.15 * shear_y, one], -1).reshape(count, 2, 2)
    scale = np.exp(amount * rng.uniform(-0.3, 0.3, (count, 2, 1)))
    shift = 0.2 * np.stack([shift_x, shift_y], -1)[..., None]
    return torch.from_numpy(np.concatenate([turn @ shear * scale, shift], axis=2).astype(np.float32))


def paint(ink: torch.Tensor, amount: float, rng: np.random.Generator) -> torch.Tensor:
    """Put `ink` [C, 1, S, S] (0 to 1) on random sloping backgrounds, with pixel noise: uint8 of the same shape."""
    count, side = len(ink), ink.shape[-1]
    ramp = torch.linspace(-1, 1, side)
    slope = uniform(rng, count, -0.15, 0.15) * ramp + uniform(rng, count, -0.15, 0.15) * ramp[:, None]
    paper = amount * (uniform(rng, count, 0.0, 0.35) + slope)
    contrast = (1 - amount * uniform(rng, count, 0.3, 0.7)).clamp_min(0.1)
    noise = amount * uniform(rng, count, 0.02, 0.12) * normal(rng, count, side)
    return ((paper + contrast * ink + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def uniform(rng: np.random.Generator, count: int, low: float, high: float) -> torch.Tensor:
    """One number for each image, float32 [count, 1, 1, 1]."""
    return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))


def normal(rng: np.random.Generator, count: int, side: int) -> torch.Tensor:
    """One standard normal number for each pixel, float32 [count, 1, side, side]."""
    return torch.from_numpy(rng.standard_normal((count, 1, side, side), dtype=np.float32))
