"""A small shop of drawn photographs, for whoever has none at hand (notebooks/photographs.ipynb)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = {"red": (220, 60, 50), "green": (60, 180, 80), "blue": (60, 90, 220)}


def draw_shop(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Photographs of nine things: discs, boxes and crosses in three colours, on a noisy shelf."""
    for shape in ("disc", "box", "cross"):
        for name, color in COLORS.items():
            for number in range(count):
                image = Image.fromarray(rng.integers(90, 160, (48, 60, 3), dtype=np.uint8))
                pen, (x, y, r) = ImageDraw.Draw(image), rng.integers([22, 18, 8], [38, 30, 14]).tolist()
                if shape == "disc":
                    pen.ellipse((x - r, y - r, x + r, y + r), color)
                if shape == "box":
                    pen.rectangle((x - r, y - r, x + r, y + r), color)
                if shape == "cross":
                    pen.line((x - r, y - r, x + r, y + r), color, 5)
                    pen.line((x - r, y + r, x + r, y - r), color, 5)
                path = folder / shape / f"{name}_{shape}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
