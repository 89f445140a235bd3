"""A connection of a client: bytes in and out, heartbeats, and the closing of what went wrong.

It reads frames, hands them to the handshake or to a channel, and turns a fault into channel.close or connection.close.
What is written leaves once per turn of the event loop. While the client does not read, nothing is delivered to it, and
when too much waits for it, nothing is read from it either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from pamqp import commands
from pamqp import frame as codec
from pamqp.base import Frame

from mxworker.devbroker import frames
from mxworker.devbroker.channel import Channel
from mxworker.devbroker.client import Line
from mxworker.devbroker.clock import Clock, Timer
from mxworker.devbroker.faults import ConnectionFault, Fault
from mxworker.devbroker.handshake import Handshake, Stage
from mxworker.devbroker.methods import CONNECTION_CLOSE, CONNECTION_CLOSE_OK, decoded, method_id
from mxworker.devbroker.queues import Consumer
from mxworker.devbroker.settings import Account, Limits
from mxworker.devbroker.unacked import Held, by_queue
from mxworker.devbroker.vhost import VirtualHost
from mxworker.system.log_events import log_event

log = logging.getLogger("mxworker.devbroker")

CLOSE_PATIENCE_MS = 5_000.0
HANDSHAKE_PATIENCE_MS = 10_000.0
_HIGH_WATER_BYTES = 1024 * 1024  # of bytes that wait for a client: above it no deliveries
_SETTLEMENTS = frozenset({frames.ACK, frames.NACK, frames.REJECT})


class State(Enum):
    """Where a connection stands."""

    GREETING = "waits for the protocol header"
    HANDSHAKE = "agrees with the client"
    OPEN = "open"
    CLOSING = "closed by the broker, waits for the answer"
    CLOSED = "closed"


class Broker(Protocol):
    """What a connection knows of the broker."""

    account: Account
    limits: Limits
    alarm: str | None

    @property
    def peer_clock(self) -> Clock:
        """The clock of waits for a client."""

    def vhost(self, name: str) -> VirtualHost:
        """Return a virtual host, which is made at first use."""

    def opened(self, connection: Connection) -> None:
        """Note a connection."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""


class Connection(asyncio.Protocol):
    """One client. `frame_max` and `user` are what the handshake agreed on."""

    def __init__(self, broker: Broker) -> None:
        self.user = ""
        self.frame_max = frames.MIN_FRAME_MAX
        self.state = State.GREETING
        self.is_writable = True
        self.capabilities: frozenset[str] = frozenset()
        self._broker = broker
        self._handshake = Handshake(broker.account, broker.limits)
        self._reader = frames.FrameReader()
        self._channels: dict[int, Channel] = {}
        self._vhost: VirtualHost | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._greeting = b""
        self._has_received = False  # since the last look of the heartbeat timer
        self._missed = 0
        self._is_blocked = False
        self._timers: set[Timer] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client to speak first."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
        self._broker.opened(self)
        self._after(HANDSHAKE_PATIENCE_MS, self._give_up_handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what the client held."""
        self._set_state(State.CLOSED)
        for timer in self._timers:
            timer.cancel()
        self._release(list(self._channels))
        if self._vhost is not None:
            self._vhost.delete_queues_of(self)
        self._broker.closed(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._has_received = True
        if self.state is State.GREETING:
            data = self._greet(data)
            if not data:
                return
        for kind, number, payload in self._reader.feed(data):
            if self.state is State.CLOSED:
                return
            try:
                self._on_frame(kind, number, payload)
            except Fault as fault:
                self._on_fault(fault, number, _concerned(fault, kind, payload))
            except Exception:
                log.exception("a frame could not be handled", extra=log_event("embedded_broker_failed"))
                self._on_fault(ConnectionFault(541, "the broker has a bug; see its log"), number, b"")
        if self._reader.fault is not None and self.state is not State.CLOSED:
            if self.state is State.CLOSING:
                self._end()
            else:
                self._on_fault(self._reader.fault, 0, b"")
        for channel in self._channels.values():
            channel.flush()

    def pause_writing(self) -> None:
        """Deliver nothing while the client does not read, and read no more requests from it."""
        self.is_writable = False
        if self._transport is not None and not self._is_blocked:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.is_writable = True
        if self._transport is not None and not self._is_blocked:
            self._transport.resume_reading()
        for channel in list(self._channels.values()):
            channel.serve()

    def write(self, data: bytes) -> None:
        """Send bytes, together with all others of this turn of the event loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def force_close(self, reason: str) -> None:
        """Close the connection as an operator does."""
        if self.state is State.OPEN:
            self._on_fault(ConnectionFault(320, reason), 0, b"")
        elif self.state is not State.CLOSED:
            self._end()

    def alarm_changed(self) -> None:
        """Go on when the alarm is over. While it lasts, the next publish blocks the connection."""
        if self._broker.alarm is None and self._is_blocked:
            self._is_blocked = False
            if "connection.blocked" in self.capabilities:
                self._send(commands.Connection.Unblocked())
            if self._transport is not None and self.is_writable:
                self._transport.resume_reading()

    def _greet(self, data: bytes) -> bytes:
        """Take the protocol header; return what came after it."""
        self._greeting += data
        if len(self._greeting) < len(frames.PROTOCOL_HEADER):
            if not frames.PROTOCOL_HEADER.startswith(self._greeting[:4]):
                self._refuse_protocol()
            return b""
        if not self._greeting.startswith(frames.PROTOCOL_HEADER):
            self._refuse_protocol()
            return b""
        rest = self._greeting[len(frames.PROTOCOL_HEADER) :]
        self._set_state(State.HANDSHAKE)
        self._send(self._handshake.start())
        return rest

    def _refuse_protocol(self) -> None:
        """Say which protocol would do (AMQP 0-9-1, 4.2.2)."""
        self.write(frames.PROTOCOL_HEADER)
        self._end()

    def _on_frame(self, kind: int, number: int, payload: bytes) -> None:
        if self.state is State.OPEN and number and kind != frames.HEARTBEAT:
            channel = self._channels.get(number)
            if channel is not None and not channel.is_closing:
                self._on_channel_frame(channel, kind, number, payload)
            else:
                self._on_other_channel(channel, kind, number, payload)
        elif self.state is State.CLOSING:
            self._on_answer(method_id(payload) if kind == frames.METHOD else 0)
        elif kind == frames.METHOD and not number:
            self._on_connection_method(payload)
        elif kind != frames.HEARTBEAT:
            raise frames.unexpected(kind, payload) if frames.is_known(kind, payload) else frames.unknown(kind, payload)

    def _on_channel_frame(self, channel: Channel, kind: int, number: int, payload: bytes) -> None:
        if kind == frames.BODY:
            channel.on_body(payload)
            if self._broker.alarm is not None:
                self._block()
        elif kind == frames.HEADER:
            if not frames.is_header(payload):
                raise frames.unknown(kind, payload)
            channel.on_header(payload)
        elif kind == frames.METHOD:
            method = method_id(payload)
            if method == frames.PUBLISH:
                channel.on_publish(payload)
                return
            if wanted := channel.awaits_content:
                raise ConnectionFault(
                    505, f"expected content {wanted} for class 60, got non content {wanted} frame instead"
                )
            if method in _SETTLEMENTS:
                channel.on_settlement(payload)
            else:
                self._on_channel_method(channel, number, decoded(payload))
        else:
            raise frames.unknown(kind, payload)

    def _on_channel_method(self, channel: Channel, number: int, method: Frame) -> None:
        if isinstance(method, commands.Channel.Close):
            channel.flush()
            self._release([number])
            self._send(commands.Channel.CloseOk(), number)
        else:
            channel.on_method(method)

    def _on_other_channel(self, channel: Channel | None, kind: int, number: int, payload: bytes) -> None:
        """Take a frame for a channel that is not open, or that the broker has closed."""
        method = decoded(payload) if kind == frames.METHOD else None
        if channel is not None:  # all but the answer to the close is dropped
            if isinstance(method, commands.Channel.Close):
                self._send(commands.Channel.CloseOk(), number)
            if isinstance(method, commands.Channel.CloseOk | commands.Channel.Close):
                del self._channels[number]
        elif isinstance(method, commands.Channel.Open):
            self._open_channel(number)
        elif not isinstance(method, commands.Channel.CloseOk):
            raise ConnectionFault(504, "expected 'channel.open'")

    def _open_channel(self, number: int) -> None:
        most = self._handshake.channel_max
        if len(self._channels) >= most:  # any number will do, as with RabbitMQ
            raise ConnectionFault(
                530,
                f"number of channels opened ({len(self._channels)}) has reached the negotiated channel_max ({most})",
            )
        assert self._vhost is not None
        self._channels[number] = Channel(Line(number, self, self._vhost, self._broker.limits))
        self._send(commands.Channel.OpenOk(), number)

    def _on_answer(self, method: int) -> None:
        """Take what comes after the broker has closed the connection: all but the answer to that is dropped."""
        if method == CONNECTION_CLOSE_OK:
            self._end()
        elif method == CONNECTION_CLOSE:
            self._send(commands.Connection.CloseOk())

    def _on_connection_method(self, payload: bytes) -> None:
        method = decoded(payload)
        match self.state, method:
            case _, commands.Connection.Close():
                for channel in self._channels.values():
                    channel.flush()
                self._release(list(self._channels))
                self._send(commands.Connection.CloseOk())
                self._end()
            case State.HANDSHAKE, _:
                self._agree(method)
            case _, commands.Connection.UpdateSecret():
                self._send(commands.Connection.UpdateSecretOk())
            case _:
                raise ConnectionFault(503, f"{method.name} is not expected now")

    def _agree(self, method: Frame) -> None:
        handshake = self._handshake
        if handshake.stage is Stage.TUNE_OK:
            handshake.tune(method)
            self.frame_max = handshake.frame_max
            self._reader.frame_max = handshake.frame_max or frames.UNLIMITED
            self._watch_heartbeats(handshake.heartbeat_s)
            return
        answer = handshake.answer(method)
        self.user, self.capabilities = handshake.user, handshake.capabilities
        if handshake.stage is Stage.DONE:
            self._vhost = self._broker.vhost(handshake.vhost)
            self._set_state(State.OPEN)
        self._send(answer)

    def _on_fault(self, fault: Fault, number: int, method: bytes) -> None:
        """Close what the fault concerns."""
        class_id, method_id = int.from_bytes(method[:2], "big"), int.from_bytes(method[2:4], "big")
        if self.state is State.HANDSHAKE and not self._handshake.is_told(fault):  # as with RabbitMQ (AMQP 0-9-1, 2.2.4)
            log.info("a client could not connect: %s", fault.text, extra=log_event("embedded_broker_refused"))
            self._end()
            return
        if fault.is_of_channel and number in self._channels:
            self._channels[number].flush()
            self._release([number], is_closing=True)
            self._send(commands.Channel.Close(fault.code, fault.text, class_id, method_id), number)
            return
        for channel in self._channels.values():
            channel.flush()
        self._release(list(self._channels))
        self._send(commands.Connection.Close(fault.code, fault.text, class_id, method_id))
        self._set_state(State.CLOSING)
        self._after(CLOSE_PATIENCE_MS, self._end)

    def _release(self, numbers: list[int], is_closing: bool = False) -> None:
        """End channels: their consumers go, and what they hold is given back."""
        consumers, held = list[Consumer](), list[Held]()
        for number in numbers:
            channel = self._channels[number] if is_closing else self._channels.pop(number)
            if channel.is_closing:
                continue
            channel.is_closing = is_closing
            of_channel, held_by_channel = channel.release()
            consumers += of_channel
            held += held_by_channel
        if self._vhost is not None:
            self._vhost.release(consumers, by_queue(held))

    def _block(self) -> None:
        """Read no more, because the client has published during an alarm."""
        if not self._is_blocked and self._transport is not None:
            self._is_blocked = True
            self._transport.pause_reading()
            if "connection.blocked" in self.capabilities:
                self._send(commands.Connection.Blocked(self._broker.alarm or ""))

    def _watch_heartbeats(self, interval_s: int) -> None:
        if interval_s:
            self._after(interval_s * 500, lambda: self._beat(interval_s))
            self._after(interval_s * 1000, lambda: self._look_for_life(interval_s))

    def _beat(self, interval_s: int) -> None:
        self.write(frames.HEARTBEAT_FRAME)
        self._after(interval_s * 500, lambda: self._beat(interval_s))

    def _look_for_life(self, interval_s: int) -> None:
        """End the connection when nothing came for two intervals; a blocked client is not listened to."""
        self._missed = 0 if self._has_received or self._is_blocked else self._missed + 1
        self._has_received = False
        if self._missed > 1:
            log.info(
                "a client was silent for %d s and is disconnected",
                2 * interval_s,
                extra=log_event("embedded_broker_client_silent", heartbeat_s=interval_s),
            )
            self._abort()
        else:
            self._after(interval_s * 1000, lambda: self._look_for_life(interval_s))

    def _give_up_handshake(self) -> None:
        if self.state in (State.GREETING, State.HANDSHAKE):
            self._end()

    def _after(self, delay_ms: float, action: Callable[[], Any]) -> None:
        timer: Timer

        def fire() -> None:
            self._timers.discard(timer)
            if self.state is not State.CLOSED:
                action()

        timer = self._broker.peer_clock.call_later(delay_ms, fire)
        self._timers.add(timer)

    def _send(self, method: Frame, channel: int = 0) -> None:
        self.write(codec.marshal(method, channel))

    def _flush(self) -> None:
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _end(self) -> None:
        self._flush()
        self._set_state(State.CLOSED)
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        self._set_state(State.CLOSED)
        if self._transport is not None:
            self._transport.abort()

    def _set_state(self, state: State) -> None:
        self.state = state


def _concerned(fault: Fault, kind: int, payload: bytes) -> bytes:
    """Return the method that a fault is about: content belongs to a publish, unless it came at the wrong time."""
    if kind == frames.METHOD:
        return payload
    return b"" if isinstance(fault, ConnectionFault) else frames.PUBLISH.to_bytes(4, "big")
