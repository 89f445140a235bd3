"""The master's loop: wait, observe, plan, act.

Does what `fleet` decides and tells it what happened; what the operator asks is for `commands`. Knows nothing about
RabbitMQ, asyncio or user code. Invariants: it sleeps until the nearest instant that the fleet names, a signal, or a
client of the control socket; `run` never returns while a worker lives; an unexpected exception ends the workers and
then the service, never supervision alone.
"""

from __future__ import annotations

import gc
import logging
import random
import select
import signal
import time
from collections.abc import Callable

from setproctitle import setproctitle

from mxworker.board.check import latest_deadline_ns
from mxworker.board.layout import Word
from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.config.process import Supervision
from mxworker.errors import ExitCode
from mxworker.master.commands import Commands
from mxworker.master.companion import Companion
from mxworker.master.control_server import ControlServer
from mxworker.master.crash_attribution import CrashAttribution
from mxworker.master.exit_report import ExitReport, describe, note_of
from mxworker.master.fleet import Fleet
from mxworker.master.isolation_turns import IsolationTurns
from mxworker.master.listener import Listener
from mxworker.master.notify import Condition, Notifier, Phase
from mxworker.master.observer import Observer, Observing
from mxworker.master.outside_view import tell_tasks
from mxworker.master.plan import Look, RollState, Send, Spawn
from mxworker.master.processes import Children, Ended
from mxworker.master.profiles import Profiles
from mxworker.master.replacing import START_ATTEMPTS
from mxworker.master.service_status import StatusReport
from mxworker.master.signals import SignalInbox
from mxworker.master.slot import NS_PER_S, Order
from mxworker.system.log import tell_error, tell_lost_lines
from mxworker.system.log_events import log_event
from mxworker.system.printable import well_formed
from mxworker.system.terminal import Terminal

_LOG = logging.getLogger("mxworker.master")

OVERSLEPT_NS = NS_PER_S
LONGEST_SLEEP_MS = 3_600_000  # poll(2) takes a C int of milliseconds; a drain timeout may be longer

Events = list[tuple[int, int]]

_NEVER_READY_TEXT = (
    "Error: no worker ever became ready: each one failed while starting, and the tries are used up.\n"
    "  The log above says how each of them ended."
)

_WEAK = (
    "this kernel, or the container, cannot seal shared memory (%s): code in a worker cannot damage what the master and "
    "the other workers keep there by mistake, but it can on purpose; Linux has it from 5.1 on"
)


def run(
    supervision: Supervision,
    board: Board,
    run_worker: Callable[[int], int],
    announce: Callable[[float, str], None],
    listener: Listener | None = None,
    terminal: Terminal | None = None,
    observing: Observing | None = None,
    companion: Companion | None = None,
) -> int:
    """Keep `supervision.workers` processes alive until told to stop, and return the exit code of the service.

    `run_worker(slot)` is called in each freshly forked child and returns its exit code; what it owes the master stands
    in `board` and `fleet.Order`. `announce(seconds, note)` is called once, when every slot has had a ready worker: the
    seconds since this call, and the note that one of them left. `listener` is where requests come in; it is left open.
    `terminal` is the one whose end makes a SIGHUP mean a drain; without it every SIGHUP means a reload. `observing` is
    what the observer runs; None for a service without one. `companion` is another child, which is kept going.

    Call from the main thread, with no other thread alive. From then on the process takes its signals through the
    master, and ignores them after this returns: the exit code is decided then.
    """
    setproctitle(f"mxworker: master {well_formed(supervision.name)}")
    notifier = Notifier.from_environment()
    inbox = SignalInbox()
    children = Children(run_worker, companion)
    if board.weakness:
        _LOG.warning(_WEAK, board.weakness, extra=log_event("board_unsealed", why=str(board.weakness)))
    gc.collect()
    gc.freeze()  # no collection touches the pages that the workers share
    try:
        master = _Master(
            supervision, board, children, inbox, announce, notifier, listener, terminal, observing, companion
        )
        return master.supervise()
    except Exception:
        _LOG.exception("the master failed; it ends its workers and gives up", extra=log_event("master_failed"))
        children.end_all(supervision.drain_timeout_s)
        return ExitCode.RUNTIME
    finally:
        inbox.close()


class _Master:
    """One run of the loop."""

    def __init__(
        self,
        supervision: Supervision,
        board: Board,
        children: Children,
        inbox: SignalInbox,
        announce: Callable[[float, str], None],
        notifier: Notifier | None,
        listener: Listener | None,
        terminal: Terminal | None,
        observing: Observing | None,
        companion: Companion | None,
    ) -> None:
        self._board = board
        self._children = children
        self._companion = companion
        self._inbox = inbox
        self._announce = announce
        self._notifier = notifier
        self._timeouts_s = (supervision.heartbeat_timeout_s, supervision.boot_timeout_s, supervision.drain_timeout_s)
        self._fleet = Fleet(supervision, random.Random())  # noqa: S311 - jitter, no secret
        self._poll = select.poll()
        self._poll.register(inbox.fd, select.POLLIN)
        self._started_ns = time.monotonic_ns()
        url = "" if observing is None else observing.url
        self._status = StatusReport(supervision, self._fleet, board, self._started_ns, url)
        profiles = Profiles(self._fleet, board, children.profile_files.fd, children.profile_files.read)
        self._commands = Commands(
            self._fleet, board, self._status, profiles, lambda order: children.send_to_all(order.value), terminal
        )
        self._control = ControlServer(listener, self._poll, self._commands.answer) if listener is not None else None
        self._observer = None
        if observing is not None:
            timeout_s = supervision.heartbeat_timeout_s
            self._observer = Observer(observing, board, children, self._status.status, timeout_s)
        self._announced = False
        self._reaps_again = False
        self._crash_attribution = CrashAttribution(board, supervision.quarantine_after)
        self._isolation_turns = IsolationTurns()
        self._exit_report = ExitReport()

    def supervise(self) -> ExitCode:
        """Turn until the fleet knows with what to end."""
        events: Events = []
        while True:
            now_ns = time.monotonic_ns()
            self._observe(now_ns)
            if self._control is not None:
                self._control.serve(events, now_ns)
            self._act(now_ns)
            if self._observer is not None:
                self._observer.act(now_ns)
            if self._companion is not None:
                self._companion.act(now_ns)
            tell_lost_lines()
            code = self._fleet.exit_code
            if code is not None:
                break
            events = self._sleep(_earliest(self._next_wakeup(now_ns), self._notify(now_ns)))
        self._exit_report.say_notes()
        if code is ExitCode.NEVER_READY:
            tell_error(_NEVER_READY_TEXT, log_event("never_ready", exit_code=code))
        return code

    # ---- wait

    def _next_wakeup(self, now_ns: int) -> int | None:
        if self._reaps_again:
            return now_ns
        return _earliest(
            self._fleet.next_wakeup(now_ns),
            None if self._control is None else self._control.next_wakeup(now_ns),
            None if self._observer is None else self._observer.next_wakeup(),
            None if self._companion is None else self._companion.next_wakeup(),
            self._commands.next_wakeup(),
            self._crash_attribution.next_wakeup(now_ns),
        )

    def _sleep(self, until_ns: int | None) -> Events:
        """Sleep until `until_ns`, a signal or a client; return what poll(2) reported.

        Tells the fleet when it took much too long.
        """
        if until_ns is None:
            return self._poll.poll()
        wait_ns = max(0, until_ns - time.monotonic_ns())
        wait_ms = -(-wait_ns // 1_000_000)  # rounded up: waking too early would only turn the loop once more
        events = self._poll.poll(min(wait_ms, LONGEST_SLEEP_MS))
        now_ns = time.monotonic_ns()
        if now_ns - until_ns > OVERSLEPT_NS:
            late_s = (now_ns - until_ns) / NS_PER_S
            facts = log_event("master_overslept", late_s=round(late_s, 3))
            _LOG.warning("the master overslept by %.1f s; it judges no heartbeat now", late_s, extra=facts)
            self._fleet.overslept(now_ns)
            if self._observer is not None:
                self._observer.overslept(now_ns)
        return events

    # ---- observe

    def _observe(self, now_ns: int) -> None:
        """Take in what happened.

        Signals are read after reaping: when a whole process group got SIGTERM, a worker that already left because of it
        must not look like one that left unasked. They are applied before the exits for the same reason, but after those
        of workers that were leaving anyhow or crashed: these ended before the stop, and do not count for its exit code.
        The board is read after reaping, so that it is final for those who left. A SIGCHLD read here may be of a
        worker that left after the reaping: no other will tell of it, so the next turn comes at once.
        """
        ended = self._children.reap()
        if self._observer is not None:
            ended = self._observer.take_in(ended, now_ns)
        signums = self._inbox.read()
        leaving = {slot.pid for slot in self._fleet.slots if slot.is_leaving}
        before = [child for child in ended if child.pid in leaving or child.has_crashed]
        for child in before:
            self._look_at(self._slot_of(child), now_ns)
            self._take_in_end(child, now_ns)
        self._reaps_again = signal.SIGCHLD in signums
        self._commands.take_signals(signums, now_ns)
        for slot in self._fleet.slots:
            self._look_at(slot.number, now_ns)
        if self._board.ever_ready:
            self._fleet.became_ready(now_ns)
        for child in ended:
            if child not in before:
                self._take_in_end(child, now_ns)
        self._heed_crashes(now_ns)
        if self._board.ever_ready:
            self._exit_report.say_notes()
        if not self._announced:
            self._announce_when_ready(now_ns)

    def _look_at(self, number: int, now_ns: int) -> None:
        """Take in what the worker of a slot tells, if it makes sense."""
        slot = self._board.checked(number)
        fault = slot.look(latest_deadline_ns(now_ns, *self._timeouts_s))
        if fault is not None:
            self._fleet.broke(number, fault, now_ns)
            return
        for key, death in slot.new_clearings():
            self._board.suspects.clear(key, death)
        told = slot.told
        look = Look(told.deadline_ns, told.state is WorkerState.READY, told.wish, told.is_burst_over)
        self._fleet.observe(number, look, now_ns)
        if told.ever_ready:
            self._board.note_ever_ready()

    def _announce_when_ready(self, now_ns: int) -> None:
        """Announce the service when every slot has had a ready worker, but for those that fail again and again."""
        wanted = [(slot, self._board.told(slot.number)) for slot in self._fleet.slots if slot.is_wanted]
        awaited = [told for slot, told in wanted if told.ever_ready or slot.failures < START_ATTEMPTS]
        if awaited and all(told.ever_ready for told in awaited):
            self._announced = True
            note = next((told.note for told in awaited if told.note), "")
            self._announce((now_ns - self._started_ns) / NS_PER_S, note)

    def _take_in_end(self, child: Ended, now_ns: int) -> None:
        """Take in that a worker ended, and say how. It is attributed first: its messages are on their way again."""
        number = self._slot_of(child)
        cause = self._crash_attribution.cause_of(self._board.told(number), child.status)
        ended = self._fleet.exited(child.pid, child.status, now_ns, cause)
        stack = self._children.stack_files(ended.slot)
        self._crash_attribution.hold(ended, child.peak_rss_bytes, stack, now_ns)
        told = self._board.told(ended.slot)
        self._status.note_exit(ended, describe(ended), note_of(ended, told))
        self._exit_report.tell(ended, told, stack, self._fleet.generation, now_ns)
        self._board.slot(ended.slot).clear_gauges()

    def _slot_of(self, child: Ended) -> int:
        return next(slot.number for slot in self._fleet.slots if slot.pid == child.pid)

    def _heed_crashes(self, now_ns: int) -> None:
        """Have the queues run alone whose messages kill, and lay that to no worker's charge."""
        change = self._crash_attribution.look([slot.number for slot in self._fleet.slots if slot.is_ready], now_ns)
        if change.has_orders:
            self._children.send_to_all(Order.LOOK.value)
        if change.is_found:
            self._fleet.forgive(now_ns)

    # ---- act

    def _act(self, now_ns: int) -> None:
        self._commands.tell_of_drain(now_ns)
        for action in self._fleet.plan(now_ns):
            match action:
                case Spawn():
                    self._spawn(action, now_ns)
                case Send(slot=number, pid=pid, order=order):
                    if order is Order.DUMP:  # the worker hangs, and may not be able to answer
                        tell_tasks(number, pid, self._board.told(number).in_flight_count)
                    self._children.send(pid, order.value)
        self._give_turn()

    def _give_turn(self) -> None:
        """Let one worker run a message alone, of those that want to."""
        pids = {slot.number: slot.pid for slot in self._fleet.slots if slot.pid is not None}
        requests = {number: self._board.told(number).words[Word.ISOLATION_WANTED] for number in pids}
        turn = self._isolation_turns.next({number: request for number, request in requests.items() if request})
        if turn is not None:
            self._board.checked(turn.slot).grant(turn.request)
            self._children.send(pids[turn.slot], Order.LOOK.value)

    def _spawn(self, spawn: Spawn, now_ns: int) -> None:
        self._board.checked(spawn.slot).prepare(spawn.generation, spawn.is_on_trial, spawn.boot_deadline_ns)
        try:
            pid = self._children.spawn(spawn.slot)
        except OSError as error:
            facts = log_event("spawn_failed", worker=spawn.slot, error=str(error))
            _LOG.warning("worker %d cannot be started: %s", spawn.slot, error, extra=facts)
            self._fleet.spawn_failed(spawn, now_ns)
        else:
            self._fleet.spawned(spawn, pid, now_ns)

    # ---- tell the service manager

    def _notify(self, now_ns: int) -> int | None:
        """Tell the service manager how the service is, and return when it must hear again; None for never."""
        if self._notifier is None:
            return None
        self._notifier.tell(self._condition(now_ns), now_ns)
        return self._notifier.next_due_ns

    def _condition(self, now_ns: int) -> Condition:
        return Condition(
            phase=self._phase(),
            wanted=self._fleet.wanted,
            consuming=self._fleet.ready,
            alive=sum(slot.pid is not None for slot in self._fleet.slots),
            is_beyond_repair=self._fleet.is_beyond_repair(now_ns),
            stop_deadline_ns=self._fleet.stop_deadline_ns,
        )

    def _phase(self) -> Phase:
        if self._fleet.stop_deadline_ns is not None:
            return Phase.STOPPING
        if not self._announced:
            return Phase.STARTING
        return Phase.RELOADING if self._fleet.roll.state is RollState.ROLLING else Phase.READY


def _earliest(*instants: int | None) -> int | None:
    """Return the earliest of instants, where None is never."""
    return min((instant for instant in instants if instant is not None), default=None)
