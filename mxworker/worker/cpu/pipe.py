"""Frames over one socket, for both sides, with calls that await and calls that block."""

from __future__ import annotations

import asyncio
import socket

from mxworker.worker.cpu.protocol import Frame, Unpacker

_READ_BYTES = 256 * 1024  # a Unix socket holds about as much


class Pipe:
    """One end of a stream of frames. One side speaks at a time, so nothing is ever read ahead."""

    def __init__(self, end: socket.socket, max_body_bytes: int) -> None:
        """Take over `end`, one of a socket pair. A frame with a body of more than `max_body_bytes` is refused."""
        end.setblocking(False)
        self._socket = end
        self._max_body_bytes = max_body_bytes

    # ---- from the event loop

    async def send(self, frame: Frame) -> None:
        """Write a frame, and wait while the other side does not read. Raises OSError."""
        loop = asyncio.get_running_loop()
        for piece in frame.pieces():
            await loop.sock_sendall(self._socket, piece)

    async def receive(self) -> Frame | None:
        """Return the next frame, None at the end. Raises OSError, EOFError inside a frame, ProtocolBroken.

        A call that is cancelled may have read a part of a frame: do not use the pipe any more.
        """
        loop = asyncio.get_running_loop()
        unpacker = Unpacker(self._max_body_bytes)
        while True:
            data = await loop.sock_recv(self._socket, _READ_BYTES)
            if not data:
                _refuse_half(unpacker)
                return None
            if (frame := unpacker.feed(data)) is not None:
                return frame

    # ---- blocking, from any thread, while no other call awaits

    def send_now(self, frame: Frame) -> None:
        """Do as `send` does. Raises OSError."""
        self._socket.setblocking(True)
        try:
            for piece in frame.pieces():
                self._socket.sendall(piece)
        finally:
            self._socket.setblocking(False)

    def receive_now(self) -> Frame | None:
        """Do as `receive` does."""
        unpacker = Unpacker(self._max_body_bytes)
        self._socket.setblocking(True)
        try:
            while True:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    _refuse_half(unpacker)
                    return None
                if (frame := unpacker.feed(data)) is not None:
                    return frame
        finally:
            self._socket.setblocking(False)

    # ---- the end

    def end_sending(self) -> None:
        """End the stream for the other side."""
        self._shut(socket.SHUT_WR)

    def end(self) -> None:
        """End the stream for both sides."""
        self._shut(socket.SHUT_RDWR)

    def end_receiving(self) -> None:
        """Let `receive` end after the bytes that have come, although some process may still hold the other end open."""
        self._shut(socket.SHUT_RD)

    def close(self) -> None:
        """Close this end. You must call it when no other call reads or writes any more."""
        self._socket.close()

    def _shut(self, how: int) -> None:
        try:
            self._socket.shutdown(how)
        except OSError:
            pass  # the other end is closed already


def _refuse_half(unpacker: Unpacker) -> None:
    if not unpacker.is_empty:
        raise EOFError("the stream ended inside a frame")
