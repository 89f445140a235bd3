"""The expected and the actual end of every order, and their differences. Pure.

Ids are kept in sets: with at-least-once delivery the death of a worker may duplicate a message, but the shop writes
each result once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from handlers_example import bank
from handlers_example.demo.orders import Kind, Sample

ATTEMPTS = {"orders": 1, "payments": 4, "stock": 1}
"""The number of attempts that a dead letter of each queue must have had."""

_NAMED = 3


class Count(NamedTuple):
    """How many orders have met which end so far; see `Ends`."""

    sent: int
    invoiced: int
    labelled: int
    booked: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Ends:
    """The ids of the orders that have met each end."""

    invoiced: frozenset[str]
    labelled: frozenset[str]
    booked: frozenset[str]
    refused: frozenset[str]
    """Bad orders: dead letters of `orders`."""
    unpaid: frozenset[str]
    """Orders whose bank was never reached: dead letters of `payments`."""
    by_truck: frozenset[str]
    """Orders too large for one person: dead letters of `stock`."""

    def covers(self, other: Ends) -> bool:
        """Tell whether every order that has met an end in `other` has met it here too."""
        return all(getattr(self, field.name) >= getattr(other, field.name) for field in fields(Ends))

    def count(self, sent: int) -> Count:
        """Return how many of the `sent` orders have met which end."""
        dead_letters = len(self.refused) + len(self.unpaid) + len(self.by_truck)
        return Count(sent, len(self.invoiced), len(self.labelled), len(self.booked), dead_letters)


NOWHERE = Ends(*(frozenset[str]() for _ in fields(Ends)))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message of a dead-letter queue; `queue` is the queue that it came from, without the prefix."""

    queue: str
    id: str
    body: bytes
    headers: Mapping[str, Any]


def expected(samples: Iterable[Sample]) -> Ends:
    """Return the expected end of each order."""
    orders = list(samples)
    good = frozenset(order.id for order in orders if order.kind is not Kind.BAD)
    by_truck = frozenset(order.id for order in orders if order.kind is Kind.BULK)
    unpaid = frozenset(order_id for order_id in good if bank.is_unreachable_for(order_id))
    return Ends(
        invoiced=good - unpaid,
        labelled=good - unpaid,
        booked=good - by_truck,
        refused=frozenset(order.id for order in orders) - good,
        unpaid=unpaid,
        by_truck=by_truck,
    )


def differences(right: Ends, found: Ends, dead_letters: Iterable[DeadLetter]) -> list[str]:
    """Return each difference as a line for people; [] when the accounts balance."""
    return [*_misplaced(right, found), *_wrong_facts(dead_letters)]


def _misplaced(right: Ends, found: Ends) -> Iterator[str]:
    for field in fields(Ends):
        must, has = getattr(right, field.name), getattr(found, field.name)
        for what, ids in (("missing", must - has), ("too many", has - must)):
            if ids:
                more = ", ..." if len(ids) > _NAMED else ""
                yield f"{field.name}: {len(ids):,} {what}, {', '.join(sorted(ids)[:_NAMED])}{more}"


def _wrong_facts(dead_letters: Iterable[DeadLetter]) -> Iterator[str]:
    for letter in dead_letters:
        attempts = letter.headers.get("mx-attempts")
        if attempts != ATTEMPTS[letter.queue]:
            yield f"dead letter {letter.id} of {letter.queue}: {attempts} attempts instead of {ATTEMPTS[letter.queue]}"
