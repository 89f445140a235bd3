"""What the service manager is told about the service: sd_notify(3), without its library.

This module knows nothing about workers: `loop` describes the service as a `Condition` at every turn, and the notifier
sends what changed or is due as one datagram. It neither waits nor raises, and holds nothing open between two datagrams,
so that it reaches a service manager that was restarted. Without NOTIFY_SOCKET there is no `Notifier` at all.

    when                                       what
    ----                                       ----
    the phase changed                          READY=1, RELOADING=1 or STOPPING=1
    the status changed, once a second at most  STATUS=4 of 4 workers consume
    between two phases, every 5 s              EXTEND_TIMEOUT_USEC: systemd goes on waiting
    at half of WATCHDOG_USEC                   WATCHDOG=1

A service with a worker that even SIGKILL does not end sends neither of the last two, so that systemd restarts it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import Enum

from mxworker.errors import InvariantError
from mxworker.master.slot import NS_PER_S
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.master")

NS_PER_US = 1_000

EXTEND_EVERY_NS = 5 * NS_PER_S
EXTENSION_NS = 3 * EXTEND_EVERY_NS  # so that one datagram may be lost, or the master be late
STATUS_EVERY_NS = NS_PER_S
RETRY_NS = NS_PER_S


class Phase(Enum):
    """What the service does as a whole."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Condition:
    """How the service is now."""

    phase: Phase
    wanted: int
    """How many workers there should be."""
    consuming: int
    alive: int
    is_beyond_repair: bool = False
    """Whether SIGKILL did not end a worker."""
    stop_deadline_ns: int | None = None
    """The instant by which a stop has killed the last worker."""

    @property
    def status(self) -> str:
        """One line for a human."""
        match self.phase:
            case Phase.STOPPING:
                text = f"draining: {self.alive} worker{'' if self.alive == 1 else 's'} left"
            case Phase.READY:
                text = f"{self.consuming} of {self.wanted} workers consume"
            case Phase.STARTING | Phase.RELOADING:
                text = f"{self.phase.value}: {self.consuming} of {self.wanted} workers consume"
        return f"{text}; one that was killed does not end" if self.is_beyond_repair else text


class Notifier:
    """Sends the state of the service to the service manager."""

    def __init__(self, address: str, watchdog_ns: int | None = None) -> None:
        """Tell the socket `address`: a path, or `@` and a name of the abstract namespace (unix(7)).

        `watchdog_ns` is how long the service manager waits for a sign of life before it restarts the service.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_every_ns = None if watchdog_ns is None else watchdog_ns // 2
        self._told_phase = Phase.STARTING
        self._told_status = ""
        self._status_from_ns = 0
        self._is_status_held_back = False
        self._life_due_ns: int | None = 0
        self._is_beyond_repair = False
        self._has_failed = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier | None:
        """Take the service manager's variables out of the environment; return None when there is no NOTIFY_SOCKET.

        They are taken out so that neither workers nor their children can speak for the service.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        watchdog_pid = environment.pop("WATCHDOG_PID", "")
        if not address:
            return None
        is_on = _is_count(watchdog_us) and watchdog_pid in ("", str(os.getpid()))
        return cls(address, int(watchdog_us) * NS_PER_US if is_on else None)

    def tell(self, condition: Condition, now_ns: int) -> None:
        """Send what changed and what is due. Call it at every turn, and again at `next_due_ns`."""
        self._note_repair(condition)
        is_new_phase = condition.phase is not self._told_phase
        is_new_status = condition.status != self._told_status
        self._is_status_held_back = is_new_status and now_ns < self._status_from_ns
        lines = [_announcement(condition.phase)] if is_new_phase else []
        if is_new_status and not self._is_status_held_back:
            lines.append(f"STATUS={condition.status}")
        if is_new_phase or (self._life_due_ns is not None and now_ns >= self._life_due_ns):
            lines += self._signs_of_life(condition, now_ns)
        if lines and not self._send("\n".join(lines)):
            self._life_due_ns = now_ns + RETRY_NS  # the next call sends all of it
            return
        self._told_phase = condition.phase
        if is_new_status and not self._is_status_held_back:
            self._told_status = condition.status
            self._status_from_ns = now_ns + STATUS_EVERY_NS

    @property
    def next_due_ns(self) -> int | None:
        """The instant at which `tell` has something to send although nothing changes; None for never."""
        if not self._is_status_held_back:
            return self._life_due_ns
        return self._status_from_ns if self._life_due_ns is None else min(self._life_due_ns, self._status_from_ns)

    def _signs_of_life(self, condition: Condition, now_ns: int) -> list[str]:
        """Return the lines that keep the service manager waiting, and note when they are due again."""
        is_between = condition.phase is not Phase.READY
        intervals_ns = [EXTEND_EVERY_NS] if is_between else []
        if self._feed_every_ns is not None:
            intervals_ns.append(self._feed_every_ns)
        self._life_due_ns = now_ns + min(intervals_ns) if intervals_ns else None
        if condition.is_beyond_repair:
            return []
        lines = []
        if is_between and (condition.stop_deadline_ns is None or now_ns < condition.stop_deadline_ns):
            lines.append(f"EXTEND_TIMEOUT_USEC={EXTENSION_NS // NS_PER_US}")
        if self._feed_every_ns is not None:
            lines.append("WATCHDOG=1")
        return lines

    def _note_repair(self, condition: Condition) -> None:
        if condition.is_beyond_repair and not self._is_beyond_repair:
            text = "a worker that was killed does not end; the service manager gets no sign of life any more"
            _LOG.error(text, extra=log_event("worker_unkillable"))
        self._is_beyond_repair = condition.is_beyond_repair

    def _send(self, text: str) -> bool:
        """Send one datagram, and return whether the service manager took it: it may be away, or too busy."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as out:
                out.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                _LOG.debug("cannot reach the service manager: %s", error)
            return False
        return True


def _announcement(phase: Phase) -> str:
    match phase:
        case Phase.READY:
            return "READY=1"
        case Phase.RELOADING:
            # The clock is read here: systemd ignores an instant before its request, and the request may be younger
            # than the turn of the loop that found it (systemd.service(5), notify-reload).
            return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // NS_PER_US}"
        case Phase.STOPPING:
            return "STOPPING=1"
        case Phase.STARTING:
            raise InvariantError("a service does not go back to its start")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0
