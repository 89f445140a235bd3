"""A channel: takes the frames of a client one after another and has the right part answer.

The parts decide and write; a fault that they raise closes this channel or the connection, which the connection does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pamqp import commands
from pamqp.base import Frame

from mxworker.devbroker import frames
from mxworker.devbroker.client import Line
from mxworker.devbroker.confirms import Confirms
from mxworker.devbroker.consuming import Consuming
from mxworker.devbroker.declaring import Declaring
from mxworker.devbroker.faults import ConnectionFault, Fault, precondition_failed
from mxworker.devbroker.publishing import Publishing
from mxworker.devbroker.queues import Consumer
from mxworker.devbroker.unacked import Held

_MULTIPLE, _REQUEUE = 1, 2
_settlement = struct.Struct(">IQB")


class Channel:
    """An open channel. `is_closing` means that the broker closed it and the client has not answered yet."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.is_closing = False
        self._publishing = Publishing(line)
        self._consuming = Consuming(line)
        self._declaring = Declaring(line)

    @property
    def awaits_content(self) -> str | None:
        """Which content frame has to come next; None when it is a method."""
        return self._publishing.awaits_content

    def on_publish(self, payload: bytes) -> None:
        """Begin a published message."""
        self._publishing.on_publish(payload)

    def on_header(self, payload: bytes) -> None:
        """Take its header."""
        self._publishing.on_header(payload)

    def on_body(self, payload: bytes) -> None:
        """Take a piece of its body."""
        self._publishing.on_body(payload)

    def on_settlement(self, payload: bytes) -> None:
        """Take basic.ack, basic.nack or basic.reject."""
        try:
            method, tag, bits = _settlement.unpack(payload)
        except struct.error:
            raise ConnectionFault(501, "cannot decode the arguments of a settlement") from None
        if method == frames.ACK:
            self._consuming.ack(tag, bool(bits & _MULTIPLE))
        elif method == frames.REJECT:
            self._consuming.nack(tag, False, bool(bits & 1))
        else:
            self._consuming.nack(tag, bool(bits & _MULTIPLE), bool(bits & _REQUEUE))

    def on_method(self, method: Frame) -> None:
        """Take any other method."""
        self.flush()
        match method:
            case commands.Queue.Declare():
                self._declaring.declare_queue(method)
            case commands.Queue.Bind():
                self._declaring.bind_queue(method)
            case commands.Queue.Unbind():
                self._declaring.unbind_queue(method)
            case commands.Queue.Purge():
                self._declaring.purge_queue(method)
            case commands.Queue.Delete():
                self._declaring.delete_queue(method)
            case commands.Exchange.Declare():
                self._declaring.declare_exchange(method)
            case commands.Exchange.Delete():
                self._declaring.delete_exchange(method)
            case commands.Exchange.Bind():
                self._declaring.bind_exchange(method)
            case commands.Exchange.Unbind():
                self._declaring.unbind_exchange(method)
            case _:
                self._on_basic(method)

    def _on_basic(self, method: Frame) -> None:
        match method:
            case commands.Basic.Get():
                self._consuming.get(method, self._declaring.queue_name(method.queue))
            case commands.Basic.Consume():
                self._consuming.consume(method, self._declaring.queue_name(method.queue))
                self._publishing.reply_token = self._consuming.reply_token
            case commands.Basic.Cancel():
                self._consuming.cancel(method)
                self._publishing.reply_token = self._consuming.reply_token
            case commands.Basic.Qos():
                self._consuming.qos(method)
            case commands.Basic.Recover():
                self._consuming.recover(method.requeue, is_answered=True)
            case commands.Basic.RecoverAsync():
                self._consuming.recover(method.requeue, is_answered=False)
            case commands.Channel.Flow():
                self._flow(method)
            case _:
                self._on_mode(method)

    def _on_mode(self, method: Frame) -> None:
        match method:
            case commands.Confirm.Select():
                self._select_confirms(method)
            case commands.Tx.Select():
                if self._publishing.confirms is not None:
                    raise precondition_failed("cannot switch from confirm to tx mode")
                if self._publishing.transaction is None:
                    self._publishing.transaction, self._consuming.transaction = [], []
                self._line.send(commands.Tx.SelectOk())
            case commands.Tx.Commit():
                self._assert_transactional()
                self._publishing.commit()
                self._consuming.commit()
                self._line.send(commands.Tx.CommitOk())
            case commands.Tx.Rollback():
                self._assert_transactional()
                self._publishing.transaction = []
                self._consuming.rollback()
                self._line.send(commands.Tx.RollbackOk())
            case commands.Channel.Open():
                raise Fault(504, "second 'channel.open' seen")
            case _:
                raise Fault(503, "unimplemented method")

    def flush(self) -> None:
        """Send the confirms that are held back."""
        self._publishing.flush()

    def serve(self) -> None:
        """Have the queues of the consumers look again whether they can deliver."""
        self._consuming.serve_all()

    def release(self) -> tuple[Sequence[Consumer], list[Held]]:
        """End all work; return the consumers to remove and the deliveries to give back."""
        self._publishing.confirms = None
        return self._consuming.close()

    def _select_confirms(self, method: commands.Confirm.Select) -> None:
        if self._publishing.transaction is not None:
            raise precondition_failed("cannot switch from tx to confirm mode")
        if self._publishing.confirms is None:
            self._publishing.confirms = Confirms(self._line.number)
        if not method.nowait:
            self._line.send(commands.Confirm.SelectOk())

    def _flow(self, method: commands.Channel.Flow) -> None:
        if not method.active:
            raise Fault(540, "active=false")
        self._line.send(commands.Channel.FlowOk(True))

    def _assert_transactional(self) -> None:
        if self._publishing.transaction is None:
            raise precondition_failed("channel is not transactional")
