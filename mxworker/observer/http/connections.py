"""The HTTP server: connections on asyncio, parsed by h11. It knows no routes.

No client can hold up another one, whatever it sends or does not send:

* A request has a head of at most 8 KiB, which must be there within five seconds, and no body.
* A client must take a reply within ten seconds. Between two requests it may be silent for a minute or so.
* There are at most 100 connections. A new one takes the place of the one that has been of no use for the longest time:
  a client that asks at once is served at once, however many others are connected.
* A client that sends a second request before it has the first reply is not served again on that connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import h11

from mxworker.observer.http.reply import Reply, Request, header_lines, text_reply
from mxworker.system.log import LineBudget
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.observer")

CONNECTIONS = 100
HEAD_BYTES = 8 * 1024
_BACKLOG = 256
_VERSIONS = (b"1.0", b"1.1")

Answer = Callable[[Request], Reply]


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds a connection may take for each step."""

    head_s: float = 5.0
    reply_s: float = 10.0
    idle_s: float = 75.0  # more than the usual interval of scrapes, which is a minute at most
    linger_s: float = 1.0


USUAL = Patience()


class HttpServer:
    """Serves one listening socket."""

    def __init__(self, answer: Answer, patience: Patience = USUAL) -> None:
        """`answer` returns the reply to a request; what it raises is logged, and the reply is a 500."""
        self.patience = patience
        self._answer = answer
        self._connections: dict[_Connection, None] = {}  # by their last use, the oldest first
        self._failed = LineBudget()

    async def start(self, listening: socket.socket) -> asyncio.Server:
        """Serve a listening socket from now on."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Connection(self), sock=listening, backlog=_BACKLOG)

    # ---- for the connections

    def admit(self, connection: _Connection) -> None:
        """Give a new connection a place, if need be that of the connection which was used the longest time ago."""
        if len(self._connections) >= CONNECTIONS:
            next(iter(self._connections)).abort()
        self._connections[connection] = None

    def used(self, connection: _Connection) -> None:
        """Note that a connection was of use just now."""
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def forget(self, connection: _Connection) -> None:
        """Give the place of a connection free."""
        self._connections.pop(connection, None)

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request."""
        try:
            return self._answer(request)
        except Exception:  # a bug of ours; the next request may do better
            more = self._failed.spend(asyncio.get_running_loop().time())
            if more is not None:
                facts = log_event("http_request_failed", path=request.path)
                _LOG.exception("a request for %r failed%s", request.path, more, extra=facts)
            return text_reply("This failed; the log says how.", HTTPStatus.INTERNAL_SERVER_ERROR)


class _Connection(asyncio.Protocol):
    """One connection: it waits for a request, replies, and waits again, until it lingers for the client to leave."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._patience = server.patience
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None
        self._is_idle = True
        """Whether nothing of the next request has come."""
        self._is_ending = False
        """Whether the last reply was written; what comes after it is thrown away."""
        self._is_written = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)
        self._server.admit(self)
        self._end_in(self._patience.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place free."""
        self._server.forget(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """Reply, if a request is complete now."""
        if self._is_ending:
            return
        if self._is_idle:
            self._is_idle = False
            self._end_in(self._patience.head_s)
        try:
            self._http.receive_data(data)
            self._serve()
        except h11.RemoteProtocolError as error:
            self._refuse(HTTPStatus(error.error_status_hint))

    def eof_received(self) -> None:
        """Close: a client that sends nothing more has no other request, and its reply is written first."""

    def pause_writing(self) -> None:
        """Note that the client has not taken all of the reply yet."""
        self._is_written = False

    def resume_writing(self) -> None:
        """Go on: the client has taken all of the reply."""
        self._is_written = True
        self._next()

    def abort(self) -> None:
        """End the connection at once."""
        self._server.forget(self)
        self._transport.abort()

    # ---- requests and replies

    def _serve(self) -> None:
        event = self._http.next_event()
        if not isinstance(event, h11.Request):
            return
        if event.http_version not in _VERSIONS:
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif _head_bytes(event) > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif isinstance(self._http.next_event(), h11.EndOfMessage):
            self._send(self._server.answer(_request(event)), event.method == b"HEAD")
        elif event.method in (b"GET", b"HEAD"):
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:  # the routes refuse it, and nobody waits for its body
            self._send(self._server.answer(_request(event)), is_last=True)

    def _send(self, reply: Reply, is_head: bool = False, is_last: bool = False) -> None:
        """Write a reply, and wait for the next request if there may be one."""
        if is_last or self._http.trailing_data[0]:
            reply = replace(reply, headers=(*reply.headers, ("Connection", "close")))
        response = h11.Response(
            status_code=reply.status, reason=reply.status.phrase, headers=header_lines(reply, formatdate(usegmt=True))
        )
        body = [] if is_head else [h11.Data(data=reply.body)]
        pieces = [self._http.send(event) for event in (response, *body, h11.EndOfMessage())]
        self._end_in(self._patience.reply_s)
        self._transport.write(b"".join(piece for piece in pieces if piece))
        if self._is_written:
            self._next()

    def _refuse(self, status: HTTPStatus) -> None:
        """Reply to what is no request that we take."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(text_reply(status.phrase, status), is_last=True)
        else:
            self.abort()

    def _next(self) -> None:
        """Go on after a reply that the client has taken."""
        self._server.used(self)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._is_idle = True
            self._end_in(self._patience.idle_s)
        elif not self._is_ending:
            # To close with unread data would reset the connection, and the client might lose the reply (RFC 9112, 9.6).
            self._is_ending = True
            self._end_in(self._patience.linger_s)
            self._transport.write_eof()

    def _end_in(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.abort)


def _head_bytes(event: h11.Request) -> int:
    """Return about how long a head was: h11 bounds only one that comes in several pieces."""
    return len(event.target) + sum(len(name) + len(value) for name, value in event.headers)


def _request(event: h11.Request) -> Request:
    headers = {name: value.decode("latin-1") for name, value in event.headers}
    return Request(
        method=event.method.decode("ascii"),
        target=event.target.decode("ascii"),
        host_header=headers.get(b"host"),
        authorization=headers.get(b"authorization"),
        accept=headers.get(b"accept", ""),
    )
