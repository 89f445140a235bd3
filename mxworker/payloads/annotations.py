"""Inspect annotations without importing the libraries that they may name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, NewType, get_args, get_origin

_LIBRARIES_OF_CONSTRAINTS = frozenset({"msgspec", "pydantic", "pydantic_core", "annotated_types"})
_PYDANTIC = frozenset({"pydantic", "pydantic_core", "annotated_types"})
_PYDANTIC_MARKS = ("__pydantic_validator__", "__get_pydantic_core_schema__")
_SHOWN_CHARACTERS = 100


def bare(annotation: Any) -> Any:
    """Return the type behind a NewType, a `type` statement, or an Annotated without constraints.

    An Annotated with constraints is returned as it is, because somebody has to check the constraints.
    """
    while (inner := _another_name_of(annotation)) is not annotation:
        annotation = inner
    return annotation


def needs_pydantic(annotation: Any) -> bool:
    """Tell whether only pydantic can check `annotation`: it contains a pydantic model, dataclass or constraint."""
    return any(_is_for_pydantic(part) for part in _parts(annotation))


def shown(annotation: Any) -> str:
    """Return `annotation` as an error names it."""
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _another_name_of(annotation: Any) -> Any:
    if isinstance(annotation, NewType):
        return annotation.__supertype__
    if type(annotation).__name__ == "TypeAliasType":  # the `type` statement of Python 3.12, or typing_extensions'
        with suppress(Exception):  # the type that it names may be missing; the library that is asked next says so
            return annotation.__value__
    if get_origin(annotation) is Annotated and not any(map(_is_constraint, annotation.__metadata__)):
        return annotation.__origin__
    return annotation


def _is_constraint(metadata: Any) -> bool:
    return _library_of(metadata) in _LIBRARIES_OF_CONSTRAINTS


def _is_for_pydantic(part: Any) -> bool:
    return _library_of(part) in _PYDANTIC or any(hasattr(part, mark) for mark in _PYDANTIC_MARKS)


def _library_of(part: Any) -> str:
    kind = part if isinstance(part, type) else type(part)
    return kind.__module__.partition(".")[0]


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield `annotation` and everything inside it, with the metadata of Annotated."""
    seen: list[Any] = []  # a `type` statement may name itself
    rest = [annotation]
    while rest:
        part = bare(rest.pop())
        if not any(part is other for other in seen):
            seen.append(part)
            yield part
            rest.extend(get_args(part))
