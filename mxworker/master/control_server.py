"""The control socket: a Unix socket in the master's poll loop, for one operator who is this user, or root.

No client can hold up supervision, whatever it sends or does not send. In one turn of the loop each client is read from
or written to once, without waiting, and one request is dealt with. At most 32 clients have a place. Each has five
seconds, however it dribbles, to send a request and take the answer; when all places are taken, one that has not sent a
whole request in half a second loses its place to the next, and if there is none such, the next is told to try again.
Nothing is read from a client whose request waits, or that has not taken its answer: a client's bytes in memory are one
request and one answer.

Who holds the lock beside the socket owns the address; the kernel takes it back when its holder dies, however that
happens, so a socket that is left over from before can be told from one in use. The lock's file is never removed: two
masters could then hold locks of the same name.

A forked child closes all descriptors by number and never gets back into the master's frames, so the objects here, of
which it has copies, are never finalised there.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import shlex
import socket
import stat
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mxworker.control.protocol import (
    ADDRESS_BYTES,
    LOCK_BYTES,
    PEER_CREDENTIALS,
    REQUEST_BYTES,
    Identity,
    Request,
    RequestRefused,
    Status,
    answer_line,
    lock_line,
    parse,
    parse_lock,
    refusal,
)
from mxworker.control.socket_directories import is_for_all, spare_for
from mxworker.errors import ConfigError
from mxworker.master.slot import NS_PER_S
from mxworker.system.file_access import changer_of, end_of_change, may_change
from mxworker.system.log import LineBudget
from mxworker.system.printable import foreign

_LOG = logging.getLogger("mxworker.master")

CLIENTS = 32
REQUEST_TIME_NS = 5 * NS_PER_S
PLACE_TIME_NS = NS_PER_S // 2  # a client that means it sends its request in one piece, at once
ACCEPTS_PER_TURN = 32
DEAF_NS = NS_PER_S  # without descriptors left, a connection that waits would wake the loop without end
_BACKLOG = 128

_BUSY = answer_line({**refusal("the service is busy with other requests. Try again."), "busy": True})
_FORBIDDEN = answer_line(refusal("the service takes requests from its own user and from root alone."))
_TOO_LONG = answer_line(refusal(f"a request has at most {REQUEST_BYTES} bytes, on one line."))
_FAILED = answer_line(refusal("the service failed to deal with this; its log says how."))

Answer = Callable[[Request, int], Mapping[str, Any]]
"""Deals with a request at an instant. Raises RequestRefused."""


class Listener:
    """The socket at its address, locked against other masters."""

    def __init__(self, path: Path, identity: Identity | None = None, as_option: str = "") -> None:
        """Take the address `path`, in a directory that exists, for the service `identity`.

        `as_option` is how to name that service on a command line.

        Raises ConfigError when another master has it or something else is there, OSError when the place cannot be used.
        """
        if len(os.fsencode(path)) > ADDRESS_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"the address of a socket has at most {ADDRESS_BYTES} bytes")
        self.path = path
        identity = identity or Identity(path.stem)
        self._lock_fd = _lock(path, identity, as_option or identity.as_option)
        try:
            self.socket = _bind(path)
        except BaseException:
            os.close(self._lock_fd)
            raise

    def close(self) -> None:
        """Give the address back."""
        with suppress(OSError):
            self.path.unlink()
        self.socket.close()
        os.close(self._lock_fd)


def _lock(path: Path, identity: Identity, as_option: str) -> int:
    """Return the descriptor that holds the lock of `path`."""
    lock = path.with_name(path.name + ".lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = parse_lock(os.read(fd, LOCK_BYTES))
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise ConfigError(
            f"another mxworker (process {holder[1] if holder else 'unknown'}) already runs under this name: it has "
            f"{foreign(path)}.\n"
            f"  Stop it with:  mxworker ctl {foreign(as_option)} stop\n"
            "  or give this one another --name, or another --control-socket."
        ) from None
    os.truncate(fd, 0)
    os.write(fd, lock_line(identity, os.getpid()))
    return fd


def _bind(path: Path) -> socket.socket:
    """Return a listening socket at `path`, for this user alone. What a dead master left there is replaced."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"'{foreign(path)}' exists and is no socket.  Name another place with --control-socket.")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    former = os.umask(0o177)
    try:
        listening.bind(os.fspath(path))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(former)
    return listening


def listen_at(path: Path, identity: Identity | None = None) -> Listener:
    """Listen at the place that the operator asked for. Raises ConfigError when that cannot be."""
    try:
        if (access := changer_of(path.parent)) is not None:
            raise ConfigError(f"{may_change(access)}, and so replace the socket.\n  {end_of_change(access)}")
        return Listener(path.absolute(), identity, f"--control-socket {shlex.quote(str(path))}")
    except OSError as error:
        raise ConfigError(f"no control socket can be made at '{foreign(path)}': {error.strerror}.") from error


def listen(identity: Identity, places: Sequence[Path]) -> Listener | None:
    """Listen as the service `identity` in the first of the places that works; None, with a warning, when none does.

    A place that others have laid hands on is passed over, with a warning: nobody shall keep a service from
    starting, nor from being asked. In a directory that is there for all, such as /tmp, another name is taken.
    Raises ConfigError when another service has the name.
    """
    for place in places:
        try:
            if place.parent.stat().st_uid in (0, os.geteuid()):  # XDG_RUNTIME_DIR outlives su(1), with another's
                return Listener(_own_or_spare(place) / identity.file_name, identity)
        except NotOurs as error:
            _LOG.warning("not used for the control socket: %s", error)
        except OSError:
            continue  # a read-only root, for one
    _LOG.warning(
        "no control socket: nothing can be written to %s. 'mxworker ctl' and 'mxworker status' will not reach this "
        "service. Name a place for it with --control-socket",
        " or ".join(map(foreign, places)),
    )
    return None


def _own_or_spare(place: Path) -> Path:
    """Return `place`, or a directory beside it when somebody else has taken its name in a directory for all."""
    try:
        own_directory(place)
    except NotOurs as error:
        if not is_for_all(place.parent):
            raise
        spare = spare_for(place)
        _LOG.warning("the control socket is in %s instead: %s", spare, str(error).partition("\n")[0])
        return spare
    return place


class NotOurs(ConfigError):
    """A directory in which others could replace the socket."""


def own_directory(path: Path) -> None:
    """See to a directory that is ours alone. Raises NotOurs when it is somebody else's, OSError without any."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or changer_of(path) is not None:
        raise NotOurs(
            f"'{foreign(path)}' must be a directory that belongs to this user and that nobody else can write to.\n"
            "  Remove it, or name another place with --control-socket."
        )


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
        """Whether what was received has to be answered."""
        return b"\n" in self.received or len(self.received) > REQUEST_BYTES

    def take_line(self) -> bytes | None:
        """Return the request that was received, without its end; None when it is longer than a request may be."""
        line, end, rest = self.received.partition(b"\n")
        self.received = rest
        return line if end and len(line) < REQUEST_BYTES else None


class ControlServer:
    """Serves the clients of one listener, in the turns of the master's loop."""

    def __init__(self, listener: Listener, poll: select.poll, answer: Answer) -> None:
        """Have `poll` report what is new; hand each request to `answer`."""
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
        """Do a turn's share of the work; `events` is what `poll` reported, of other descriptors too. Never raises."""
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

    # ---- coming

    def _accept(self, now_ns: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            except OSError as error:
                _LOG.warning("control socket: cannot take a connection: %s", error)
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

    # ---- asking, and being answered

    def _attend(self, client: _Client, event: int, now_ns: int) -> None:
        try:
            if client.unsent:
                self._send(client, now_ns)
            elif event & select.POLLIN and not client.has_request:
                self._receive(client)
            elif event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                self._drop(client)  # who has gone does not wait for an answer
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
            if not isinstance(request, Status):
                self._say(self._asked, logging.INFO, f"control socket: {request}, asked by {client.who}", now_ns)
            return answer_line({"ok": True, **self._answer(request, now_ns)})
        except RequestRefused as error:
            return answer_line(refusal(str(error)))
        except Exception:  # a bug of ours; but nothing that a client asks may end the supervision of the workers
            self._say(self._failed, logging.ERROR, "control socket: a request failed", now_ns, exc_info=True)
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

    def _say(self, budget: LineBudget, level: int, text: str, now_ns: int, exc_info: bool = False) -> None:
        more = budget.spend(now_ns / NS_PER_S)
        if more is not None:
            _LOG.log(level, "%s%s", text, more, exc_info=exc_info)

    # ---- going

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
