"""The broker as the work of a whole process: it serves until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from mxworker.devbroker.control import ControlServer
from mxworker.devbroker.server import EmbeddedBroker
from mxworker.devbroker.settings import Settings
from mxworker.system.memory import resident_bytes, trim

_TRIM_EVERY_S = 5.0
_TRIM_ABOVE_BYTES = 64 * 1024 * 1024
_MOST_SOCKETS = 65_536
_ENDS = frozenset({signal.SIGTERM, signal.SIGINT})


def serve(settings: Settings, announce: Callable[[str], object], listening_fd: int | None = None) -> None:
    """Serve until a signal ends it; `announce` gets the URL when clients can connect.

    `listening_fd` is an inherited socket that listens at the address of the settings. Raises OSError when the address,
    or that socket, cannot be used.
    """
    _allow_many_sockets()
    listening = None if listening_fd is None else socket.socket(fileno=listening_fd)
    asyncio.run(_serve(settings, announce, listening))


def _allow_many_sockets() -> None:
    """Raise the limit of open files: by default most systems set 1,024, and allow more to who asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_SOCKETS if hard == resource.RLIM_INFINITY else min(hard, _MOST_SOCKETS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def warning(url: str) -> str:
    """Return the box that says what this broker is."""
    return boxed(
        "The embedded broker is for development.",
        "It keeps messages in memory: all are lost when it ends.",
        f"Clients connect to {url}",
        "Ctrl-C ends it.",
    )


def boxed(*lines: str) -> str:
    """Return the lines in a box."""
    width = max(map(len, lines))
    edge = f"+-{'-' * width}-+"
    return "\n".join((edge, *(f"| {line:<{width}} |" for line in lines), edge))


async def _serve(settings: Settings, announce: Callable[[str], object], listening: socket.socket | None) -> None:
    broker = EmbeddedBroker(settings, listening)
    await broker.start()
    control = None if settings.control_path is None else ControlServer(broker, Path(settings.control_path))
    if control is not None:
        await control.start()
    end = asyncio.Event()
    for signum in _ENDS:
        asyncio.get_running_loop().add_signal_handler(signum, end.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)  # `dev` blocks its own signals, and a child inherits that
    trimming = asyncio.create_task(_trim())
    announce(broker.url)
    await end.wait()
    trimming.cancel()
    if control is not None:
        await control.stop()
    await broker.stop()


async def _trim() -> None:
    """Give the memory of messages that have gone back to the system: some 0.03 s for 200 MiB, next to none without."""
    while True:
        await asyncio.sleep(_TRIM_EVERY_S)
        if resident_bytes() > _TRIM_ABOVE_BYTES:
            trim()
