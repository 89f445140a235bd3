"""Exchanges and their bindings: which destinations get a message.

Pure. An exchange knows the names of queues and of other exchanges, and how its type chooses among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mxworker.devbroker.message import Message

TYPES = ("direct", "fanout", "topic", "headers")
ALTERNATE = "alternate-exchange"
QUEUE, EXCHANGE = "queue", "exchange"
_MATCHES = ("all", "any", "all-with-x", "any-with-x")

Destination = tuple[str, str]
"""The kind of a destination, QUEUE or EXCHANGE, and its name."""


@dataclass(frozen=True, eq=False)
class Binding:
    """A destination of an exchange under a routing key or, for a headers exchange, arguments."""

    destination: Destination
    routing_key: str
    arguments: Mapping[str, Any]

    def is_like(self, other: Binding) -> bool:
        """Tell whether both are one binding."""
        mine = (self.destination, self.routing_key, dict(self.arguments))
        return mine == (other.destination, other.routing_key, dict(other.arguments))


@dataclass
class Exchange:
    """An exchange with its bindings in the order in which they were made."""

    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)
    _by_key: dict[str, list[Destination]] = field(default_factory=dict)

    @property
    def alternate(self) -> str | None:
        """The exchange that gets what no binding of this one takes."""
        name = self.arguments.get(ALTERNATE)
        return name if isinstance(name, str) else None

    def bind(self, binding: Binding) -> bool:
        """Add a binding; return False when it is there already."""
        if any(binding.is_like(other) for other in self._of_key(binding.routing_key)):
            return False
        self.bindings.append(binding)
        self._by_key.setdefault(binding.routing_key, []).append(binding.destination)
        return True

    def unbind(self, binding: Binding) -> bool:
        """Take a binding away; return False when there is none."""
        found = next((other for other in self._of_key(binding.routing_key) if binding.is_like(other)), None)
        if found is not None:
            self._keep(other for other in self.bindings if other is not found)
        return found is not None

    def forget(self, destination: Destination) -> bool:
        """Take all bindings of a destination away; return False when there are none."""
        before = len(self.bindings)
        self._keep([binding for binding in self.bindings if binding.destination != destination])
        return len(self.bindings) < before

    def route(self, message: Message, routing_key: str) -> Iterable[Destination]:
        """Return the destinations of a message under one of its routing keys."""
        match self.type:
            case "direct":
                return self._by_key.get(routing_key, ())
            case "fanout":
                return (binding.destination for binding in self.bindings)
            case "topic":
                return self._topics(routing_key)
            case _:
                headers = message.headers
                return (binding.destination for binding in self.bindings if headers_match(binding.arguments, headers))

    def _topics(self, routing_key: str) -> Iterator[Destination]:
        words = tuple(routing_key.split(".")) if routing_key else ()
        for pattern, destinations in self._by_key.items():
            if topic_matches(pattern, words):
                yield from destinations

    def _of_key(self, routing_key: str) -> Iterator[Binding]:
        if routing_key not in self._by_key:
            return iter(())
        return (binding for binding in self.bindings if binding.routing_key == routing_key)

    def _keep(self, bindings: Iterable[Binding]) -> None:
        self.bindings = list(bindings)
        self._by_key = {}
        for binding in self.bindings:
            self._by_key.setdefault(binding.routing_key, []).append(binding.destination)


@lru_cache(maxsize=4096)
def topic_matches(pattern: str, words: tuple[str, ...]) -> bool:
    """Tell whether a topic pattern takes a routing key: `*` stands for one word, `#` for any number of them."""
    reached = {0}  # how many words the pattern so far may have taken
    for part in pattern.split("."):
        if part == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(words) and part in ("*", words[at])}
        if not reached:
            return False
    return len(words) in reached


def headers_match(arguments: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """Tell whether a binding of a headers exchange takes these headers; a void argument asks for presence only."""
    kind = arguments.get("x-match", "all")
    with_x = str(kind).endswith("-with-x")
    wanted = {
        name: value for name, value in arguments.items() if name != "x-match" and (with_x or not name.startswith("x-"))
    }
    found = (name in headers and (value is None or _same(value, headers[name])) for name, value in wanted.items())
    return any(found) if str(kind).startswith("any") else all(found)


def is_match(kind: object) -> bool:
    """Tell whether `x-match` has a value that exists."""
    return kind in _MATCHES


def _same(left: object, right: object) -> bool:
    """Compare without taking True for 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)
