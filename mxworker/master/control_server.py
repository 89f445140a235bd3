"""The control socket in the master's poll loop: it serves the operator, who is this user or root.

No client can hold up supervision, whatever it sends or does not send. In one turn of the loop the server reads from or
writes to each client once, without waiting, and answers one request. At most 32 clients are connected. Each has five
seconds to send a request and take the answer, however slowly it sends. When all places are taken, a new client gets the
place of one that has not sent a whole request in half a second; if there is none, the new client is told to try again.
The server reads nothing from a client whose request waits, or that has not taken its answer, so a client takes the
memory of one request and one answer.

A forked child closes all descriptors by number and never returns into the master's frames, so its copies of these
objects are never finalised.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mxworker.control.protocol import (
    PEER_CREDENTIALS,
    REQUEST_BYTES,
    Metrics,
    ProfilePart,
    ProfileState,
    Request,
    RequestRefused,
    Status,
    answer_line,
    parse,
    refusal,
)
from mxworker.master.listener import Listener
from mxworker.master.slot import NS_PER_S
from mxworker.system.log import LineBudget
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.master")

CLIENTS = 32
REQUEST_TIME_NS = 5 * NS_PER_S
PLACE_TIME_NS = NS_PER_S // 2  # an honest client sends its request in one piece, at once
ACCEPTS_PER_TURN = 32
DEAF_NS = NS_PER_S  # without free descriptors, a waiting connection would wake the loop again and again

_BUSY = answer_line({**refusal("the service is busy with other requests. Try again."), "busy": True})
_FORBIDDEN = answer_line(refusal("the service takes requests from its own user and from root alone."))
_TOO_LONG = answer_line(refusal(f"a request has at most {REQUEST_BYTES} bytes, on one line."))
_FAILED = answer_line(refusal("the service failed to deal with this; its log says how."))

_UNTOLD = (Status, Metrics, ProfileState, ProfilePart)
"""Requests that change nothing, and come again and again."""

Answer = Callable[[Request, int], Mapping[str, Any]]
"""Executes a request at an instant, and returns the answer's fields. Raises RequestRefused."""


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket, who: str, now_ns: int) -> None:
        self.connection = connection
        self.fd = connection.fileno()
        self.who = who
        self.deadline_ns = now_ns + REQUEST_TIME_NS
        self.received = b""  # at most one byte more than a request has
        self.unsent = b""
        self.is_last = False
        """Whether the connection ends with the present answer."""

    @property
    def has_request(self) -> bool:
        """Whether a whole request was received, or more bytes than a request may have."""
        return b"\n" in self.received or len(self.received) > REQUEST_BYTES

    def take_line(self) -> bytes | None:
        """Return the request without its line end; None when it is longer than a request may be."""
        line, end, rest = self.received.partition(b"\n")
        self.received = rest
        return line if end and len(line) < REQUEST_BYTES else None


class ControlServer:
    """Serves the clients of one listener, in the turns of the master's loop."""

    def __init__(self, listener: Listener, poll: select.poll, answer: Answer) -> None:
        """Register with `poll`; each request is passed to `answer`."""
        self._listening = listener.socket
        self._listening_fd = listener.socket.fileno()
        self._poll = poll
        self._answer = answer
        self._clients: dict[int, _Client] = {}
        self._waiting: deque[_Client] = deque()
        """The clients that have a request; at most all of them."""
        self._deaf_until_ns: int | None = None
        self._asked = LineBudget()
        self._failed = LineBudget()
        poll.register(self._listening, select.POLLIN)

    def next_wakeup(self, now_ns: int) -> int | None:
        """Return the next instant at which `serve` has something to do though nothing was reported."""
        if self._waiting:
            return now_ns
        instants = [client.deadline_ns for client in self._clients.values()]
        if self._deaf_until_ns is not None:
            instants.append(self._deaf_until_ns)
        return min(instants, default=None)

    def serve(self, events: Sequence[tuple[int, int]], now_ns: int) -> None:
        """Serve the clients for one turn; `events` are those of `poll`, of all descriptors. Never raises."""
        for fd, event in events:
            client = self._clients.get(fd)
            if fd == self._listening_fd:
                self._accept(now_ns)
            elif client is not None:
                self._attend(client, event, now_ns)
        if self._waiting:
            self._deal_with(self._waiting.popleft(), now_ns)
        for client in [client for client in self._clients.values() if client.deadline_ns <= now_ns]:
            self._drop(client)
        if self._deaf_until_ns is not None and self._deaf_until_ns <= now_ns:
            self._deaf_until_ns = None
            self._poll.modify(self._listening_fd, select.POLLIN)

    # ---- connecting

    def _accept(self, now_ns: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            except OSError as error:
                _LOG.warning(
                    "control socket: cannot take a connection: %s",
                    error,
                    extra=log_event("control_accept_failed", error=str(error)),
                )
                self._deaf_until_ns = now_ns + DEAF_NS
                self._poll.modify(self._listening_fd, 0)
                return
            connection.setblocking(False)
            pid, uid, _ = PEER_CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
            )
            if uid not in (0, os.geteuid()):
                _turn_away(connection, _FORBIDDEN)
            elif len(self._clients) < CLIENTS or self._make_room(now_ns):
                client = _Client(connection, f"process {pid} of user {uid}", now_ns)
                self._clients[client.fd] = client
                self._poll.register(client.fd, select.POLLIN)
            else:
                _turn_away(connection, _BUSY)

    def _make_room(self, now_ns: int) -> bool:
        """Take the place of the client that has been sending its request for the longest time, if that is too long."""
        sending = [client for client in self._clients.values() if not client.has_request and not client.unsent]
        slowest = min(sending, key=lambda client: client.deadline_ns, default=None)
        if slowest is None or slowest.deadline_ns - REQUEST_TIME_NS + PLACE_TIME_NS > now_ns:
            return False
        with suppress(OSError):
            slowest.connection.send(_BUSY)
        self._drop(slowest)
        return True

    # ---- requests and answers

    def _attend(self, client: _Client, event: int, now_ns: int) -> None:
        try:
            if client.unsent:
                self._send(client, now_ns)
            elif event & select.POLLIN and not client.has_request:
                self._receive(client)
            elif event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                self._drop(client)  # the client has gone, and waits for no answer
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        chunk = client.connection.recv(REQUEST_BYTES + 1 - len(client.received))
        client.received += chunk
        if client.has_request:
            self._waiting.append(client)
            self._poll.modify(client.fd, 0)
        elif not chunk:
            self._drop(client)

    def _deal_with(self, client: _Client, now_ns: int) -> None:
        client.unsent = self._answered(client, now_ns)
        self._poll.modify(client.fd, select.POLLOUT)
        self._attend(client, select.POLLOUT, now_ns)

    def _answered(self, client: _Client, now_ns: int) -> bytes:
        line = client.take_line()
        if line is None:
            client.is_last = True
            return _TOO_LONG
        try:
            request = parse(line)
            if not isinstance(request, _UNTOLD):
                self._tell_request(request, client.who, now_ns)
            return answer_line({"ok": True, **self._answer(request, now_ns)})
        except RequestRefused as error:
            return answer_line(refusal(str(error)))
        except Exception:  # a bug of ours; no request may end the supervision of the workers
            self._tell_failure(now_ns)
            return _FAILED

    def _send(self, client: _Client, now_ns: int) -> None:
        client.unsent = client.unsent[client.connection.send(client.unsent) :]
        if client.unsent:
            return
        if client.is_last:
            self._drop(client)
            return
        client.deadline_ns = now_ns + REQUEST_TIME_NS
        if client.has_request:
            self._waiting.append(client)
            self._poll.modify(client.fd, 0)
        else:
            self._poll.modify(client.fd, select.POLLIN)

    def _tell_request(self, request: Request, who: str, now_ns: int) -> None:
        more = self._asked.spend(now_ns / NS_PER_S)
        if more is not None:
            facts = log_event("control_request", request=str(request), asked_by=who)
            _LOG.info("control socket: %s, asked by %s%s", request, who, more, extra=facts)

    def _tell_failure(self, now_ns: int) -> None:
        more = self._failed.spend(now_ns / NS_PER_S)
        if more is not None:
            _LOG.exception("control socket: a request failed%s", more, extra=log_event("control_request_failed"))

    # ---- disconnecting

    def _drop(self, client: _Client) -> None:
        self._poll.unregister(client.fd)
        del self._clients[client.fd]
        with suppress(ValueError):
            self._waiting.remove(client)
        client.connection.close()


def _turn_away(connection: socket.socket, line: bytes) -> None:
    with suppress(OSError):
        connection.send(line)
    connection.close()
