"""What is known of queues and exchanges at the broker. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mxworker.amqp.consuming.differences import Difference


@dataclass(frozen=True, slots=True)
class FoundQueue:
    """What is known of a queue at the broker."""

    is_there: bool
    messages: int = 0
    consumers: int = 0
    differences: tuple[Difference, ...] = ()
    may_declare: bool | None = None
    """Whether our user may declare it; None when that was not asked."""
    is_compared: bool = False
    """Whether `differences` are all there are."""
    trouble: str = ""
    """What the broker said that is none of that."""

    @property
    def is_as_declared(self) -> bool:
        """Whether it exists and is known to have no differences."""
        return self.is_there and self.is_compared and not self.differences


@dataclass(frozen=True, slots=True)
class FoundExchange:
    """What is known of an exchange at the broker."""

    is_there: bool
    type: str | None = None
    """None when it was not learnt: our user may not declare it."""
    trouble: str = ""
