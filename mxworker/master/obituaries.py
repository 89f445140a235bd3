"""What is said when a worker has ended: how, what it held, and the text it left for the operator.

Knows nothing about what follows. Invariants: each text is said once for each generation of the code; of many workers
that end, only some are told of, so that a crash loop does not fill a disk.
"""

from __future__ import annotations

import logging
import signal

from mxworker.board import BoardSlot
from mxworker.errors import ExitCode
from mxworker.lifecycle import Reason
from mxworker.log import LineBudget, say
from mxworker.master.inquest import crashed_first
from mxworker.master.plan import Exit
from mxworker.master.slot import NS_PER_S
from mxworker.printable import head
from mxworker.suspects import in_words

_LOG = logging.getLogger("mxworker.master")

IN_FLIGHT_SHOWN = 20
STACK_SHOWN_BYTES = 8 * 1024
NOTES_REMEMBERED = 100

_LEAVE_A_NOTE = (ExitCode.USAGE, ExitCode.APP_LOAD, ExitCode.BROKER)


class Obituaries:
    """Tells of those who ended, one after the other."""

    def __init__(self) -> None:
        self._endings = LineBudget()
        self._notes: set[str] = set()
        self._generation = 0

    def tell(self, ended: Exit, slot: BoardSlot, stack: str, generation: int, now_ns: int) -> None:
        """Tell of the worker that was in `slot`, with the stacks it left, of which 8 KiB are shown.

        `generation` is that of the code that workers load now.
        """
        note = note_of(ended, slot)
        if note:
            self._say_once(note, generation)
        if ended.as_asked:
            return
        unsaid = self._endings.spend(now_ns / NS_PER_S)
        if unsaid is None:
            return
        in_flight = slot.in_flight_count
        _LOG.log(
            logging.INFO if note else logging.WARNING,
            "slot %d: worker %d ended after %.1f s (%s): %s; %d deliveries in flight return to the broker%s%s",
            ended.slot,
            ended.pid,
            ended.uptime_s,
            ended.reason.value,
            describe(ended),
            in_flight,
            "" if ended.retry_in_s is None else f"; next start in {ended.retry_in_s:.2f} s",
            unsaid,
        )
        if stack:
            say(head(crashed_first(stack), STACK_SHOWN_BYTES))
        if ended.reason in (Reason.HANG, Reason.DRAIN_TIMEOUT):
            _tell_what_it_held(slot, in_flight, now_ns)

    def _say_once(self, note: str, generation: int) -> None:
        if generation != self._generation:  # what the new code cannot do is news, even if the old code could not either
            self._generation = generation
            self._notes.clear()
        if note not in self._notes and len(self._notes) < NOTES_REMEMBERED:
            self._notes.add(note)
            say(note)


def note_of(ended: Exit, slot: BoardSlot) -> str:
    """Return what a worker that could not start left for the operator; empty for all others."""
    return slot.note if ended.status in _LEAVE_A_NOTE else ""


def describe(ended: Exit) -> str:
    """Return `SIGSEGV` or `exit code 1`, with a hint where the kernel gives none."""
    words = in_words(ended.status)
    if ended.status == -signal.SIGKILL and ended.reason is Reason.CRASH:
        return f"{words}, not sent by the master (perhaps out of memory: see the kernel's log)"
    return words


def _tell_what_it_held(slot: BoardSlot, count: int, now_ns: int) -> None:
    shown = slot.in_flight()[:IN_FLIGHT_SHOWN]
    for held in shown:
        _LOG.warning(
            "slot %d held %s: message id %r, delivery tag %d, for %.1f s",
            slot.number,
            held.handler,
            held.message_id,
            held.delivery_tag,
            (now_ns - held.started_ns) / NS_PER_S,
        )
    if count > len(shown):
        _LOG.warning("slot %d held %d more", slot.number, count - len(shown))
