"""Typed sections of parameters, and registries of those that a parameter `kind` chooses between."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_serializer
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(gt=0, le=10**7)]  # of what is made or done one by one: more is a slip
Few = Annotated[int, Field(gt=0, le=10**4)]  # of what takes long, or memory
LearningRate = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


def in_one_line(text: str) -> str:
    """The text itself; ValueError where it would do more to a terminal than be a part of a line."""
    if not text or not text.isprintable():
        raise one_line(f"{text[:100]!r} is empty, or cannot be printed in a line")
    return text


Line = Annotated[str, AfterValidator(in_one_line)]


class Section(BaseModel):
    """A part of the parameters: immutable, strictly typed, without unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_serializer(mode="wrap")
    def with_kind(self, serialize) -> dict[str, Any]:
        """What is dumped tells its kind even where defaults are left out, or two kinds could look alike."""
        content = serialize(self)
        return {"kind": self.kind} | content if "kind" in type(self).model_fields else content

    @property
    def digest(self) -> str:
        """SHA-256 of what is said here; a new parameter at its default leaves it as it was."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()


SectionType = TypeVar("SectionType", bound=type[Section])


class Registry(dict[str, type[Section]]):
    """From a kind to the section for it: `@SOURCES.register` above a class, `data: SOURCES.field` in another.

    A class counts once its module is imported, so a kind from outside this package needs no change inside it.
    """

    def register(self, section: SectionType) -> SectionType:
        """Add a section under its `kind`, a Literal with a default; returns it, as a decorator has to.

        Raises:
            ValueError: another class has this kind; the same one, imported anew, takes its own place.
        """
        kind = section.model_fields["kind"].default
        other = self.get(kind, section)
        if (other.__module__, other.__qualname__) != (section.__module__, section.__qualname__):
            raise ValueError(f"kind {kind!r} is {other.__module__}.{other.__qualname__} already: choose another name")
        self[kind] = section
        return section

    @property
    def field(self) -> Any:
        """The type of a field that holds a section of any kind that is registered when the field is validated."""
        return Annotated[Any, PlainValidator(self.validate)]

    def validate(self, value: Any) -> Section:
        """The section that `value` describes: {"kind": ..., parameter: value, ...}, or such a section itself.

        Raises:
            ValueError: an unknown kind, in one line.
            pydantic.ValidationError: parameters that this kind does not take (a ValueError as well).
        """
        if isinstance(value, tuple(self.values())):
            return value
        known = f"known: {', '.join(self)}"
        if not isinstance(value, dict) or "kind" not in value:
            raise one_line(f"must map parameters to values and name a kind; {known}")
        kind = value["kind"]
        if not isinstance(kind, str) or kind not in self:
            raise one_line(f"unknown kind {kind!r}; {known}{suggestion(kind, self)}")
        try:
            content = json.dumps(value)  # from JSON a list may fill a tuple, while every scalar keeps its exact type
        except (TypeError, ValueError, RecursionError) as err:
            raise one_line(f"holds a value that JSON has no form for ({err})") from None
        return self[kind].model_validate_json(content)


def one_line(message: str) -> PydanticCustomError:
    """A ValueError that pydantic passes on as it is."""
    return PydanticCustomError("kind", "{message}", {"message": message})


def suggestion(name: object, known: Iterable[str]) -> str:
    """' (did you mean ...?)' where a known name is close, else nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
