"""Free TCP ports on loopback, and whether somebody answers there."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST_PORT = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_GREETING = b"AMQP\x00\x00\x09\x01"
_FRAME_HEADER = struct.Struct(">BHI")  # type, channel, size
_CONNECTION_START = b"\x00\x0a\x00\x0a"
_VERSION = re.compile(rb"\x07versionS(.{4})", re.DOTALL)
_LOOK_S = 2.0


def free_port() -> int:
    """Return a port that nobody listens on, below the range the kernel takes client ports from.

    A port *in* that range would be no good for a broker that stops and starts again: while it is down, a client's
    own end may get the very port, and then the client talks to itself and the broker cannot come back. For the same
    reason the processes of one test run (pytest-xdist) never get a port of each other's.
    """
    end = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ours = range(_LOWEST_PORT + process, max(end, _LOWEST_PORT + processes), processes)
    system = random.SystemRandom()
    while True:
        port = system.choice(ours)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def listens(port: int) -> bool:
    """Say whether a connection to `port` is accepted."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=_LOOK_S).close()
    except OSError:
        return False
    return True


def amqp_version(port: int) -> str | None:
    """Return the version that a broker at `port` tells in connection.start; None when none answers."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_LOOK_S) as connection:
            connection.sendall(_GREETING)
            with connection.makefile("rb") as answer:
                header = answer.read(_FRAME_HEADER.size)
                payload = answer.read(_FRAME_HEADER.unpack(header)[2]) if len(header) == _FRAME_HEADER.size else b""
    except OSError:
        return None
    if not payload.startswith(_CONNECTION_START):
        return None
    match = _VERSION.search(payload)
    return payload[match.end() : match.end() + int.from_bytes(match[1])].decode() if match else ""
