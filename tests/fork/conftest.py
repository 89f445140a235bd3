"""A real master with made-up workers (`program.py`), and the means to hurt it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.repository import REPOSITORY
from tests.harness.service_manager import ServiceManager
from tests.harness.waiting import wait_until

DIED_WITH_MASTER_S = 3.0


@dataclass(frozen=True)
class Event:
    at_ns: int
    slot: int
    pid: int
    what: str


class Service:
    """One run of the program, in a session of its own, by which every process of it is found."""

    def __init__(self, directory: Path, arguments: list[str], prefix: list[str]) -> None:
        self._events = directory / "events"
        self._stderr = directory / "stderr"
        command = [sys.executable, "-m", "tests.fork.program", "--events", str(self._events), *arguments]
        with self._stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*prefix, *command], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
        self.pid = self.process.pid

    # ---- what happened

    def stderr(self) -> str:
        return self._stderr.read_text()

    def events(self, what: str = "", slot: int | None = None) -> list[Event]:
        """Return the events whose text starts with `what`."""
        if not self._events.exists():
            return []
        split = [line.split(" ", 3) for line in self._events.read_text().split("\n")[:-1]]
        found = [Event(int(at), int(number), int(pid), text) for at, number, pid, text in split]
        return [event for event in found if event.what.startswith(what) and slot in (None, event.slot)]

    def wait_for(self, what: str, slot: int | None = None, count: int = 1, within_s: float = 60.0) -> list[Event]:
        """Wait for `count` such events; fail at once when the service ended before."""

        def enough() -> list[Event] | None:
            found = self.events(what, slot)
            if len(found) >= count:
                return found
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.stderr()}"
            return None

        found = wait_until(enough, within_s, f"{count} x {what}; so far {self.events()}\n{self.stderr()}")
        assert found is not None
        return found

    def wait(self, within_s: float = 60.0) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {within_s:g} s:\n{self.stderr()}") from None

    def survivors(self) -> list[int]:
        """Return the pids of all living processes of the session, the master included."""
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if self._is_of_session(pid)]

    def wait_until_gone(self) -> None:
        wait_until(lambda: not self.survivors(), DIED_WITH_MASTER_S, f"the end of {self.survivors()}")

    def worker(self, slot: int) -> int:
        """Return the pid of the newest process of `slot`."""
        return self.events("boot", slot)[-1].pid

    # ---- what is done to it

    def kill(self, *signums: signal.Signals) -> None:
        for signum in signums:
            self.process.send_signal(signum)

    def kill_group(self, signum: signal.Signals) -> None:
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            pass  # it has ended already

    def end(self) -> None:
        for pid in self.survivors():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def _is_of_session(self, pid: int) -> bool:
        try:
            state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            return False
        return int(session) == self.pid and state != "Z"


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("behaviour", "--option", ...)` starts a service; what is left of it at the end is killed."""
    services: list[Service] = []

    def begin(*arguments: str, prefix: tuple[str, ...] = ()) -> Service:
        directory = tmp_path / str(len(services))
        directory.mkdir()
        services.append(Service(directory, list(arguments), list(prefix)))
        return services[-1]

    yield begin
    for service in services:
        service.end()


@pytest.fixture
def start_ready(start: Start) -> Start:
    """Start a service and wait until it announced itself."""

    def begin(*arguments: str) -> Service:
        service = start(*arguments)
        service.wait_for("announce")
        return service

    return begin


def seconds_between(first_ns: int, then_ns: int | None = None) -> float:
    return ((time.monotonic_ns() if then_ns is None else then_ns) - first_ns) / 1e9


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(str(tmp_path / "notify"))
    yield manager
    manager.close()
