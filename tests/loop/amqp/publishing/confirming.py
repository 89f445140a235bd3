"""A scripted broker's side of publishing: it notes what was published, and confirms only when a test says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pamqp import base, body, commands, header
from pamqp import frame as frames

from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import Peer

NO_ROUTE = 312


@dataclass(frozen=True, eq=False)
class Published:
    """One publish as the broker saw it."""

    peer: Peer
    channel: int
    tag: int
    message_id: str
    body: bytes

    def ack(self, multiple: bool = False) -> None:
        self.peer.send(commands.Basic.Ack(self.tag, multiple), self.channel)

    def nack(self, multiple: bool = False) -> None:
        self.peer.send(commands.Basic.Nack(self.tag, multiple, False), self.channel)

    def give_back(self) -> None:
        """Return it as unroutable; its confirm is another matter."""
        self.peer.send(commands.Basic.Return(NO_ROUTE, "NO_ROUTE", "", "q"), self.channel)
        properties = commands.Basic.Properties(message_id=self.message_id)
        self.peer.write(frames.marshal(header.ContentHeader(0, len(self.body), properties), self.channel))
        if self.body:
            self.peer.write(frames.marshal(body.ContentBody(self.body), self.channel))

    def close_channel(self, code: int, text: str) -> None:
        """Close the channel it came by."""
        self.peer.send(commands.Channel.Close(code, text, 60, 40), self.channel)


Look = Callable[[Peer, int, base.Frame], Awaitable[None]]


class Confirming:
    """A script for `FakeBroker`, and what it noted over all its connections."""

    def __init__(self, frame_max: int = 131_072, on_look: Look | None = None) -> None:
        """`on_look` answers exchange.declare, channel.close and nothing else; default: every exchange exists."""
        self.published: list[Published] = []
        self._frame_max = frame_max
        self._on_look = on_look

    async def script(self, peer: Peer) -> None:
        """Serve one connection."""
        await peer.handshake(self._frame_max)
        counts: Counter[int] = Counter()
        while True:
            channel, frame = await peer.read()
            match frame:
                case commands.Basic.Publish():
                    counts[channel] += 1
                    self.published.append(await _content(peer, channel, counts[channel]))
                case commands.Channel.Open():
                    counts[channel] = 0
                    peer.send(commands.Channel.OpenOk(), channel)
                case commands.Confirm.Select():
                    peer.send(commands.Confirm.SelectOk(), channel)
                case commands.Exchange.Declare() | commands.Channel.Close() if self._on_look is not None:
                    await self._on_look(peer, channel, frame)
                case commands.Exchange.Declare():
                    peer.send(commands.Exchange.DeclareOk(), channel)
                case commands.Channel.Close():
                    peer.send(commands.Channel.CloseOk(), channel)
                case commands.Connection.Close():
                    peer.send(commands.Connection.CloseOk())
                    return

    async def until(self, count: int) -> list[Published]:
        """Wait until `count` publishes have come, and return all there are."""
        await until(lambda: len(self.published) >= count, what=f"{count} publishes, not {len(self.published)}")
        return self.published


async def _content(peer: Peer, channel: int, tag: int) -> Published:
    _, head = await peer.read()
    assert isinstance(head, header.ContentHeader)
    received = b""
    while len(received) < head.body_size:
        _, part = await peer.read()
        assert isinstance(part, body.ContentBody)
        received += part.value
    return Published(peer, channel, tag, head.properties.message_id or "", received)
