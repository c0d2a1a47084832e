"""The static pages: links hold, figures lead to their cells, and a phone shows all of it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from pipeline.report import site
from pipeline.report.__main__ import main

ROOT = Path(__file__).parents[2]


WRITTEN = "index.html", "experiments.html"  # beside notebooks and the explorer


class Links(HTMLParser):
    """Addresses and anchors of a page, and images without words."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.anchors, self.silent = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.addresses += [told[name] for name in ("href", "src") if told.get(name)]
        self.anchors |= {told["id"]} if "id" in told else set()
        if tag == "img" and not told.get("alt"):
            self.silent.append(told.get("src"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site of this repository."""
    return site.write(ROOT, tmp_path_factory.mktemp("site") / "site").parent


def links_of(path):
    return Links(path.read_text(encoding="utf-8"))


def test_every_link_between_pages_holds_and_every_figure_has_words(built):
    pages = {path: links_of(path) for path in built.rglob("*.html")}
    assert len(pages) > 15
    for path, found in pages.items():
        if path.name not in WRITTEN:
            continue
        assert not found.silent, path
        for address in (each for each in found.addresses if not re.match("[a-z]+:", each)):
            place, _, part = address.partition("#")
            target = (path.parent / place).resolve() if place else path
            assert target.is_file(), f"{path}: {address}"
            assert not part or part in pages[target].anchors, f"{path}: {address}"


def test_every_page_has_a_place_of_its_own(built):
    for name, heading in (
        ("index", "Elastic Architecture Search, measured"),
        ("experiments", "Experiments that are over"),
    ):
        text = (built / "reports" / f"{name}.html").read_text(encoding="utf-8")
        assert re.search(f"<h1[^>]*>{heading}</h1>", text)


def test_a_figure_leads_to_the_cell_that_drew_it(built):
    text = (built / "reports" / "cifar100" / "index.html").read_text(encoding="utf-8")
    (link,) = re.findall(r'src="figures/02_supernet-1.png".*?<a class="cell" href="(.*?)"', text)
    notebook = built / "reports" / "cifar100" / "02_supernet.html"
    assert link.partition("#")[2] in links_of(notebook).anchors and "commit " in text


def test_what_the_site_has_not_is_plain_text(built):
    start = (built / "index.html").read_text(encoding="utf-8")
    assert "<h1" in start and "pipeline/steps.py" not in start and "steps.py" in start
    assert (built / "reports" / "cifar100" / "comparison.csv").is_file() and not (built / "eas").exists()


def test_headings_are_called_as_on_github():
    assert site.slug("How this was run, and what was chosen when") == "how-this-was-run-and-what-was-chosen-when"
    assert site.slug("Side by side with the package `ofa`") == "side-by-side-with-the-package-ofa"


def test_without_reports_there_is_no_site(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["site"]) == 1 and "holds no report" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_no_page_is_wider_than_a_phone(built, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        for width in (390, 1280):
            browser.size(width)
            for path in sorted(path for name in WRITTEN for path in built.rglob(name)):
                browser.open(path.as_uri())
                assert browser.say("document.documentElement.scrollWidth") <= width, path
