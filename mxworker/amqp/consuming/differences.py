"""What a broker has and the code does not ask for, read from the broker's refusals.

RabbitMQ names one difference in each refusal (406). Declaring the queue again as the broker has it, as far as that is
known, brings out the next one; when the declaration is accepted, all of them are known.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

# The answer of RabbitMQ 3.10 to 4.x to a declaration with other arguments than those of the queue.
_INEQUIVALENT = re.compile(r"inequivalent arg '(?P<key>[^']+)'.*?received (?P<ours>.+?) but current is (?P<theirs>.+)")
# The answer to an argument that this type of queue does not have.
_NOT_OF_THE_TYPE = re.compile(r"invalid arg '(?P<key>[^']+)' for queue .* of queue type rabbit_(?P<type>\w+)_queue")
_TYPED_VALUE = re.compile(r"(?:the value )?'(?P<value>[^']*)'(?: of type '(?P<type>\w+)')?.*")
_NUMBERS = frozenset({"signedint", "unsignedint", "long", "short", "byte", "unsignedbyte", "unsignedshort"})
_NONE = "none"
_TELLING = frozenset({"durable", "x-queue-type"})
# A retry queue with another one of these does not move its messages back after its delay, or loses some.
_RETRY_NEEDS = frozenset(
    {"x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-expires", "durable", "auto_delete"}
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A queue as the broker is asked for it. Those of mxworker are durable, and are never deleted by the broker."""

    arguments: Mapping[str, Any]
    durable: bool = True
    auto_delete: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """One argument of a queue: what the broker has, and what the code says, as they are shown."""

    key: str
    theirs: str
    ours: str
    value: Any = None
    """The broker's value; None when there is none, or when it cannot be read."""
    is_readable: bool = True

    def __str__(self) -> str:
        return f"{self.key} is {self.theirs}, code says {self.ours}"


def difference_in(text: str, asked: Asked) -> Difference | None:
    """Return the difference that the text of a refusal names, None when it names none."""
    misplaced = not_of_the_type(text)
    if misplaced is not None:
        key, _ = misplaced
        return Difference(key, _NONE, f"'{asked.arguments[key]}'") if key in asked.arguments else None
    found = _INEQUIVALENT.search(text)
    if found is None:
        return None
    key, theirs = found["key"], found["theirs"].strip()
    value, is_readable = _value(theirs, asked.arguments.get(key))
    # Before 4.0, RabbitMQ tells no type of a classic queue that was declared without one.
    shown = "'classic'" if key == "x-queue-type" and value is None else _shown(theirs)
    return Difference(key, shown, _shown(found["ours"].strip()), value, is_readable)


def not_of_the_type(text: str) -> tuple[str, str] | None:
    """Return the argument that a refusal names as one that this type of queue does not have, and the type."""
    found = _NOT_OF_THE_TYPE.search(text)
    return (found["key"], found["type"]) if found is not None else None


def in_order(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Return the differences with the most telling ones first."""
    return tuple(sorted(differences, key=lambda difference: (difference.key not in _TELLING, difference.key)))


def as_the_broker_has(asked: Asked, difference: Difference) -> Asked | None:
    """Return what to ask for with the broker's value, None when it cannot be asked for with that."""
    key, value = difference.key, difference.value
    if not difference.is_readable:
        return None
    if key in ("durable", "auto_delete"):
        return replace(asked, **{key: value == "true"})
    if not key.startswith("x-"):
        return None
    others = {name: ours for name, ours in asked.arguments.items() if name != key}
    return replace(asked, arguments=others if value is None else {**others, key: value})


def breaks_retries(differences: Iterable[Difference]) -> bool:
    """Whether a queue with these differences cannot be a retry queue."""
    return any(difference.key in _RETRY_NEEDS or not difference.is_readable for difference in differences)


def _value(described: str, ours: Any) -> tuple[Any, bool]:
    """Return the described value, and whether it could be read. The type is told only if `ours` is of another one."""
    if described == _NONE:
        return None, True
    found = _TYPED_VALUE.fullmatch(described)
    if found is None:
        return None, False
    value, kind = found["value"], found["type"]
    if kind == "bool" or (kind is None and isinstance(ours, bool)):
        return value == "true", True
    if kind in _NUMBERS or (kind is None and isinstance(ours, int)):
        return (int(value), True) if value.lstrip("-").isdecimal() else (None, False)
    return value, kind in (None, "longstr")


def _shown(described: str) -> str:
    found = _TYPED_VALUE.fullmatch(described)
    return f"'{found['value']}'" if found else described
