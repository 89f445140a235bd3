"""Single values of a sample, within the bounds that a type sets, and the error where none can be made up.

A sample is the same each time, so that two of them can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mxworker.errors import MxWorkerError

TEXT = "text"
KEY = "key"
DATE_TIME = "2030-01-02T03:04:05Z"
DATE_TIME_WITHOUT_ZONE = DATE_TIME.removesuffix("Z")
DATE, _, TIME = DATE_TIME.partition("T")
TIME_WITHOUT_ZONE = TIME.removesuffix("Z")
DURATION = "PT1M"
UUID = "5fb3d3a6-3c3b-4b1e-9f6c-2d1c5e0a7b10"
DECIMAL = "1.5"
BASE64 = "dGV4dA=="

Number = TypeVar("Number", int, float)
Part = TypeVar("Part")


class NoSample(MxWorkerError):
    """No valid payload can be made up for an annotation. The text says for which part, and what to do."""

    def __init__(self, why: str, path: str = "") -> None:
        """`path` leads to the part: the names of fields, joined by dots."""
        super().__init__(f"{path}: {why}" if path else why)
        self._why = why
        self._path = path

    def inside(self, name: str) -> NoSample:
        """Return the same error for the payload that has the part as its field `name`."""
        return NoSample(self._why, f"{name}.{self._path}" if self._path else name)


def unmatched(pattern: str) -> NoSample:
    """Return the error for a text that must match `pattern`."""
    return NoSample(
        f"no text is made up that matches the pattern {pattern!r}; give the field an example, "
        "as in Field(examples=[...]) of pydantic or Meta(examples=[...]) of msgspec"
    )


def first_of(alternatives: Iterable[Part], sample: Callable[[Part], Any]) -> Any:
    """Return the sample of the first alternative that has one. Raises the NoSample of the first."""
    errors = []
    for part in alternatives:
        try:
            return sample(part)
        except NoSample as error:
            errors.append(error)
    raise errors[0]


def text(least: int | None = None, most: int | None = None) -> str:
    """Return `TEXT`, repeated or cut to a length within the bounds."""
    wanted = max(least or 0, len(TEXT))
    longer = TEXT * math.ceil(wanted / len(TEXT))
    return longer[: wanted if most is None else min(wanted, most)]


def whole(least: int | None, most: int | None, multiple_of: int | None = None) -> int:
    """Return 1 or the whole number within the bounds, both included, that is nearest to it."""
    return _stepped(_clamped(1, least, most), most, multiple_of)


def real(
    least: float | None, most: float | None, above: float | None, below: float | None, multiple_of: float | None = None
) -> float:
    """Return 1.5 or another number from `least` to `most`, larger than `above` and smaller than `below`."""
    low = max((bound for bound in (least, above) if bound is not None), default=None)
    high = min((bound for bound in (most, below) if bound is not None), default=None)
    value = _clamped(1.5, low, high)
    if value in (above, below):
        value = (low + high) / 2 if low is not None and high is not None else value + (1 if value == above else -1)
    return _stepped(value, high, multiple_of)


def is_plain(default: Any) -> bool:
    """Tell whether the default of a field is as good a sample as any: a single value, and not an empty one."""
    return isinstance(default, bool | int | float) or (isinstance(default, str) and default != "")


def _clamped(value: Number, least: Number | None, most: Number | None) -> Number:
    if least is not None and value < least:
        return least
    return most if most is not None and value > most else value


def _stepped(value: Number, most: Number | None, multiple_of: Number | None) -> Number:
    """Return the next multiple at or above `value`, or if that exceeds `most` the one below."""
    if not multiple_of:
        return value
    steps = math.ceil(value / multiple_of)
    return multiple_of * (steps if most is None or multiple_of * steps <= most else steps - 1)
