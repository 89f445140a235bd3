"""A connection without a socket: what one protocol writes, the other receives in the next turn of the event loop.

Nothing is lost, cut or delayed, and no buffer fills. Faults of networks are for tests with sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def connect(client: asyncio.Protocol, server: asyncio.Protocol, on_moved: Callable[[], object]) -> asyncio.Transport:
    """Connect two protocols, and return the client's transport. `on_moved` is called after each receipt of bytes."""
    here, there = Pipe(client, on_moved), Pipe(server, on_moved)
    here.join(there)
    there.join(here)
    server.connection_made(there)
    client.connection_made(here)
    return here


class Pipe(asyncio.Transport):
    """One end of a connection. It belongs to one event loop."""

    def __init__(self, protocol: asyncio.BaseProtocol, on_moved: Callable[[], object]) -> None:
        super().__init__()
        self._protocol = protocol
        self._on_moved = on_moved
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._other: Pipe

    def join(self, other: Pipe) -> None:
        """Write to `other` from now on."""
        self._other = other

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Have the other end receive bytes, unless this end was closed."""
        if data and not self._is_closing:
            self._loop.call_soon(self._other.receive, bytes(data))

    def receive(self, data: bytes) -> None:
        """Hand bytes to the protocol, unless this end was closed."""
        if not self._is_closing:
            assert isinstance(self._protocol, asyncio.Protocol)
            self._protocol.data_received(data)
            self._on_moved()

    def close(self) -> None:
        """Close both ends; the other one after it received what was written."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._end)
            self._loop.call_soon(self._other.close)

    def abort(self) -> None:
        """Close both ends."""
        self.close()

    def _end(self) -> None:
        self._protocol.connection_lost(None)
        self._on_moved()

    def is_closing(self) -> bool:
        """Tell whether this end was closed."""
        return self._is_closing

    def can_write_eof(self) -> bool:
        """Tell that there is no half-closed state."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing, since there is no buffer."""

    def get_write_buffer_size(self) -> int:
        """Return 0, since there is no buffer."""
        return 0

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol of this end."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand bytes to another protocol from now on."""
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the default, since there is no socket."""
        return default
