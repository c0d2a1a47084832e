"""The explorer in a headless Chromium, at the width of a phone and of a desk, by the keyboard."""

import json
import shutil
from decimal import ROUND_HALF_UP, Decimal
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
import torch
from browser import CHROMIUM, Browser
from test_explorer_sets import content_of, kit, table_of  # noqa: F401  a fixture

from eas.serving.kit_files import load_kit
from pipeline.methods import OFAS_WAY
from pipeline.report import stats
from pipeline.report.explorer import page as explorer_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
WIDTHS = (390, 1280)
EXAMPLE = {"data": "cifar100", "set": ["fish", "trees"], "madds": 25, "weights": "own"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


@pytest.fixture(scope="module")
def published(root):
    return load_kit(root / "weights" / "cifar100")


@pytest.fixture
def two_studies(kit, study, root, tmp_path):  # noqa: F811
    """The page of CIFAR-100 and of a small study, whose networks are bounded in milliseconds too."""
    reports = tmp_path / "reports"
    for name in ("cifar100", "toy_photos"):
        (reports / name).mkdir(parents=True)
        for file in ("comparison.csv", "sets.json"):
            shutil.copy(root / "reports" / "cifar100" / file, reports / name)
    content = content_of(kit, study, table_of(kit.supernet.space))
    content["superclasses"][1]["name"] = "<b>dig & its"
    (reports / "toy_photos" / "sets.json").write_text(json.dumps(content))
    return explorer_page.write(tmp_path)


def show(browser, path, choice, width=1280, **look):
    browser.size(width, **look)
    browser.open(f"{path.as_uri()}#{urlencode(choice, doseq=True)}")
    return browser


def said(browser):
    return browser.say("[...document.querySelectorAll('#answer p')].map(each => each.textContent)")


def address(browser):
    return browser.say("decodeURIComponent(location.hash.slice(1)).replaceAll('+', ' ')")


def focus(browser, selector):
    browser.say(f"document.querySelector({json.dumps(selector)}).focus()")


# -------------------------------------------------------------------- what it says


def rounded(value, digits):
    """As the page writes a number: halves go up."""
    return str(Decimal(float(value)).quantize(Decimal(10) ** -digits, ROUND_HALF_UP))


def listed(names):
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def percent(found):
    mean, low, high = (rounded(each, 1) for each in found)
    return f"{mean} % ({low} to {high} %)"


def told(kit, names, budget, own):  # noqa: F811
    """The first sentences, from the kit itself."""
    mask, space = kit.hierarchy.class_mask(names), kit.supernet.space
    arch = kit.generator.generate(mask[None], torch.tensor([budget * 1e6]))[0]
    count = int(mask.sum())
    madds, parameters = space.madds(arch, count), space.parameters(arch, count)
    own = own and bool(kit.branches_for(mask))
    (expected,) = kit.expected(mask, madds[None], len(names) if own else 0)
    weights = "weights of its own" if own else "the weights that all classes share"
    return (
        f"{listed(names)}, {count} classes, at most {budget:g} million multiply-adds: a network of "
        f"{rounded(madds / 1e6, 2)} million multiply-adds and {rounded(parameters / 1e3, 0)} thousand parameters. "
        f"With {weights} it is expected to be right on {percent(expected)} of images."
    )


def capital(text):
    return text[0].upper() + text[1:]


@pytest.mark.parametrize("seed", range(12))
def test_the_sentence_is_what_the_kit_says(browser, root, published, seed):
    rng, names = np.random.default_rng(seed), published.hierarchy.superclasses
    picked = [names[each] for each in sorted(rng.choice(20, int(rng.integers(1, 12)), replace=False))]
    budget, own = 15 + int(rng.integers(41)) / 2, bool(seed % 2)
    choice = EXAMPLE | {"set": picked, "madds": budget, "weights": "own" if own else "shared"}
    show(browser, root / "reports" / "explorer.html", choice)
    assert said(browser)[0] == capital(told(published, picked, budget, own))


def test_what_was_measured_is_told_beside_ofas_way(browser, root):
    show(browser, root / "reports" / "explorer.html", EXAMPLE)
    table = pd.read_csv(root / "reports" / "cifar100" / "comparison.csv")
    here = table[(table.scenario == "fish+trees") & (table.budget_madds == 25_000_000)]

    def reached(method, supernet):
        rows = here[(here.method == method) & (here.supernet == supernet)]
        return percent(round(each, 1) for each in stats.interval(rows.top1))

    mine, theirs = reached("generator_composed", "plain"), reached(*OFAS_WAY)
    assert said(browser)[1] == (
        f"Measured on test images, mean of 3 seeds: {mine}; OFA's way, a search for this scenario alone, {theirs}."
    )
    show(browser, root / "reports" / "explorer.html", EXAMPLE | {"madds": 22.5})
    assert said(browser)[1] == "On test images, this set was not measured at this bound."
    show(browser, root / "reports" / "explorer.html", EXAMPLE | {"set": ["fish", "people"]})
    assert said(browser)[1] == "On test images, this set was not measured."
    words = browser.say("document.getElementById('measured-words').textContent")
    assert words.endswith("Unions of two or three superclasses, in the mean over all that were:")
    rows = browser.say("[...document.querySelectorAll('#measured tbody th')].map(each => each.textContent.trim())")
    assert rows == ["generator with composed branches", "generator, closed form", "OFA's way"]


def test_another_set_is_compared(browser, root, published):
    choice = EXAMPLE | {"beside": "flowers", "beside-madds": 20}
    show(browser, root / "reports" / "explorer.html", choice)
    first, rest = told(published, ["flowers"], 20, True).split(". With ")
    assert said(browser)[2] == f"Beside it: {first}. Its arch differs in 3 of 12 blocks. With {rest}"
    marked = "document.querySelectorAll('.block.differs').length"
    assert browser.say(marked) == 6 and browser.say("document.querySelectorAll('figure').length") == 2
    differing = browser.say("document.querySelector('.stages').getAttribute('aria-label')")
    assert differing.count("(differs)") == 3 and differing.startswith("Forms of the blocks. stage 1, 32 x 32 pixels: ")
    del choice["beside-madds"]
    show(browser, root / "reports" / "explorer.html", choice)
    assert "Its arch is the same." in said(browser)[2] and browser.say(marked) == 0


def test_a_set_too_large_or_none_is_told(browser, root):
    show(browser, root / "reports" / "explorer.html", {"data": "cifar100", "madds": 25})
    assert said(browser) == ["Pick at least one superclass."]
    assert browser.say("document.getElementById('drawn').hidden && document.getElementById('reached').hidden")
    show(browser, root / "reports" / "explorer.html", EXAMPLE)
    focus(browser, "#set .clear")
    browser.press("Enter")
    assert said(browser) == ["Pick at least one superclass."] and "set=" not in address(browser)
    browser.say("unit().most = 2; choice.set = [0, 1, 2]; changed()")
    assert said(browser) == ["This page knows the archs of sets of up to 2 superclasses here."]


def test_an_address_of_nonsense_shows_something(browser, root):
    show(browser, root / "reports" / "explorer.html", {"data": "no", "set": ["x", "fish"], "madds": "NaN", "ms": 3})
    assert said(browser)[0].startswith("Fish, 5 classes, at most 25 million")
    show(browser, root / "reports" / "explorer.html", {})
    assert said(browser)[0].startswith("Aquatic mammals, 5 classes")


# -------------------------------------------------------------------- how it is shown


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_or_scrolls_sideways(browser, two_studies, width, dark):
    beside = {"beside": ["flowers", "large omnivores and herbivores"], "beside-madds": 20}
    for choice in (EXAMPLE | beside, EXAMPLE | {"madds": 22.5}, {"data": "toy_photos", "set": ["greek", "arrows"]}):
        show(browser, two_studies, choice, width, dark=dark)
        browser.say("document.querySelectorAll('details').forEach(each => { each.open = true })")
        assert browser.say("document.documentElement.scrollWidth") == width
        sides = "each.getBoundingClientRect()"
        outside = f"{sides}.right > {width} + .5 || {sides}.left < -.5"
        wide = f"[...document.querySelectorAll('body *')].filter(each => {outside}).map(each => each.outerHTML)"
        assert browser.say(wide) == []
    colour = browser.say("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(22, 24, 27)") == dark


@pytest.mark.parametrize("width", WIDTHS)
def test_two_archs_stand_side_by_side_or_one_below_the_other(browser, root, width):
    show(browser, root / "reports" / "explorer.html", EXAMPLE | {"beside": "flowers"}, width)
    tops = browser.say("[...document.querySelectorAll('figure')].map(each => each.getBoundingClientRect().top)")
    assert (tops[0] == tops[1]) == (width == 1280)


def test_every_control_and_drawing_has_a_name(browser, two_studies):
    show(browser, two_studies, EXAMPLE | {"beside": "flowers"})
    tree = browser.ask("Accessibility.getFullAXTree")["nodes"]
    found = {}
    for node in tree:
        role = node.get("role", {}).get("value")
        if role in ("checkbox", "radio", "slider", "searchbox", "button", "image", "group", "table", "status"):
            found.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert len(found["checkbox"]) == 41 and len(found["slider"]) == 2 and len(found["image"]) == 3
    assert not [role for role, names in found.items() if role not in ("status", "group") and not all(names)]
    headings = "[...document.querySelectorAll('h1, h2')].map(each => each.textContent)"
    assert browser.say(headings) == [
        "A network for the classes that matter",
        "The answer",
        "The two archs",
        "How often it is right",
        "About",
    ]
    live = browser.say("document.getElementById('answer').getAttribute('aria-live')")
    assert live == "polite" and browser.say("document.documentElement.lang") == "en"


def test_less_motion_is_respected(browser, root):
    for still, seconds in ((False, "0.2s"), (True, "0s")):
        show(browser, root / "reports" / "explorer.html", EXAMPLE, still=still)
        found = browser.say("getComputedStyle(document.querySelector('.block i')).transitionDuration")
        assert found == seconds


def test_names_are_shown_as_they_are(browser, two_studies):
    show(browser, two_studies, {"data": "toy_photos", "set": "<b>dig & its"})
    assert said(browser)[0].startswith("<b>dig & its, ") and browser.say("document.querySelector('main b b')") is None
    assert browser.say("document.querySelector('#studies :checked + span').textContent") == "toy photos"


# -------------------------------------------------------------------- by the keyboard


@pytest.mark.parametrize("width", WIDTHS)
def test_the_keyboard_reaches_and_changes_everything(browser, two_studies, width):
    show(browser, two_studies, EXAMPLE, width)
    reached = []
    for _ in range(40):
        browser.press("Tab")
        reached.append(
            browser.say(
                "(document.activeElement.id || document.activeElement.name || "
                "document.activeElement.type || document.activeElement.tagName)"
            )
        )
    assert {"study", "search", "checkbox", "bound", "weights", "SUMMARY", "copy"} <= set(reached)
    focus(browser, "#bound")
    outline = browser.say("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.press("ArrowRight")
    assert "madds=25.5" in address(browser) and "25.5 million" in said(browser)[0]
    assert browser.say("document.activeElement.getAttribute('aria-valuetext')") == "at most 25.5 million multiply-adds"
    browser.press("End")
    assert "madds=35" in address(browser)
    focus(browser, "#set .chips input[value='2']")
    outline = browser.say("getComputedStyle(document.querySelector(':focus-visible + span')).outlineStyle")
    assert outline == "solid"
    browser.press(" ")
    assert "set=fish&set=flowers&set=trees" in address(browser) and said(browser)[0].startswith("Fish, flowers and")
    focus(browser, "#weights input:checked")
    browser.press("ArrowRight")
    assert "weights=shared" in address(browser) and "weights that all classes share" in said(browser)[0]
    before = address(browser)
    browser.open(browser.say("location.href"))
    assert address(browser) == before and said(browser)[0].startswith("Fish, flowers and")
    focus(browser, "#studies input:checked")
    browser.press("ArrowRight")
    assert address(browser).startswith("data=toy_photos") and "set=" in address(browser)
    assert browser.say("document.activeElement.name") == "study"


def test_milliseconds_are_a_bound_where_a_table_is_known(browser, two_studies):
    show(browser, two_studies, {"data": "toy_photos", "set": "greek"})
    assert not browser.say("document.getElementById('units').hidden")
    focus(browser, "#units input:checked")
    browser.press("ArrowRight")
    assert "ms=" in address(browser) and " milliseconds: a network of " in said(browser)[0]
    browser.press("ArrowLeft")
    assert "madds=" in address(browser) and "milliseconds:" not in said(browser)[0]
    show(browser, two_studies, EXAMPLE)
    assert browser.say("document.getElementById('units').hidden")


def test_what_a_kit_does_not_have_is_not_shown(browser, two_studies):
    """No weights of a set's own, and no knowledge of what to expect."""
    show(browser, two_studies, {"data": "toy_photos", "set": "greek", "weights": "own"})
    assert browser.say("document.querySelector('#weights [value=own]').disabled")
    assert "With the weights that all classes share it is expected" in said(browser)[0]
    browser.say("study().expected = null; changed()")
    assert said(browser)[0].endswith(" thousand parameters.")
    assert browser.say("document.getElementById('expected').hidden && document.getElementById('curve-box').hidden")


def test_the_answer_is_one_step_from_the_beginning(browser, root):
    show(browser, root / "reports" / "explorer.html", EXAMPLE)
    before = address(browser)
    browser.press("Tab")
    browser.press("Enter")
    assert browser.say("document.activeElement.id") == "answer" and address(browser) == before


def test_the_search_finds_classes_and_keeps_what_is_picked(browser, root):
    show(browser, root / "reports" / "explorer.html", EXAMPLE)
    focus(browser, "#set input[type=search]")
    for letter in "tulip":
        browser.press(letter)
    shown = "[...document.querySelectorAll('#set .chips label:not([hidden])')].map(each => each.textContent.trim())"
    assert browser.say(shown) == ["fish", "flowers", "trees"]
    assert "set=fish&set=trees&madds" in address(browser)


def test_a_measured_bound_is_a_click_away(browser, root):
    show(browser, root / "reports" / "explorer.html", EXAMPLE | {"madds": 22.5})
    focus(browser, "[data-budget='20']")
    browser.press("Enter")
    assert "madds=20&" in address(browser) and said(browser)[1].startswith("Measured on test images")
    assert browser.say("document.activeElement.id") == "bound"
