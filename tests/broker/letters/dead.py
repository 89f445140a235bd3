"""Dead letters for tests, as mxworker leaves them, and the queue that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pamqp import commands

from tests.rabbit.client import Client, Received

DIED_AT = datetime(2026, 11, 29, 8, 30, tzinfo=UTC)


def letter(
    number: int,
    *,
    handler: str = "app.order",
    reason: str = "failed",
    error_type: str = "ValueError",
    **headers: object,
) -> tuple[bytes, commands.Basic.Properties]:
    """Return body and properties of a dead letter, the text of whose error has its number."""
    facts = {
        "mx-queue": "orders",
        "mx-handler": handler,
        "mx-attempts": 4,
        "mx-reason": reason,
        "mx-error-type": error_type,
        "mx-error": f"no order {number}",
        "mx-failed-at": DIED_AT,
        "mx-origin-exchange": "shop",
        "mx-origin-routing-key": "orders.new",
        **headers,
    }
    properties = commands.Basic.Properties(
        content_type="application/json", delivery_mode=2, message_id=f"order-{number}", headers=facts
    )
    return f'{{"id":{number}}}'.encode(), properties


class Dead:
    """A work queue and its dead-letter queue, as mxworker declares them."""

    def __init__(self, admin: Client, name: str, *, keeps_returned: bool = True, kind: str = "quorum") -> None:
        self.admin = admin
        self.work = name
        self.name = f"{name}.dlq"
        if kind == "classic":
            admin.declare(self.name)
        elif keeps_returned:
            admin.declare_quorum(self.name)
        else:
            admin.declare(self.name, arguments={"x-queue-type": "quorum"})
        admin.declare_quorum(self.work)

    def put(self, letters: Iterable[tuple[bytes, commands.Basic.Properties]]) -> None:
        """Add letters."""
        self.admin.publish_messages(self.name, letters)

    @property
    def count(self) -> int:
        """How many letters are ready."""
        return self.admin.counts(self.name).messages

    def take(self) -> list[Received]:
        """Take all letters out."""
        return self.admin.drain(self.name)


def numbers(received: Iterable[Received]) -> list[int]:
    """Return the numbers of letters, in order."""
    return [int(each.body[6:-1]) for each in received]
