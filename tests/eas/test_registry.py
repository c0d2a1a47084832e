"""Sections, and the registries that a parameter `kind` chooses from."""

import importlib
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from eas.registry import Registry, Section, suggestion

SHAPES = Registry()


class Drawing(Section):
    title: str = ""
    shape: SHAPES.field
    other: SHAPES.field = None


@SHAPES.register  # after the class that has a field of it
class Polygon(Section):
    kind: Literal["polygon"] = "polygon"
    sides: tuple[Annotated[int, Field(gt=0)], ...]
    filled: bool = False


@SHAPES.register
class Polyline(Section):
    kind: Literal["polyline"] = "polyline"
    sides: tuple[int, ...]
    filled: bool = False


TRIANGLE = {"kind": "polygon", "sides": [3, 4, 5]}


def refusal(shape):
    with pytest.raises(ValidationError) as caught:
        Drawing(shape=shape)
    (error,) = caught.value.errors()
    assert "\n" not in error["msg"]
    return error


def test_what_a_kind_describes_is_made_of_its_class():
    assert list(SHAPES.items()) == [("polygon", Polygon), ("polyline", Polyline)]
    drawing = Drawing.model_validate_json('{"shape": {"kind": "polyline", "sides": [1, 2]}}')
    assert drawing.shape == Polyline(sides=(1, 2)) and type(drawing.shape) is Polyline
    assert SHAPES.validate(TRIANGLE) == Drawing(shape=TRIANGLE).shape == Polygon(sides=(3, 4, 5))


def test_a_section_of_a_registered_class_passes_through():
    polygon = Polygon(sides=(1,))
    assert Drawing(shape=polygon).shape is polygon is SHAPES.validate(polygon)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"kind": "polygn"}, "unknown kind 'polygn'; known: polygon, polyline (did you mean 'polygon'?)"),
        ({"kind": "x{y}"}, "unknown kind 'x{y}'; known: polygon, polyline"),
        ({"kind": ["polygon"]}, "unknown kind ['polygon']; known: polygon, polyline (did you mean 'polygon'?)"),
        ({"sides": [1]}, "must map parameters to values and name a kind; known: polygon, polyline"),
        ("polygon", "must map parameters to values and name a kind; known: polygon, polyline"),
        (None, "must map parameters to values and name a kind; known: polygon, polyline"),
        (Drawing(shape=TRIANGLE), "must map parameters to values and name a kind; known: polygon, polyline"),
        ({"kind": "polygon", "sides": {1}}, "holds a value that JSON has no form for (Object of type set is not JSON "),
    ],
)
def test_what_is_no_kind_is_told_in_one_line(shape, message):
    error = refusal(shape)
    assert error["loc"] == ("shape",) and error["msg"].startswith(message)
    with pytest.raises(ValueError) as caught:
        SHAPES.validate(shape)
    assert str(caught.value) == error["msg"]


@pytest.mark.parametrize(
    ("changes", "where", "kind_of_error"),
    [
        ({"sides": [3.5]}, ("shape", "sides", 0), "int_type"),
        ({"sides": ["3"]}, ("shape", "sides", 0), "int_type"),
        ({"sides": [0]}, ("shape", "sides", 0), "greater_than"),
        ({"sides": 3}, ("shape", "sides"), "tuple_type"),
        ({"filled": 1}, ("shape", "filled"), "bool_type"),
        ({"radius": 1}, ("shape", "radius"), "extra_forbidden"),
    ],
)
def test_parameters_are_strictly_typed_and_named_with_their_place(changes, where, kind_of_error):
    error = refusal(TRIANGLE | changes)
    assert (error["loc"], error["type"]) == (where, kind_of_error)


def test_sections_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Polygon(sides=(1,)).filled = True


def test_a_dump_holds_the_fields_of_the_class_that_was_chosen():
    drawing = Drawing(shape=TRIANGLE)
    assert drawing.model_dump(mode="json")["shape"] == TRIANGLE | {"filled": False}
    assert drawing.model_dump_json(exclude_defaults=True) == '{"shape":{"kind":"polygon","sides":[3,4,5]}}'
    assert Drawing.model_validate_json(drawing.model_dump_json(exclude={"other"})) == drawing


@pytest.mark.filterwarnings("error")
def test_the_kind_is_dumped_though_it_is_a_default():
    """Or two kinds with the same parameters would have the same key."""
    one, other = Polygon(sides=(3,)), Polyline(sides=(3,))
    dumps = [section.model_dump(mode="json", exclude_defaults=True) for section in (one, other)]
    assert dumps == [{"kind": "polygon", "sides": [3]}, {"kind": "polyline", "sides": [3]}]
    for section, dump in zip((one, other), dumps, strict=True):
        drawing = Drawing(title="x", shape=section)
        assert drawing.model_dump(mode="json", include={"shape"}, exclude_defaults=True) == {"shape": dump}
    assert "kind" not in Drawing(shape=one).model_dump()


def test_a_new_parameter_with_a_default_leaves_the_dump_as_it_was():
    class Later(Polygon):
        rounded: float = 0.0

    registry = Registry()
    registry.register(Later)
    before = Drawing(shape=Polygon(sides=(3,), filled=True)).model_dump_json(exclude_defaults=True)

    class LaterDrawing(Section):
        title: str = ""
        shape: registry.field

    later = LaterDrawing(shape={"kind": "polygon", "sides": [3], "filled": True})
    assert later.model_dump_json(exclude_defaults=True) == before
    assert "rounded" in later.model_copy(update={"shape": Later(sides=(3,), rounded=1.0)}).model_dump_json(
        exclude_defaults=True
    )


def test_a_kind_belongs_to_one_class():
    class Usurper(Section):
        kind: Literal["polygon"] = "polygon"

    with pytest.raises(ValueError, match=r"kind 'polygon' is .*Polygon already: choose another name") as caught:
        SHAPES.register(Usurper)
    assert "\n" not in str(caught.value) and SHAPES["polygon"] is Polygon


MODULE = """
from typing import Literal

from eas.data import SOURCES, Hierarchy, Source

@SOURCES.register
class Elsewhere(Source):
    kind: Literal["elsewhere"] = "elsewhere"
    path: str = "."
    about = "*Images from elsewhere.*"

    def hierarchy(self, root="."):
        return Hierarchy(("a",), (("b", "c"),))

    def load(self, root="."):
        raise FileNotFoundError(self.path)

def describe(source):
    return SOURCES["elsewhere"] is type(source), source.model_dump(), source.hierarchy().classes
"""


def test_a_kind_from_another_module_travels_to_workers_and_may_be_imported_anew(tmp_path, monkeypatch):
    from eas.data import SOURCES

    (tmp_path / "elsewhere_source.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("elsewhere_source")
    try:
        described = {"kind": "elsewhere", "image_size": 8, "selection": 0.2, "calibration": 0.1, "seed": 0, "path": "x"}
        source = SOURCES.validate(described)
        assert pickle.loads(pickle.dumps(source)) == source
        with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as workers:
            assert workers.submit(module.describe, source).result() == (
                True,
                described | {"most_gigabytes": 64.0},
                ("b", "c"),
            )
        module = importlib.reload(module)
        assert SOURCES["elsewhere"] is module.Elsewhere and type(source) is not module.Elsewhere
    finally:
        SOURCES.pop("elsewhere")


def test_suggestion_names_what_is_close():
    assert suggestion("greek", ["latin", "greeks"]) == " (did you mean 'greeks'?)"
    assert suggestion("digits", ["latin", "greeks"]) == suggestion("x", []) == ""
