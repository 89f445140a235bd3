"""One connection through the proxy: two sockets and, for each direction, a pump.

The way of a byte: read -> rules, on whole frames -> delay -> pieces -> gate -> allowance -> write.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from tests.harness.faults import Conditions, Direction, How, Rule
from tests.harness.frames import BODY, HEADER, RAW, Frame, FrameSplitter

_READ_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s; close() then sends RST, socket(7)


def reset(connection: socket.socket) -> None:
    """Make the coming close of this socket a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


class Link:
    """Passes one connection on; ends when both directions ended, or when it is cut."""

    def __init__(self, number: int, accepted: socket.socket, conditions: Conditions) -> None:
        self.number = number
        self.streams: dict[Direction, Stream] = {}
        self._accepted = accepted
        self._conditions = conditions
        self._writers: list[asyncio.StreamWriter] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, upstream: tuple[str, int] | None) -> None:
        """Serve the accepted socket until it ends; without an upstream read it and never answer."""
        self._task = asyncio.current_task()
        try:
            client_reader, client_writer = await asyncio.open_connection(sock=self._accepted)
            self._writers.append(client_writer)
            if upstream is None:
                await _swallow(client_reader)
                return
            broker_reader, broker_writer = await asyncio.open_connection(*upstream)
            self._writers.append(broker_writer)
            await self._pass_on(client_reader, client_writer, broker_reader, broker_writer)
        except OSError as error:
            self.note(f"ended by {error!r}")
            await self._wait_for_open_wire()  # the news of a dead peer does not cross a silent wire either
            self._reset()
        finally:
            for writer in self._writers:
                writer.close()

    async def _pass_on(
        self,
        client_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
        broker_reader: asyncio.StreamReader,
        broker_writer: asyncio.StreamWriter,
    ) -> None:
        to_broker = Stream(Direction.TO_BROKER, client_reader, broker_writer, self, self._conditions)
        to_client = Stream(Direction.TO_CLIENT, broker_reader, client_writer, self, self._conditions)
        self.streams = {Direction.TO_BROKER: to_broker, Direction.TO_CLIENT: to_client}
        pumps = [asyncio.create_task(stream.pump()) for stream in self.streams.values()]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _wait_for_open_wire(self) -> None:
        for gate in self._conditions.gates.values():
            await gate.wait()

    def cut(self, how: How) -> None:
        """End both directions now."""
        self.note(f"cut ({how.value})")
        if how is How.RST:
            self._reset()
        if how is How.FIN and self.streams:
            for stream in self.streams.values():
                stream.end()
        elif self._task:
            self._task.cancel()
        else:
            self._accepted.close()  # cut before it ran: nobody else would close it

    async def inject(self, direction: Direction, raw: bytes) -> None:
        """Write `raw` between two frames; a link that ends meanwhile does not mind."""
        try:
            await self.streams[direction].send(raw)
        except OSError:
            self.note(f"{direction.value} could not inject")

    def _reset(self) -> None:
        if not self._writers and self._accepted.fileno() >= 0:
            reset(self._accepted)
        for writer in self._writers:
            if not writer.is_closing():
                reset(writer.get_extra_info("socket"))
            writer.transport.abort()

    def note(self, text: str) -> None:
        """Add to the trace."""
        self._conditions.trace.note(self.number, text)


class Stream:
    """One direction of a link."""

    def __init__(
        self,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: Link,
        conditions: Conditions,
    ) -> None:
        writer.transport.set_write_buffer_limits(0)  # drain() then waits until the kernel has every byte
        self._direction = direction
        self._reader = reader
        self._writer = writer
        self._link = link
        self._conditions = conditions
        self._splitter = FrameSplitter()
        self._content_rules: dict[int, Rule] = {}
        self._has_ended = False
        self._writing = asyncio.Lock()  # one writer at a time, so that what is injected stands between two frames

    async def pump(self) -> None:
        """Pass bytes on until the source ends, then pass on the end."""
        while data := await self._reader.read(_READ_BYTES):
            await self.send(b"".join(map(self._after_rules, self._splitter.feed(data))))
        await self.send(self._splitter.unfinished)
        await self._conditions.gates[self._direction].wait()
        self._link.note(f"{self._direction.value} ended")
        self.end()

    def end(self) -> None:
        """Send a FIN, once. What still comes is read and goes nowhere."""
        if not self._has_ended:
            self._has_ended = True
            self._writer.write_eof()

    async def send(self, data: bytes) -> None:
        """Write `data` as the conditions allow."""
        async with self._writing:
            pace = self._conditions.pace[self._direction]
            if pace.delay_s and data:
                await asyncio.sleep(pace.delay_s)
            for piece in pace.pieces(data, self._conditions.rng):
                await self._conditions.gates[self._direction].wait()
                if self._has_ended:
                    return
                await self._write(piece)
                await asyncio.sleep(len(piece) / pace.bytes_per_s if pace.bytes_per_s else 0)

    async def _write(self, piece: bytes) -> None:
        allowed = self._conditions.allowance(self._direction, len(piece))
        if allowed:
            self._writer.write(piece[:allowed])
            await self._writer.drain()
        self._conditions.spend(self._direction, allowed)

    def _after_rules(self, frame: Frame) -> bytes:
        rule = self._rule_for(frame)
        if rule is None:
            if frame.kind not in (HEADER, BODY, RAW):
                self._conditions.trace.note_frame(self._link.number, self._direction, frame)
            return frame.raw
        raw = rule.action(frame)
        fate = "dropped" if not raw else f"became {len(raw)} bytes"
        self._conditions.trace.note_frame(self._link.number, self._direction, frame, fate)
        return raw

    def _rule_for(self, frame: Frame) -> Rule | None:
        if frame.kind in (HEADER, BODY):
            if rule := self._content_rules.get(frame.channel):
                return rule
        else:
            self._content_rules.pop(frame.channel, None)
        rules = self._conditions.rules
        found = next((rule for rule in rules if rule.direction is self._direction and rule.takes(frame)), None)
        if found and found.content:
            self._content_rules[frame.channel] = found
        return found


async def _swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(_READ_BYTES):
        pass
