"""reports/explorer.html: the page to send to somebody, over all studies; one file, which needs no server or network."""

from __future__ import annotations

import json
import re
from pathlib import Path

from eas.files import write_text
from pipeline.report.explorer.sets import FILE, Content
from pipeline.report.figures import label
from pipeline.report.inputs import naming

WEB = Path(__file__).parent / "web"
SCRIPTS = ("network.js", "drawing.js", "controls.js")  # in this order
NAMES = {  # of studies, as the page's buttons say them
    "cifar100": "CIFAR-100",
    "cifar100_cpu": "CIFAR-100, reduced",
    "glyphs": "synthetic characters",
    "imagenet10": "ImageNet-10",
    "imagenet10_balanced": "ImageNet-10, balanced",
    "miniimagenet": "mini-ImageNet",
    "miniimagenet_mobilenetv3": "mini-ImageNet, MobileNetV3",
}
WORDS = (
    ("superclass", "A named group of classes. The network tells the classes of all picked groups apart."),
    ("arch", "Which blocks the network has, and how large each is: the generator's choice under the bound."),
    ("multiply-adds", "What one image costs in arithmetic, the classifier counted for the picked classes only."),
    (
        "expected",
        "What the network should reach, told before it is measured: a few archs have answered images that nothing was "
        "trained on, once, and a line fitted on other sets leads from there to weights of a set's own.",
    ),
    ("measured", "The share of right answers on test images, which were looked at once, for the report."),
    (
        "OFA's way",
        "Once-for-all: a search for every scenario, with an accuracy predictor, on a supernet without superclass "
        "dropout. It shares its weights among all classes.",
    ),
)


def write(root: str | Path = ".") -> Path:
    """Write reports/explorer.html under `root`; returns it.

    Raises:
        FileNotFoundError: no study has what the page needs.
    """
    path = Path(root) / "reports" / "explorer.html"
    write_text(path, page(path.parent))
    return path


def page(reports: Path) -> str:
    """The page over all studies with a report and a file of sets; those with a report alone are named on it.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file of sets is damaged.
    """
    names = [path.parent.name for path in sorted(reports.glob("*/comparison.csv"))]
    there = [name for name in names if (reports / name / FILE).is_file()]
    if not there:
        raise FileNotFoundError(f"{reports} has no */{FILE}: run `python -m pipeline.report sets STUDY` first")
    studies = [{"key": name, "name": name_of(name)} | read_sets(reports / name / FILE) for name in there]
    content = {"studies": studies, "missing": [name_of(name) for name in names if name not in there], "words": WORDS}
    # Nothing in the data may end the script.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    style, text, *scripts = ((WEB / name).read_text(encoding="utf-8") for name in ("page.css", "page.html", *SCRIPTS))
    parts = {"$STYLE": style, "$DATA": data, "$SCRIPT": "\n".join(scripts)}
    return re.sub("|".join(map(re.escape, parts)), lambda mark: parts[mark[0]], text)


def read_sets(path: Path) -> Content:
    """What sets.write wrote of a study; ValueError, in one line that names the file, where it is damaged."""
    with naming(path, f"run `python -m pipeline.report sets {path.parent.name}` again"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if lacking := {"superclasses", "bounds", "measured"} - {*content}:
            raise ValueError(f"it lacks {min(lacking)}")
        return content


def name_of(study: str) -> str:
    """As a reader would write it."""
    return NAMES.get(study, label(study))
