"""Refuses an application that would declare one queue in two ways: as its own, and as one beside another queue.

The broker accepts the first declaration of a queue and answers every other one with a 406, at every start. A queue that
is taken as it is, and one whose declarations are equal, collides with nothing.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from mxworker.api.callables import place_of
from mxworker.api.compilation import Handler
from mxworker.api.queues import Queue
from mxworker.api.topology import Declaration, Role, beside, only_declared, quarantine
from mxworker.errors import AppLoadError
from mxworker.system.printable import foreign

_ROLES: Mapping[Role, str] = {
    "dead-letter": "the dead-letter queue",
    "retry": "a retry queue",
    "quarantine": "the quarantine queue",
}


def refuse_collisions(
    handlers: Sequence[Handler], declared: Sequence[Queue], fault_of: Callable[[str, str], AppLoadError]
) -> None:
    """Raise the error of `fault_of` for the first queue of the application that it would also declare beside another.

    `declared` are the queues without a handler. `fault_of` gets the name of the queue, and the text for the one who
    uses it.
    """
    queues = {queue.name: queue for queue in (*declared, *(handler.queue for handler in handlers))}
    for owner, of_whom, needed in _all_beside(handlers, declared):
        queue = queues.get(needed.name)
        if queue is None or not queue.declare == needed.declare == "ensure":
            continue
        if queue.declared_arguments() != dict(needed.arguments):
            raise fault_of(queue.name, _told(queue, owner, of_whom, needed))


def _all_beside(handlers: Sequence[Handler], declared: Sequence[Queue]) -> Iterator[tuple[Queue, str, Declaration]]:
    """Yield each queue, with words for what uses it, and with each queue that is declared beside it."""
    for handler in handlers:
        place = place_of(handler.function)
        of_whom = f"handler '{handler.name}'{f' at {foreign(place)}' if place else ''}"
        for declaration in (*beside(handler.queue, handler.retry_steps_ms), quarantine(handler.queue)):
            yield handler.queue, of_whom, declaration
    for queue in map(only_declared, declared):
        for declaration in beside(queue):
            yield queue, f'declare("{queue.name}")', declaration


def _told(queue: Queue, owner: Queue, of_whom: str, needed: Declaration) -> str:
    text = (
        f"uses queue '{queue.name}', which is {_ROLES[needed.role]} of queue '{owner.name}' ({of_whom}), "
        "too. The broker refuses to declare one queue in two ways (406)"
    )
    rename = "give one of the two queues another name"
    if needed.role == "retry":
        return f"{text}.\n  Messages wait in a retry queue and are not to be consumed: {rename}"
    same = f'Queue("{queue.name}", dead_letter=False)'
    advice = f"To consume what is in it, write {same}: a message that fails there, too, is then dropped"
    apart = f'; or write Queue("{owner.name}", dead_letter=False)' if needed.role == "dead-letter" else ""
    return f"{text}.\n  {advice}. Otherwise {rename}{apart}"
