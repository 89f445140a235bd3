"""Send requests to a running service over its control socket: blocking, with one connection for each request.

File names, the content of a lock and answers may come from anybody, so our texts show them through `foreign`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from mxworker.control.protocol import (
    ANSWER_BYTES,
    LOCK_BYTES,
    PEER_CREDENTIALS,
    Identity,
    Request,
    RequestRefused,
    file_name,
    line_of,
    may_be_of,
    parse_lock,
)
from mxworker.errors import ConfigError, MxWorkerError
from mxworker.system.file_access import is_given_directory, user_name
from mxworker.system.printable import foreign, well_formed

_BUSY_AGAIN_S = 0.05
_CHUNK_BYTES = 65536


class NoAnswer(MxWorkerError):
    """No service answers at the address. The text says what to do."""


def find(places: Sequence[Path], name: str | None, here: str = "") -> Path:
    """Return the socket of the service `name` in one of the places, or without a name of the service of `here`.

    When no service of the directory `here` runs, the first place in which any service runs decides, where a user's own
    place comes before the system's. If only one service runs there, and it belongs to no other directory, it is taken.
    Raises ConfigError when it is not clear which service is meant, NoAnswer when there is none.
    """
    if name is not None:
        found = _named(places, name, here)
        who = f"no service called '{foreign(name)}' runs here"
    else:
        found = _of_directory(places, here) or _first_in_use(places)
        who = "no service runs here"
    match found:
        case []:
            raise NoAnswer(
                f"{who}: there is no socket of it in {' or '.join(map(foreign, places))}.\n"
                "  Ask as the user of the service, and name its place with --control-socket if it has one of its own."
            )
        case [path]:
            identity = _identity(path)
            if name is None and identity.home and not identity.is_of(here):
                raise NoAnswer(
                    f"no service of this directory runs. One of another directory does:\n  {_shown(path)}\n"
                    f"  Say that it is meant with {foreign(identity.as_option)}"
                )
            return path
        case _:
            listed = "\n".join(f"  {_shown(path)}" for path in found)
            raise ConfigError(f"several services run here. Say which one with --name or --control-socket:\n{listed}")


def _named(places: Sequence[Path], name: str, here: str) -> list[Path]:
    """Return the sockets of the services `name`: the one with exactly that name, or that of `here`, or all others."""
    for place in dict.fromkeys(places):
        if (path := place / file_name(name)).exists():
            return [path]
        found = [path for path in _sockets_in(place) if may_be_of(path.name, name) and _may_be_named(path, name)]
        if found:
            in_use = [path for path in found if _is_in_use(path)]
            return [path for path in in_use if _identity(path).is_of(here)] or in_use or found[:1]
    return []


def _may_be_named(path: Path, name: str) -> bool:
    """Tell whether the lock beside a socket says that it is of the service `name`, or does not say whose it is."""
    return _identity(path).name in (well_formed(name), path.stem)


def _of_directory(places: Sequence[Path], here: str) -> list[Path]:
    """Return the sockets in use of the services that belong to the directory `here`."""
    found = [path for place in dict.fromkeys(places) for path in _sockets_in(place)]
    return [path for path in found if _identity(path).is_of(here) and _is_in_use(path)]


def _identity(path: Path) -> Identity:
    """Return the service of a socket, by the lock beside it, or by the file name when the lock is unreadable."""
    with suppress(OSError), path.with_name(f"{path.name}.lock").open("rb") as lock:
        if (found := parse_lock(lock.read(LOCK_BYTES))) is not None:
            return found[0]
    return Identity(path.stem)


def _shown(path: Path) -> str:
    identity = _identity(path)
    where = f" in {foreign(identity.home)}" if identity.home else ""
    return f"{foreign(identity.name)}{where}: --control-socket {foreign(path)}"


def _first_in_use(places: Sequence[Path]) -> list[Path]:
    """Return the sockets in use of the first place that has any, or else all: a killed service leaves its behind."""
    all_found = [_sockets_in(place) for place in dict.fromkeys(places)]
    in_use = ([path for path in found if _is_in_use(path)] for found in all_found)
    return next(filter(None, in_use), [path for found in all_found for path in found])


def _sockets_in(place: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in place.iterdir() if path.suffix == ".sock")
    return []


def _is_in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(os.fspath(path))
        except BlockingIOError:
            return True  # the backlog is full
        except OSError:
            return False
        return True


def ask(path: Path, request: Request, deadline: float) -> dict[str, Any]:
    """Send `request` and return the answer; retry while the service is busy.

    `deadline` is a time of time.monotonic(). Raises RequestRefused with the text of the service, and NoAnswer.
    """
    while True:
        answer = _exchange(path, request, deadline)
        if answer.get("ok") is True:
            return answer
        if not answer.get("busy") or time.monotonic() + _BUSY_AGAIN_S > deadline:
            raise RequestRefused(foreign(answer.get("error")))
        time.sleep(_BUSY_AGAIN_S)


def _exchange(path: Path, request: Request, deadline: float) -> dict[str, Any]:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_left_s(deadline))
            connection.connect(os.fspath(path))
            _check_peer(connection, path)
            with suppress(BrokenPipeError):  # a service that refused the connection may have sent the reason
                connection.sendall(line_of(request))
            line = _read_line(connection, deadline)
    except TimeoutError:
        raise NoAnswer(f"{foreign(path)} gave no answer in time.") from None
    except PermissionError:
        raise NoAnswer(f"{foreign(path)} cannot be opened. Ask as the user of the service, or as root.") from None
    except OSError as error:
        raise NoAnswer(f"no service answers at {foreign(path)}: {error.strerror or error}.") from None
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise NoAnswer(f"{foreign(path)} gave no whole answer.")
    return answer


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Read until the end of the line, or until the connection ends."""
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= ANSWER_BYTES:
        connection.settimeout(_left_s(deadline))
        try:
            chunk = connection.recv(_CHUNK_BYTES)
        except ConnectionResetError:
            break
        if not chunk:
            break
        received += chunk
    return bytes(received)


def _check_peer(connection: socket.socket, path: Path) -> None:
    """Accept only a service of our own user or of root, because others may have put a socket into their directory.

    Root also accepts the service of another user in a directory that was given to that user, such as /run/mxworker
    from systemd.
    """
    _, uid, _ = PEER_CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    )
    us = os.geteuid()
    if uid in (0, us) or (us == 0 and path.parent.stat().st_uid == uid and is_given_directory(path.parent)):
        return
    raise NoAnswer(
        f"{foreign(path)} belongs to a process of another user, {user_name(uid)}, and is not believed.\n"
        f"  If that is the service, ask as its user:  runuser -u {user_name(uid)} -- mxworker ..."
    )


def _left_s(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
