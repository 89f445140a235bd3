"""Where the observer listens: the address as it is written, and the socket that is bound to it.

The socket is bound by the command, before any fork: an address that cannot be used is an error of the command.
"""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass

from mxworker.errors import ConfigError
from mxworker.observer.http.access import is_loopback
from mxworker.system.printable import foreign

DEFAULT_PORT = 9191
LOOPBACK = "127.0.0.1"
NEXT_PORTS = 100
"""How many ports after the default one are tried when it is in use."""

_ADDRESS = re.compile(r"(?:(?P<host>\[[^\]]+\]|[^:\[\]]*):)?(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """A host, by name or number, and a port; port 0 is any free one."""

    host: str = LOOPBACK
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `127.0.0.1:9191`, `[::1]:9191`, `localhost:9191`, or a port alone. Raises ConfigError."""
        match = _ADDRESS.fullmatch(text.strip())
        if match is None or int(match["port"]) > 65535:
            raise ConfigError(f"'{foreign(text)}' is no address.  Write it like 127.0.0.1:9191 or [::1]:9191.")
        return cls((match["host"] or LOOPBACK).strip("[]"), int(match["port"]))


def listen_at(address: Address) -> socket.socket:
    """Return a listening socket at an address that the operator asked for. Raises ConfigError when there is none."""
    try:
        return _bind(address)
    except OSError as error:
        raise ConfigError(_why_not(address, error)) from error
    except ValueError as error:  # from the encoding of a name
        why = f"{foreign(address)} cannot be used: '{foreign(address.host)}' is no host name"
        raise ConfigError(f"{why}.\n  Choose another with --http.") from error


def listen_nearby(address: Address) -> socket.socket:
    """Return a listening socket at an address, or at the next free port. Raises OSError when there is none."""
    for port in (*range(address.port, address.port + NEXT_PORTS), 0):
        try:
            return _bind(Address(address.host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == 0:
                raise
    raise AssertionError("any free port is the last one that is tried")


def address_of(listening: socket.socket) -> Address:
    """Return the address to which a socket is bound, as numbers."""
    host, port = listening.getsockname()[:2]
    return Address(host.partition("%")[0], port)


def is_only_here(listening: socket.socket) -> bool:
    """Whether a socket can only be reached from this machine."""
    return is_loopback(address_of(listening).host)


def _bind(address: Address) -> socket.socket:
    family, _, _, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a service that was just stopped is not in use
        listening.bind(place)
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


def _why_not(address: Address, error: OSError) -> str:
    shown = foreign(address)
    match error.errno:
        case errno.EADDRINUSE:
            why, advice = f"{shown} is in use by another process", "Stop that one, or choose another port with --http."
        case errno.EADDRNOTAVAIL:
            why, advice = f"this machine has no address {foreign(address.host)}", "Choose one of its own with --http."
        case errno.EACCES:
            why, advice = f"{shown} is not allowed to this user", "Choose a port from 1024 on with --http."
        case _:
            why, advice = f"{shown} cannot be used: {foreign(error.strerror or error)}", "Choose another with --http."
    return f"{why}.\n  {advice}"
