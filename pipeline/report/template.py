"""The words of a report: a page written by hand for each study, its numbers filled in, its claims held to their signs.

Light to import, as what is shown in a terminal needs no more.
"""

from __future__ import annotations

import re
import string
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.report import Metrics

GENERATED = "<!-- Written by `python -m pipeline.report`: changes made here are lost. -->"
TEMPLATES = Path(__file__).parent / "templates"
LINE = 120  # letters of a page's line
SIGNS = ("+", "-", "0", ">", "<")  # see `Template`


@dataclass(frozen=True)
class Template:
    """A page written by hand for one study, in Markdown, its numbers left out: {name:+.1f} is one of metrics.json.

    `headline` is the title of its first figure; `panel` that of its part of the figure over all studies, where it has
    one. `signs` are what its claims rest on, by the name of a number: '+', '-'
    and '0' say where its interval over seeds lies (above 0, below 0, across it), '>' and '<' where the number itself
    does.
    """

    path: Path
    headline: str
    signs: dict[str, str]
    body: str
    panel: str = ""


def read_template(study: str) -> Template:
    """The template of a study, or the one for any study."""
    path = TEMPLATES / f"{study}.md"
    return read_page(path if path.is_file() else TEMPLATES / "default.md")


def read_page(path: Path) -> Template:
    """A template's file."""
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return Template(path, body=body.lstrip(), **yaml.safe_load(front))


def fill(template: Template, study: str, metrics: Metrics, parts: dict[str, str]) -> str:
    """The page: numbers and `parts` in their places.

    Raises:
        ValueError: a number is missing, or a sign is not what the template claims.
    """
    check_signs(template, metrics)
    values = metrics | parts | {"study": study}
    for _, name, form, _ in string.Formatter().parse(template.body):
        if name and name not in values:
            raise ValueError(f"{template.path.name} tells {name}, which metrics.json lacks")
        if form and isinstance(values[name], str):
            raise ValueError(f"{template.path.name} tells {name} as a number, which is text in metrics.json")
    body = template.body.format(**values)
    told = re.sub(r"[-+]0\.0(?=[ %])", "0.0", body)  # a bound keeps its sign, which says on which side it lies
    return "\n\n".join(map(wrapped, re.split(r"\n{2,}", told.strip()))) + "\n"


def wrapped(block: str) -> str:
    """A paragraph, or a list, with lines of one length: numbers are shorter than their names. All else as it is."""
    if not re.match(r"[\w*\[(]|`(?!`)|- ", block):
        return block
    options = {"width": LINE, "break_long_words": False, "break_on_hyphens": False}
    kept = re.sub(r" (?=%)|(?<=,) (?=[-+]?[\d.]+\])", "\0", block)  # a number with its unit, an interval
    lines = (
        textwrap.fill(" ".join(item.split()), subsequent_indent="  " if item.startswith("- ") else "", **options)
        for item in re.split(r"\n(?=- )", kept)
    )
    return "\n".join(lines).replace("\0", " ")


def check_signs(template: Template, metrics: Metrics) -> None:
    """ValueError unless every number has the sign that the template's sentences claim of it."""
    for name, sign in template.signs.items():
        numbers = [name] if sign in "<>" else [name.replace("_mean", f"_{end}", 1) for end in ("low", "high")]
        if missing := [number for number in numbers if number not in metrics]:
            raise ValueError(f"{template.path.name} rests on {missing[0]}, which metrics.json lacks")
        values = [float(metrics[number]) for number in numbers]
        if not holds(sign, values[0], values[-1]):
            told = ", ".join(f"{number} = {value:g}" for number, value in zip(numbers, values, strict=True))
            claim = claim_about(template, name)
            raise ValueError(f"{template.path.name} claims {claim!r}, for which {name} must be {sign!r}: {told}")


def holds(sign: str, low: float, high: float) -> bool:
    """Whether an interval, or a number as both its ends, has the sign; see `Template`."""
    if sign not in SIGNS:
        raise ValueError(f"unknown sign {sign!r}: write one of {' '.join(SIGNS)}")
    return {"+": low > 0, ">": low > 0, "-": high < 0, "<": high < 0, "0": low <= 0 <= high}[sign]


def claim_about(template: Template, name: str) -> str:
    """What the template's sentence with that number claims: the bold words at the paragraph's beginning."""
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", template.body):
        if f"{{{name}:" in paragraph:
            bold = re.search(r"\*\*(.+?)\*\*", paragraph, re.DOTALL)
            return " ".join((bold[1] if bold else paragraph).split())
    raise ValueError(f"{template.path.name} has a sign for {name}, but no sentence tells it")


def found(study: str, root: str | Path = ".") -> str:
    """What a report found, as plain text: its list of findings, and where all of it is.

    Raises:
        FileNotFoundError: there is no report.
    """
    path = Path(root) / "reports" / study / "README.md"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro` first")
    listed = re.search(r"^- .*?(?=\n\n(?!- ))", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    text = re.sub(r"\*\*|`", "", listed[0]) if listed else ""
    return f"{text}\n\nThe report, with figures and tables: {path}".lstrip()
