"""The queues that a consumed queue needs: itself and those beside it, with their arguments, in order of declaration.

Workers declare them, and `mxworker check` compares them with the broker. The arguments are frozen: they never depend on
the broker's version, or an upgrade would be answered with a 406 (see `api.queues.Queue`).

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from mxworker.api.queues import AT_LEAST_ONCE, KEEPS_RETURNED, Queue

Role = Literal["work", "dead-letter", "retry", "quarantine"]

# Dead letters and quarantined messages wait for people, who may get a message and give it back many times.
WAITING_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"x-queue-type": "quorum", **KEEPS_RETURNED})


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is done about one queue before messages are taken from the queue that needs it."""

    name: str
    role: Role
    declare: Literal["ensure", "passive", "off"]
    """Whether it is declared, has to exist, or is not looked at."""
    arguments: Mapping[str, Any]
    """The arguments of its declaration; without one, what the application says of it."""


def declarations(queue: Queue, retry_steps_ms: Sequence[int] = ()) -> Iterator[Declaration]:
    """Yield the queues in the order in which they are declared.

    The queue itself comes after its dead-letter queue, so that a rejected message always has a queue to go to.
    """
    declare = _beside(queue)
    if queue.dead_letter:
        yield Declaration(queue.dead_letter_name, "dead-letter", declare, WAITING_ARGUMENTS)
    yield Declaration(queue.name, "work", queue.declare, queue.declared_arguments())
    for step_ms in retry_steps_ms:
        yield Declaration(queue.retry_name(step_ms), "retry", declare, _retry_arguments(queue, step_ms))


def only_declared(queue: Queue) -> Queue:
    """Return a queue that no handler consumes with what it needs: beside a queue of others that is nothing."""
    return queue if queue.declare == "ensure" else replace(queue, dead_letter=False)


def beside(queue: Queue, retry_steps_ms: Sequence[int] = ()) -> Iterator[Declaration]:
    """Yield the queues that have to exist beside `queue`."""
    return (declaration for declaration in declarations(queue, retry_steps_ms) if declaration.role != "work")


def quarantine(queue: Queue) -> Declaration:
    """Return the declaration of the queue for messages that kill workers, which is made when it is first needed."""
    return Declaration(queue.quarantine_name, "quarantine", _beside(queue), WAITING_ARGUMENTS)


def _beside(queue: Queue) -> Literal["ensure", "passive"]:
    """Return what is done about the queues beside `queue`, which are ours even if the queue is not."""
    return "passive" if queue.declare == "off" else "ensure"


def _retry_arguments(queue: Queue, step_ms: int) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": step_ms,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue.name,
        **AT_LEAST_ONCE,
        **KEEPS_RETURNED,
    }
