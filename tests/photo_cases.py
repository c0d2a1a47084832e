"""Folders of small photographs that a small network can tell apart."""

import re

import numpy as np
from PIL import Image

GROUPS = {"fruit": ("apple", "pear"), "milk": ("whole", "kefir"), "bread": ("rye", "toast")}


def draw_class(folder, index, count, seed):
    """Noise of one of six colours."""
    rng = np.random.default_rng(seed + index)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = rng.integers(0, 60, (40, 48, 3))
        pixels[..., index % 3] += 70 + 60 * (index // 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


def draw_shop(folder, *parts, count=20):
    """Photographs of GROUPS under each of the parts, or right in the folder."""
    for seed, part in enumerate(parts or ("",)):
        classes = [(group, name) for group, names in GROUPS.items() for name in names]
        for index, (group, name) in enumerate(classes):
            draw_class(folder / part / group / name, index, count, seed * 100)
    return folder


def smaller(path):
    """Change a study's file to what trains in seconds."""
    text = path.read_text()
    for pattern, value in (
        (r"^space: .*", "space: {kind: preresnet, widths: [8, 16], depths: [1, 2], ratios: [0.25, 0.5, 1.0]}"),
        (r"epochs: \d+", "epochs: 3"),
        (r"budgets: \[[^]]*\]", "budgets: [0.9, 1.5, 2.5]"),
        (r"pool: 60", "pool: 12"),
        (r"learning_rate: \S+\n  weight_decay", "learning_rate: 0.2\n  weight_decay"),
        (r"start: .*", "start: null"),
        (r"predictor_steps: 600", "predictor_steps: 20"),
        (r"predictor: {steps: 600}", "predictor: {steps: 10}"),
        (r"evaluations: 500, population: 100", "evaluations: 40, population: 20"),
        (r"gates: {steps: 100", "gates: {steps: 3"),
    ):
        assert re.search(pattern, text, flags=re.M), pattern
        text = re.sub(pattern, value, text, flags=re.M)
    path.write_text(text)
    return path
