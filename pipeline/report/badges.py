"""Badges for the README: small pictures that say a number of the committed metrics."""

from __future__ import annotations

from html import escape
from pathlib import Path

from eas.files import write_text
from pipeline.report import Metrics

OVER_OFA = "generator_branch_minus_mean_ofa_evolution"
SAYS = {  # what stands on the left, by a study's name, or for any: the number, and how it is written
    "cifar100": ("CIFAR-100: branches over OFA's way", OVER_OFA, "{:+.1f} points"),
    "miniimagenet": ("mini-ImageNet: branches over OFA's way", OVER_OFA, "{:+.1f} points"),
    "benchmarks": ("a search in OFA's space, against OFA's finder", "search_times_ofa_finder", "{:,.0f} times as fast"),
}
LETTER, MARGIN, HEIGHT = 6.1, 6, 20  # pixels: a letter of 11 pixels is so wide on average


def write(metrics: dict[str, Metrics], folder: Path) -> list[Path]:
    """Write a badge for each study that has what it says, as STUDY.svg; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for study, (words, name, form) in SAYS.items():
        if name in metrics.get(study, {}):
            written.append(folder / f"{study}.svg")
            write_text(written[-1], drawn(words, form.format(metrics[study][name])))
    return written


def drawn(words: str, number: str) -> str:
    """A picture with words on grey, and a number on blue."""
    left, right = (round(len(text) * LETTER + 2 * MARGIN) for text in (words, number))
    said = escape(f"{words}: {number}")
    texts = "".join(
        f'<text x="{middle}" y="14" textLength="{width - 2 * MARGIN}">{escape(text)}</text>'
        for text, middle, width in ((words, left / 2, left), (number, left + right / 2, right))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT}" role="img" '
        f'aria-label="{said}"><title>{said}</title><rect width="{left + right}" height="{HEIGHT}" rx="3" fill="#444"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v{HEIGHT - 6}a3 3 0 0 1-3 3h-{right - 3}z" fill="#0b5fa5"/>'
        f'<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{texts}</g>'
        "</svg>\n"
    )
