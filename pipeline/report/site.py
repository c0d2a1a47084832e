"""Reports, executed notebooks and the explorer as static pages, for any host or straight from disk: build/site.

The site has the paths of the repository, so that nothing is written twice: each Markdown page and each notebook of the
reports becomes an .html file at its place. What they link to and a browser can show is copied beside them; links to
anything else, such as code, become plain text.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from markdown_it.token import Token
from nbconvert import HTMLExporter
from tqdm import tqdm

from eas.files import write_text
from pipeline.report.inputs import read_notebook
from pipeline.report.page import pictures

PAGES = ("README.md", "pipeline/README.md", "reports/README.md", "reports/experiments.md", "reports/*/README.md")
SHOWN = {".csv", ".html", ".json", ".png", ".svg", ".yaml"}  # files that are copied where a page links to them
TEMPLATE = Path(__file__).parent / "site.html"


@dataclass
class Site:
    """What becomes a page of the site, by its path in the repository; and what is to be copied."""

    root: Path
    pages: dict[Path, Path]  # to paths of the site
    copied: set[Path] = field(default_factory=set)

    def address(self, page: Path, link: str) -> str | None:
        """A link of a page as the site has it; None where it leads to what the site has not."""
        path, mark, part = link.partition("#")
        if not path or re.match(r"[a-z]+:", link):
            return link
        found = Path(os.path.normpath(page.parent / path))
        target = self.pages.get(found) or self.pages.get(found / "README.md")
        if target is None:
            if found.suffix not in SHOWN or not (self.root / found).is_file():
                return None
            self.copied.add(found)
            target = found
        return os.path.relpath(target, self.pages[page].parent) + mark + part


def write(root: str | Path = ".", target: str | Path = "build/site") -> Path:
    """Write the site into a folder, anew; returns its first page.

    Raises:
        FileNotFoundError: there are no reports.
    """
    root, target = Path(root), Path(root, target)
    pages = [path.relative_to(root) for pattern in PAGES for path in sorted(root.glob(pattern))]
    notebooks = [path.relative_to(root) for path in sorted(root.glob("reports/*/*.ipynb"))]
    if not notebooks:
        raise FileNotFoundError(f"{root / 'reports'} holds no report: run `dvc repro` first")
    places = {path: path.with_suffix(".html") for path in [*pages, *notebooks]}
    site = Site(root, places | {path: path.with_name("index.html") for path in pages if path.name == "README.md"})
    shutil.rmtree(target, ignore_errors=True)
    for path, place in tqdm(site.pages.items(), "pages"):
        text = notebook_page(site, path) if path.suffix == ".ipynb" else markdown_page(site, path)
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        write_text(target / place, text)
    for path in site.copied:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target / path)
    return target / "index.html"


# -------------------------------------------------------------------- pages


def markdown_page(site: Site, path: Path) -> str:
    """A Markdown file as a page with the site's head."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = reader.parse((site.root / path).read_text(encoding="utf-8"))
    cells = figure_cells(site, path.parent)
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", slug(tokens[place + 1].content))
        if token.children:
            token.children = list(adapted(site, path, token.children, cells))
    title = next((tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"), path.name)
    parts = {
        "TITLE": escape(title),
        "HEAD": head(site, path),
        "BODY": reader.renderer.render(tokens, reader.options, {}),
    }
    return re.sub(r"\$(TITLE|HEAD|BODY)\b", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """What a link calls a heading, as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def adapted(site: Site, path: Path, tokens: list[Token], cells: dict[str, str]) -> Iterator[Token]:
    """Words, links and figures of a paragraph, with addresses of the site; a figure links to the cell that drew it."""
    open_links: list[bool] = []
    for token in tokens:
        if token.type == "link_open":
            address = site.address(path, str(token.attrGet("href")))
            open_links.append(address is not None)
            if address is None:
                continue
            token.attrSet("href", address)
        elif token.type == "link_close" and not open_links.pop():
            continue
        if token.type != "image":
            yield token
            continue
        source = str(token.attrGet("src"))
        token.attrSet("src", site.address(path, source) or source)
        yield token
        if source in cells:
            yield Token("html_inline", "", 0, content=cells[source])


def head(site: Site, path: Path) -> str:
    """Links to the parts of the site; the page itself is marked."""
    names = {Path("README.md"): "Start", Path("reports/README.md"): "Results"}
    names |= {page: short_title(site, page) for page in site.pages if page.match("reports/*/README.md")}
    links = [
        (name, site.address(path, os.path.relpath(page, path.parent)), page == path) for page, name in names.items()
    ]
    if explorer := site.address(path, os.path.relpath("reports/explorer.html", path.parent)):
        links.insert(2, ("Explorer", explorer, False))
    return "".join(
        f'<a href="{address}"{" aria-current=page" if here else ""}>{escape(name)}</a>' for name, address, here in links
    )


def short_title(site: Site, page: Path) -> str:
    """What a report is about: its heading from behind the study's name to the first comma or colon."""
    text = (site.root / page).read_text(encoding="utf-8")
    heading = next((line[2:] for line in text.splitlines() if line.startswith("# ")), page.parent.name)
    return re.split("[,:]", re.sub(r"^Study \w+: ", "", heading))[0].replace("`", "")


# -------------------------------------------------------------------- notebooks


def notebook_page(site: Site, path: Path) -> str:
    """An executed notebook, its links those of the site."""
    notebook = read_notebook(site.root / path)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", lambda f: linked(site, path, f[1], f[2]), cell.source)
    notebook.metadata["title"] = f"{path.parent.name}: {path.stem}"
    text, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    return text


def linked(site: Site, path: Path, words: str, link: str) -> str:
    """A Markdown link as the site has it; its words where there is nothing."""
    address = site.address(path, link)
    return words if address is None else f"[{words}]({address})"


def figure_cells(site: Site, folder: Path) -> dict[str, str]:
    """By a figure's path in a study's page: where it was drawn, which stands below it."""
    told: dict[str, str] = {}
    for path in (path for path in site.pages if path.suffix == ".ipynb" and path.parent == folder):
        count, commit = 0, last_commit(site.root, path)
        for cell in json.loads((site.root / path).read_text(encoding="utf-8"))["cells"]:
            cell = nbformat.from_dict({**cell, "source": "".join(cell["source"])})
            for _ in pictures(cell):
                count += 1
                link = f'<a class="cell" href="{path.stem}.html#cell-id={cell["id"]}">'
                source = f"{link}drawn in {path.stem}{f', commit {commit}' if commit else ''}</a>"
                told[f"figures/{path.stem}-{count}.png"] = f"<br>{source}"
    return told


def last_commit(root: Path, path: Path) -> str:
    """The commit that wrote a file, shortened; nothing outside of Git."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%h", "--", str(path)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
