"""A service of made-up workers under the real master, run as a program of its own by the tests of this folder.

`python -m tests.fork.program OPTIONS BEHAVIOUR[,BEHAVIOUR...]`: one behaviour per slot, the last one for the rest.
Workers and the program append what happens to the file `--events`, one line each: `instant slot pid what`.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from resource import struct_rusage
from types import FrameType, SimpleNamespace

from mxworker.board.layout import Given, Word
from mxworker.board.lifecycle import Wish, WorkerState
from mxworker.board.metrics_layout import Outcome, RowWord
from mxworker.board.page import Board
from mxworker.config.bounds import MAX_WORKERS
from mxworker.config.process import Supervision
from mxworker.errors import ConfigError
from mxworker.master import loop
from mxworker.master.listener import Listener
from mxworker.master.observer import Observing
from mxworker.observer import main as observer
from mxworker.observer.http.access import Access
from mxworker.observer.http.addresses import Address, address_of, listen_at
from mxworker.system.child import ring
from mxworker.system.exit_status import in_words
from mxworker.system.log import set_up
from mxworker.system.terminal import Terminal
from tests.harness.scribbling import FILLS, scribble

TURN_S = 0.02
Wait4 = Callable[[int, int], tuple[int, int, struct_rusage]]


class Worker:
    """What a behaviour can do: the worker's side of the contract with the master."""

    def __init__(self, options: argparse.Namespace, board: Board, number: int) -> None:
        self.options = options
        self.number = number
        self.slot = board.slot(number)
        self.directives = board.directives
        self.suspects = board.suspects
        self.asked: list[int] = []
        self.has_beaten = False

    def say(self, what: str) -> None:
        say(self.options.events, self.number, what)

    def boot(self) -> None:
        self.slot.words[Word.PID] = os.getpid()
        self.slot.write_state(WorkerState.BOOTING)
        self.say(f"boot {self.slot.given[Given.SPAWNS]}")
        for signum in (signal.SIGTERM, signal.SIGRTMAX):
            signal.signal(signum, self._asked)
        signal.signal(signal.SIGUSR1, lambda signum, frame: self.say("dump"))
        signal.signal(signal.SIGURG, lambda signum, frame: self.look())
        self.slot.name_handler(0, "orders", "shop.orders")
        self.look()

    def look(self) -> None:
        directives = self.directives
        self.say(f"look {directives.all_paused} {','.join(directives.paused_queues)} {directives.log_level}")

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        self.asked.append(signum)
        self.say(signal.Signals(signum).name)

    def beat(self) -> None:
        is_first = not self.has_beaten
        self.has_beaten = True
        self.slot.beat(time.monotonic_ns() + round(self.options.heartbeat * 1e9))
        if is_first:
            ring()

    def become_ready(self) -> None:
        self.say("ready")  # before the master can know: what it does for it comes after it among the events
        self.beat()
        self.slot.write_note("consumes orders")
        self.slot.words[Word.EVER_READY] = 1
        self.slot.write_state(WorkerState.READY)
        ring()

    def turn_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.beat()
            time.sleep(TURN_S)

    def serve(self) -> int:
        self.turn_until(lambda: bool(self.asked))
        self.say("left")
        return 0

    def start(self) -> None:
        self.boot()
        self.become_ready()


def say(events: Path, number: int, what: str) -> None:
    line = f"{time.monotonic_ns()} {number} {os.getpid()} {what}\n"
    fd = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


# ---- behaviours, by name


def healthy(worker: Worker) -> int:
    worker.start()
    return worker.serve()


def many_queues(worker: Worker) -> int:
    for index in range(100):
        worker.slot.name_handler(index, f"handler_{index}", f"shop.order-{index}")
    worker.start()
    return worker.serve()


def slow_boot(worker: Worker) -> int:
    worker.boot()
    time.sleep(worker.options.slow_s or 0.5)
    worker.become_ready()
    return worker.serve()


def blocked(worker: Worker) -> int:
    """The first process of the slot blocks in Python while it holds deliveries; its successors are healthy."""
    worker.start()
    if worker.slot.given[Given.SPAWNS] == 1:
        for tag in range(1, 31):
            worker.slot.enter(0, tag, 1, f"message-{tag}".encode(), time.monotonic_ns())
        while True:
            pass
    return worker.serve()


def holding(worker: Worker) -> int:
    worker.boot()
    worker.slot.enter(0, 7, 1, b"message-7", time.monotonic_ns())
    worker.become_ready()
    return worker.serve()


def hangs_in_boot(worker: Worker) -> int:
    worker.boot()
    while True:
        time.sleep(1)


def endless_drain(worker: Worker) -> int:
    """Drain for ever, unless cut short."""
    worker.start()
    worker.turn_until(lambda: signal.SIGRTMAX in worker.asked)
    return 0


def deaf(worker: Worker) -> int:
    worker.start()
    worker.turn_until(lambda: False)
    return 0


def drain_times_out(worker: Worker) -> int:
    worker.start()
    worker.turn_until(lambda: bool(worker.asked))
    return 6


def drains_slowly(worker: Worker) -> int:
    worker.start()
    worker.turn_until(lambda: bool(worker.asked))
    end = time.monotonic() + (worker.options.slow_s or 1.0)
    worker.turn_until(lambda: time.monotonic() > end)
    return 0


def refuses(code: int) -> Callable[[Worker], int]:
    def behave(worker: Worker) -> int:
        worker.boot()
        worker.slot.write_note(f"Error: cannot start, {code}.\n  Try:  something else")
        return code

    return behave


def raises(worker: Worker) -> int:
    worker.boot()
    raise RuntimeError("made-up failure")


def exits_by_system_exit(worker: Worker) -> int:
    worker.boot()
    sys.exit(3)


def crashes_after_ready(worker: Worker) -> int:
    worker.start()
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def exits_after_ready(worker: Worker) -> int:
    """The first process of the slot ends as one that could not load the application; its successors are healthy."""
    worker.start()
    if worker.slot.given[Given.SPAWNS] == 1:
        os._exit(3)
    return worker.serve()


def crashes_with_many_threads(worker: Worker) -> int:
    for _ in range(40):
        threading.Thread(target=nested, args=(20, threading.Event().wait), daemon=True).start()
    worker.start()
    segfaults(worker)
    return 0


def nested(depth: int, innermost: Callable[[], object]) -> None:
    """Have a stack that is deep."""
    if depth:
        nested(depth - 1, innermost)
    else:
        innermost()


def logs(worker: Worker) -> int:
    """Log more in each turn than a pipe holds for long."""
    worker.start()
    while not worker.asked:
        worker.beat()
        for _ in range(50):
            logging.getLogger("shop").info("%s", "x" * 3000)
        worker.say("logged")
        time.sleep(TURN_S)
    return 0


def crashes_when_respawned(worker: Worker) -> int:
    return healthy(worker) if worker.slot.given[Given.SPAWNS] == 1 else crashes_after_ready(worker)


def first_healthy_then_refuses_3(worker: Worker) -> int:
    return healthy(worker) if worker.slot.given[Given.GENERATION] == 1 else refuses(3)(worker)


def wishes_once(worker: Worker) -> int:
    worker.start()
    if worker.slot.given[Given.SPAWNS] == 1:
        worker.slot.words[Word.WISH] = Wish.MESSAGES
        ring()
    return worker.serve()


def finishes(worker: Worker) -> int:
    worker.start()
    worker.slot.words[Word.IS_BURST_OVER] = 1
    return 0


def shows_fds(worker: Worker) -> int:
    worker.boot()
    worker.say(f"fds {' '.join(open_fds())}")
    worker.become_ready()
    return worker.serve()


def shows_environment(worker: Worker) -> int:
    worker.say(f"environment {sorted({'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'} & os.environ.keys())}")
    worker.start()
    return worker.serve()


def open_fds() -> list[str]:
    """Return the standard streams by number, others by what they are of, without that of the listing."""
    names = []
    for fd in sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        try:
            names.append(str(fd) if fd <= 2 else Path(f"/proc/self/fd/{fd}").readlink().name.split()[0])
        except FileNotFoundError:
            pass
    return names


def segfaults(worker: Worker) -> None:
    ctypes.string_at(0)


def leaves_without_a_word(worker: Worker) -> None:
    os._exit(0)


def is_killed(worker: Worker) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(worker: Worker) -> None:
    while True:
        pass


def drains_in_vain(worker: Worker) -> None:
    worker.slot.write_state(WorkerState.DRAINING)
    os._exit(6)


def holding_two(end: Callable[[Worker], None], alone: bool = False) -> Callable[[Worker], int]:
    """Return a behaviour: the first process of the slot ends so while it holds two deliveries; the next one tells."""

    def behave(worker: Worker) -> int:
        worker.slot.name_handler(0, "orders", "orders")
        worker.start()
        if worker.slot.given[Given.SPAWNS] == 1:
            for tag, key in ((1, 7), (2, -8)):
                worker.slot.enter(0, tag, 1, f"message-{tag}".encode(), time.monotonic_ns(), key)
            worker.slot.show_alone(-8 if alone else None)
            end(worker)
        for key in (7, -8):
            suspect = worker.suspects.find(key)
            if suspect is not None:
                last = suspect.last
                stack = "program.py" in worker.suspects.stack(suspect.death)
                rss = last.peak_rss_bytes > 5_000_000
                facts = f"{in_words(last.status)}, hang {last.is_hang}, alone {suspect.was_alone}, stack {stack}"
                worker.say(f"suspect {key}: {suspect.kills} kills, {facts}, rss {rss}")
        worker.say("told")
        return worker.serve()

    return behave


def leaves_as_if_refused(worker: Worker) -> None:
    os._exit(3)


def at_start(end: Callable[[Worker], None]) -> Callable[[Worker], int]:
    """Return a behaviour: the first four processes of the slot end so with a delivery in flight, before they are ready.

    The next one is healthy.
    """

    def behave(worker: Worker) -> int:
        worker.boot()
        worker.beat()
        if worker.slot.given[Given.SPAWNS] <= 4:
            worker.slot.enter(0, 1, 1, b"message-1", time.monotonic_ns(), 7)
            end(worker)
        worker.become_ready()
        return worker.serve()

    return behave


def takes_turns(worker: Worker) -> int:
    """Ask for a turn to run something alone, again and again, and die of the fifth."""
    signal.signal(signal.SIGURG, lambda signum, frame: None)  # so that it interrupts the sleep
    worker.start()
    words = worker.slot.words
    for request in range(1, 1000):
        words[Word.ISOLATION_WANTED] = request
        worker.say("asks")
        ring()
        worker.turn_until(
            lambda: bool(worker.asked) or worker.slot.given[Given.ISOLATION_GRANTED] == words[Word.ISOLATION_WANTED]
        )
        if worker.asked:
            break
        worker.say("alone from here")
        time.sleep(0.01)
        worker.say("alone to here")
        if request == 5:
            os._exit(1)
        words[Word.ISOLATION_WANTED] = 0
        ring()
    return 0


def acked(worker: Worker) -> memoryview:
    """Return the words of the only handler."""
    return worker.slot.rows.consumer("orders", "order").words


def counts(worker: Worker) -> int:
    acked(worker)[Outcome.ACK] = 1000 + worker.number
    acked(worker)[RowWord.IN_FLIGHT] = 1
    worker.start()
    worker.slot.enter(0, 7, 1, b"message-7", time.monotonic_ns(), key=worker.number)
    return worker.serve()


def broken_by(damage: Callable[[Worker], object]) -> Callable[[Worker], int]:
    """Return a behaviour: once a queue is paused, the first process of the slot does damage to the board."""

    def behave(worker: Worker) -> int:
        acked(worker)[Outcome.ACK] = max(acked(worker)[Outcome.ACK], 500)
        worker.start()
        if worker.slot.given[Given.SPAWNS] == 1:
            worker.turn_until(lambda: bool(worker.asked or worker.directives.paused_queues))
            worker.say("damages")
            damage(worker)
            worker.say("has done damage")
        return worker.serve()

    return behave


def promises_for_ever(worker: Worker) -> None:
    worker.slot.beat(2**62)
    time.sleep(1000)


def was_never_ready(worker: Worker) -> None:
    worker.slot.words[Word.EVER_READY] = 0


DAMAGES: dict[str, Callable[[Worker], object]] = {
    **{f"fills_with_{name}": lambda worker, fill=fill: scribble(fill, 4.0) for name, fill in FILLS.items()},  # type: ignore[misc]
    **{
        f"fills_what_is_writable_with_{name}": lambda worker, fill=fill: scribble(fill, 4.0, protects_back=False)  # type: ignore[misc]
        for name, fill in FILLS.items()
    },
    "promises_for_ever": promises_for_ever,
    "was_never_ready": was_never_ready,
}


def spawns_grandchildren(worker: Worker) -> int:
    worker.start()
    for signum in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(["sleep", "1000"]) as child:
            child.send_signal(signum)
            worker.say(f"grandchild {child.wait()}")
    worker.say(f"mask {len(signal.pthread_sigmask(signal.SIG_BLOCK, []))}")
    return worker.serve()


def makes_orphans(worker: Worker) -> int:
    """Leave grandchildren that end in every way and at once or later, and one that goes on."""
    worker.start()
    ends = "sleep 0.05 & true & false & sh -c 'kill -9 $$' & sh -c 'kill -1 $$' &"
    for _ in range(worker.options.orphans // 5):
        subprocess.run(["sh", "-c", ends], check=True)
    subprocess.run(["sh", "-c", "sleep 1000 &"], check=True)
    worker.say("orphans made")
    return worker.serve()


BEHAVIOURS: dict[str, Callable[[Worker], int]] = {
    behave.__name__: behave
    for behave in (
        healthy,
        many_queues,
        slow_boot,
        blocked,
        holding,
        hangs_in_boot,
        endless_drain,
        deaf,
        drain_times_out,
        drains_slowly,
        raises,
        exits_by_system_exit,
        crashes_after_ready,
        exits_after_ready,
        crashes_with_many_threads,
        logs,
        crashes_when_respawned,
        first_healthy_then_refuses_3,
        wishes_once,
        finishes,
        shows_fds,
        shows_environment,
        spawns_grandchildren,
        makes_orphans,
        takes_turns,
        counts,
    )
}
BEHAVIOURS |= {name: broken_by(damage) for name, damage in DAMAGES.items()}
BEHAVIOURS |= {f"refuses_{code}": refuses(code) for code in (2, 3, 4)}
BEHAVIOURS |= {
    f"{end.__name__}_holding_two": holding_two(end)
    for end in (segfaults, leaves_without_a_word, is_killed, hangs, drains_in_vain)
}
BEHAVIOURS |= {f"{end.__name__}_at_start": at_start(end) for end in (segfaults, is_killed, hangs, leaves_as_if_refused)}
BEHAVIOURS["segfaults_with_one_alone"] = holding_two(segfaults, alone=True)


class LateTerminal(Terminal):
    """Looks alive for one look more than it is."""

    def __init__(self) -> None:
        self.was_there = True
        self._looks = 0

    @property
    def has_gone(self) -> bool:
        self._looks += 1
        return self._looks > 1


# ---- the program


def main() -> int:
    options = parse()
    set_up(options.log_level, "json" if options.json_log else "text")
    if options.sees_tasks:  # as Python 3.14 does
        sys.modules["asyncio.tools"] = SimpleNamespace(  # type: ignore[assignment]
            get_all_awaited_by=lambda pid: pid, build_async_tree=lambda pid: [[f"a task of process {pid}"]]
        )
    board = Board(MAX_WORKERS + 1, may_seal=not options.cannot_seal)
    behaviours = options.behaviours.split(",")

    def run_worker(number: int) -> int:
        name = behaviours[min(number, len(behaviours)) - 1]
        return BEHAVIOURS[name](Worker(options, board.of_worker(number), number))

    def announce(seconds: float, note: str) -> None:
        say(options.events, 0, f"announce {seconds:.3f} {note}")
        if options.announce_fails:
            raise RuntimeError("made-up fault of the master")

    extras = [socket.socket() for _ in range(5)] if options.open_sockets else []
    if options.term_right_after_fork:
        os.register_at_fork(
            after_in_parent=lambda: signal_newest_child(signal.SIGTERM), after_in_child=wait_for_pending_sigterm
        )
    if options.asks_right_after_fork:
        os.register_at_fork(after_in_parent=lambda: signal_newest_child(signal.SIGUSR1))
    if options.leaves_after_reaping:
        os.wait4 = waiting_for_the_next(os.wait4)
    if options.second_thread:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    supervision = Supervision(
        name=options.name,
        workers=options.workers,
        drain_timeout_s=options.drain,
        heartbeat_timeout_s=options.heartbeat,
        boot_timeout_s=options.boot,
        burst=options.burst,
        quarantine_after=options.quarantine_after,
    )
    try:
        listener = Listener(options.control) if options.control else None
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        terminal = LateTerminal() if options.terminal_goes_late else None
        observing = observed(options, board) if options.http else None
        code = loop.run(supervision, board, run_worker, announce, listener, terminal, observing)
    finally:
        if listener is not None:
            listener.close()
    del extras
    return code


def observed(options: argparse.Namespace, board: Board) -> Observing:
    """Return what the observer runs, at the address that was asked for."""
    listening = listen_at(Address.parse(options.http))
    access = Access(address_of(listening).host)
    settings = observer.Settings(listening, access, None, options.heartbeat)
    say(options.events, 0, f"http {address_of(listening).port}")
    url = f"http://{address_of(listening)}/"
    return Observing(lambda: observer.run(settings, board), frozenset({listening.fileno()}), url)


def signal_newest_child(signum: signal.Signals) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(int(children[-1]), signum)


def wait_for_pending_sigterm() -> None:
    """Let the parent be first, however busy the machine is; without the blocked signals this waits in vain."""
    end = time.monotonic() + 30.0
    while signal.SIGTERM not in signal.sigpending() and time.monotonic() < end:
        time.sleep(0.001)


def waiting_for_the_next(wait4: Wait4) -> Wait4:
    """Have a child end, and its SIGCHLD arrive, right after the master found that no more have ended."""
    seen = []

    def wait(pid: int, options: int) -> tuple[int, int, struct_rusage]:
        found = wait4(pid, options)
        if found[0] == 0 and len(seen) == 1:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if found[0] != 0:
            seen.append(found[0])
        return found

    return wait


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviours")
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--name", default="test")
    parser.add_argument("--control", type=Path)
    parser.add_argument("--http")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--heartbeat", type=float, default=30.0)
    parser.add_argument("--boot", type=float, default=30.0)
    parser.add_argument("--drain", type=float, default=10.0)
    parser.add_argument("--log-level", default="debug")  # which tells the states that tests wait for
    parser.add_argument("--json-log", action="store_true")
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--orphans", type=int, default=0)
    parser.add_argument("--slow-s", type=float)
    parser.add_argument("--quarantine-after", type=int, default=3)
    parser.add_argument("--open-sockets", action="store_true")
    parser.add_argument("--term-right-after-fork", action="store_true")
    parser.add_argument("--asks-right-after-fork", action="store_true")
    parser.add_argument("--leaves-after-reaping", action="store_true")
    parser.add_argument("--second-thread", action="store_true")
    parser.add_argument("--sees-tasks", action="store_true")
    parser.add_argument("--announce-fails", action="store_true")
    parser.add_argument("--cannot-seal", action="store_true")
    parser.add_argument("--terminal-goes-late", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
