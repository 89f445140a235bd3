"""What the log says when a worker has ended: how it ended, which messages it held, and the note it left.

This module does not know what follows the end. A *note* is the text that a worker which cannot start leaves for the
operator. Invariants: each note is logged once for each generation of the code. When many workers end, only some of
them are logged, so that a crash loop does not fill a disk. Until a worker was ready, notes are held back: if the start
fails, they are the last lines of the log, where people look first.
"""

from __future__ import annotations

import logging
import signal

from mxworker.board.lifecycle import WorkerState
from mxworker.board.reading import Told
from mxworker.errors import NEEDS_A_HUMAN, ExitCode
from mxworker.master.plan import Exit
from mxworker.master.slot import NS_PER_S
from mxworker.master.slot_states import Reason
from mxworker.system.exit_status import in_words
from mxworker.system.log import LineBudget, is_json, say, tell_error
from mxworker.system.log_events import log_event
from mxworker.system.printable import head
from mxworker.system.stacks import readable

_LOG = logging.getLogger("mxworker.master")

IN_FLIGHT_SHOWN = 20
STACK_SHOWN_BYTES = 8 * 1024
NOTES_REMEMBERED = 100

_ERROR = "Error: "


class ExitReport:
    """Logs the ends of workers."""

    def __init__(self) -> None:
        self._endings = LineBudget()
        self._notes: dict[str, int] = {}
        """The notes of this generation of the code, each with the exit code of the worker that left it."""
        self._unsaid: list[str] = []
        self._keeps_notes = True
        self._generation = 0

    def tell(self, ended: Exit, told: Told, stack: str, generation: int, now_ns: int) -> None:
        """Log the end of a worker, by what it had told, with at most 8 KiB of the stacks that it left.

        `generation` is that of the code that workers load now.
        """
        note = note_of(ended, told)
        if note:
            self._take_note(note, ended.status, generation)
        if ended.as_asked:
            return
        unsaid = self._endings.spend(now_ns / NS_PER_S)
        if unsaid is None:
            return
        in_flight = told.in_flight_count
        shown = head(readable(stack), STACK_SHOWN_BYTES) if stack else ""
        _LOG.log(
            logging.DEBUG if note else logging.WARNING,
            "worker %d (process %d) %sended after %.1f s: %s%s%s%s%s",
            ended.slot,
            ended.pid,
            _why_hung(ended, told),
            ended.uptime_s,
            describe(ended),
            "" if ended.reason is Reason.CRASH else f" ({ended.reason.value})",
            f"; {_messages(in_flight)} back to the broker" if in_flight else "",
            "" if ended.retry_in_s is None else f"; the next one starts in {ended.retry_in_s:.2f} s",
            unsaid,
            extra=log_event("worker_ended", **_facts(ended, in_flight))
            | ({"stack": shown} if shown and is_json() else {}),
        )
        if shown and not is_json():
            say(shown)
        if ended.reason in (Reason.HANG, Reason.DRAIN_TIMEOUT):
            _tell_what_it_held(ended, told, in_flight, now_ns)

    def say_notes(self) -> None:
        """Log the notes that were held back, and from now on log each at once."""
        self._keeps_notes = False
        for note in self._unsaid:
            tell_error(note, log_event("start_failed", exit_code=self._notes[note]))
        self._unsaid.clear()

    def _take_note(self, note: str, status: int, generation: int) -> None:
        if generation != self._generation:  # a note of the new code is news, even if the old code left the same
            self._generation = generation
            self._notes.clear()
            self._unsaid.clear()
        if note not in self._notes and len(self._notes) < NOTES_REMEMBERED:
            self._notes[note] = status
            self._unsaid.append(note)
        if not self._keeps_notes:
            self.say_notes()


def _facts(ended: Exit, in_flight: int) -> dict[str, object]:
    """Return the fields of a JSON record."""
    return {
        "worker": ended.slot,
        "worker_pid": ended.pid,
        "uptime_s": round(ended.uptime_s, 3),
        "reason": ended.reason.value,
        "status": ended.status,
        "in_flight": in_flight,
        "next_start_s": ended.retry_in_s,
    }


def _messages(count: int) -> str:
    return "1 message goes" if count == 1 else f"{count} messages go"


def note_of(ended: Exit, told: Told) -> str:
    """Return the note of a worker that could not start; "" for all others.

    A handler may have ended its process with the same exit code; then the note in the slot says what it consumed.
    """
    note = told.note
    return note if ended.status in NEEDS_A_HUMAN and note.startswith(_ERROR) else ""


def describe(ended: Exit) -> str:
    """Return `SIGSEGV` or `exit code 1`, with an explanation where one is needed."""
    words = in_words(ended.status)
    if ended.status == ExitCode.DRAIN_TIMEOUT:
        return f"{words}, handlers were still running when its drain ended"
    if ended.status == -signal.SIGKILL and ended.reason is Reason.CRASH:
        return f"{words}, not sent by the master (perhaps out of memory: see the kernel's log)"
    return words


def _why_hung(ended: Exit, told: Told) -> str:
    if ended.reason is not Reason.HANG:
        return ""
    if told.state in (WorkerState.VACANT, WorkerState.BOOTING):
        return "did not start in time (--boot-timeout) and "
    if ended.status == -signal.SIGKILL:  # SIGABRT had no effect
        return "did not run its event loop (it was stopped, or is stuck in the kernel) and "
    return "blocked its event loop and "


def _tell_what_it_held(ended: Exit, told: Told, count: int, now_ns: int) -> None:
    shown = told.in_flight()[:IN_FLIGHT_SHOWN]
    for held in shown:
        held_s = (now_ns - held.started_ns) / NS_PER_S
        _LOG.warning(
            "worker %d held %s: message id %r, delivery tag %d, for %.1f s",
            ended.slot,
            held.handler,
            held.message_id,
            held.delivery_tag,
            held_s,
            extra=log_event(
                "worker_held_delivery",
                worker=ended.slot,
                worker_pid=ended.pid,
                handler=held.handler,
                queue=held.queue,
                message_id=held.message_id,
                delivery_tag=held.delivery_tag,
                held_s=round(held_s, 3),
            ),
        )
    if count > len(shown):
        facts = log_event("worker_held_more", worker=ended.slot, worker_pid=ended.pid, deliveries=count - len(shown))
        _LOG.warning("worker %d held %d more", ended.slot, count - len(shown), extra=facts)
