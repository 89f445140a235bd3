"""The embedded broker of a service: when it ends by itself, a new one starts at the same address, without messages.

`KeptBroker` belongs to the process that started the broker and turns a loop of its own: it never waits, and has no
thread. It also holds the socket on which all these brokers listen, so that between two of them no other program can
take the port, and with it our clients. Clients connect again as they do after any loss of a broker; one that comes too
early waits for the next broker.

    SERVING -- its process has ended --> DOWN -- the backoff is over --> STARTING -- it says that it serves --> SERVING
                                          ^----------- its process has ended ------'
"""

from __future__ import annotations

import logging
import random
import socket
import time
from enum import Enum, auto

from mxworker.backoff import RESPAWN, next_attempt
from mxworker.devbroker.process import BrokerProcess, start_again
from mxworker.devbroker.settings import Settings
from mxworker.system.exit_status import in_words
from mxworker.system.log_events import log_event

log = logging.getLogger("mxworker")

_NS_PER_S = 1_000_000_000
_LOOK_NS = _NS_PER_S // 20  # how often to look whether a broker that starts serves already


class _State(Enum):
    SERVING = auto()
    STARTING = auto()
    DOWN = auto()


class KeptBroker:
    """A broker that serves already, and those that follow it. All instants are monotonic nanoseconds."""

    def __init__(self, broker: BrokerProcess, settings: Settings, listening: socket.socket) -> None:
        """Take over `broker`, which runs with these settings on this socket."""
        self._broker = broker
        self._settings = settings
        self._listening = listening
        self._state = _State.SERVING
        self._rng = random.Random()  # noqa: S311 - jitter, no secret
        self._refusal: str | None = None  # why the process that runs now cannot serve
        self._attempt = 0
        self._due_ns = 0
        self._started_ns = time.monotonic_ns()

    @property
    def url(self) -> str:
        """Where clients connect: the same for all brokers to come."""
        return self._broker.url

    def take_end(self, pid: int, status: int) -> bool:
        """Tell whether `pid`, which this process has reaped, was the broker. `status` is minus a signal's number."""
        is_ours = self._state is not _State.DOWN and pid == self._broker.pid
        if is_ours:
            self._broker.was_reaped(status)
        return is_ours

    def act(self, now_ns: int) -> None:
        """Do what is due: call in each turn of the loop, from a thread that outlives the broker."""
        status = None if self._state is _State.DOWN else self._broker.status
        if self._state is _State.STARTING:
            self._hear()  # after the look at the process, so that its last word is heard
        if status is not None:
            self._ended(status, now_ns)
        if self._state is _State.DOWN and now_ns >= self._due_ns:
            self._start(now_ns)

    def next_wakeup(self) -> int | None:
        """Return the next instant at which `act` may have something to do, None for the end of the broker."""
        match self._state:
            case _State.SERVING:
                return None
            case _State.STARTING:
                return time.monotonic_ns() + _LOOK_NS
        return self._due_ns

    def stop(self) -> None:
        """End the broker for good."""
        self._broker.stop()
        self._listening.close()

    def _hear(self) -> None:
        answer = self._broker.answer()
        if answer is None:
            return
        self._refusal = answer.error
        if answer.error is None:
            self._state = _State.SERVING
            text = "the embedded broker serves again at %s, without the messages of before"
            log.warning(text, self.url, extra=log_event("embedded_broker_restarted", url=self.url))

    def _ended(self, status: int, now_ns: int) -> None:
        self._attempt = next_attempt(self._attempt, (now_ns - self._started_ns) / _NS_PER_S)
        delay_s = self._wait(now_ns)
        facts = log_event("embedded_broker_ended", broker_pid=self._broker.pid, status=status, next_start_s=delay_s)
        if self._refusal is not None:
            text = "the embedded broker could not start again: %s; the next try comes in %.1f s"
            log.error(text, self._refusal, delay_s, extra=facts)
        else:
            text = (
                "the embedded broker (process %d) has ended (%s), and all its messages are lost; "
                "an empty one starts at the same address in %.1f s"
            )
            log.error(text, self._broker.pid, in_words(status), delay_s, extra=facts)

    def _start(self, now_ns: int) -> None:
        self._started_ns = now_ns
        self._refusal = None
        try:
            self._broker = start_again(self._broker, self._settings, self._listening)
        except OSError as error:
            self._attempt += 1
            text = "the embedded broker cannot be started: %s; the next try comes in %.1f s"
            log.error(text, error, self._wait(now_ns), extra=log_event("embedded_broker_unstartable"))
        else:
            self._state = _State.STARTING

    def _wait(self, now_ns: int) -> float:
        """Have the next broker start after a backoff, and return its seconds."""
        delay_s = RESPAWN.delay_s(self._attempt, self._rng)
        self._state = _State.DOWN
        self._due_ns = now_ns + round(delay_s * _NS_PER_S)
        return round(delay_s, 3)
