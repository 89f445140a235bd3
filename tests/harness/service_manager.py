"""The service manager of a test: a datagram socket as systemd's, and what came to it."""

from __future__ import annotations

import socket
import time

from tests.harness.waiting import wait_until


class ServiceManager:
    """The socket, and all that was read from it. A line's instant is when we looked, so look often.

    The kernel keeps about ten datagrams for who does not look (unix(7), max_dgram_qlen).
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[tuple[int, str]] = []

    def listen(self) -> list[str]:
        """Return the assignments that came since the last call, in order."""
        lines = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                break
        self.heard += [(time.monotonic_ns(), line) for line in lines]
        return lines

    def wait_for(self, line: str, within_s: float = 15.0) -> int:
        """Wait for `line`, that has come or comes; return about when it came."""

        def find() -> int | None:
            self.listen()
            return next((at_ns for at_ns, heard in self.heard if heard == line), None)

        found = wait_until(find, within_s, f"{line!r}; so far {self.heard}")
        assert found is not None
        return found

    def times(self, line: str) -> list[int]:
        """Return about when each such line came."""
        self.listen()
        return [at_ns for at_ns, heard in self.heard if heard == line]

    def close(self) -> None:
        self._socket.close()
