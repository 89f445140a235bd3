"""Processes that tests watch and end, told apart safely although the kernel uses their numbers again.

A process is its pid *and* the instant it started (field 22 of /proc/<pid>/stat, proc_pid_stat(5)). A signal goes
through a pidfd, opened before the start time is compared, so it can only reach the process that was meant.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

_ENDED = ("Z", "X")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process of this machine, alive or not."""

    pid: int
    started_at_ticks: int

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """Return the process that has this pid now; None when there is none, or only its zombie."""
        stat = _stat(pid)
        return None if stat is None or stat.state in _ENDED else cls(pid, stat.started_at_ticks)

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return Process.find(self.pid) == self

    @property
    def arguments(self) -> list[str]:
        """The command and its arguments, or a title alone; empty when the process has ended."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return []

    @property
    def title(self) -> str:
        """The title of the process, "" when it has ended."""
        return next(iter(self.arguments), "")

    def signal(self, number: Signals) -> bool:
        """Send a signal and say whether the process was still there to get it."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive:
                return False
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True


def children(pid: int) -> list[Process]:
    """Return the living children of all threads of a process, ordered by pid."""
    return sorted(process for child in _children(pid) if (process := Process.find(child)))


def zombies(pid: int) -> list[int]:
    """Return the pids of the children that have ended and that a process has not reaped, in order."""
    return sorted(child for child in _children(pid) if (stat := _stat(child)) and stat.state == "Z")


def in_session(session: int) -> list[Process]:
    """Return the living processes of a session, ordered by pid."""
    found = []
    for entry in Path("/proc").iterdir():
        stat = _stat(int(entry.name)) if entry.name.isdigit() else None
        if stat and stat.session == session and stat.state not in _ENDED:
            found.append(Process(int(entry.name), stat.started_at_ticks))
    return sorted(found)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, listing.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # that thread has ended
    return found


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    session: int
    started_at_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return _Stat(state=fields[0], session=int(fields[3]), started_at_ticks=int(fields[19]))
