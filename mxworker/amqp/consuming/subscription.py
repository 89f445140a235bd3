"""One channel that consumes one queue, from its opening to its end.

The subscription object is the *epoch* of its deliveries. A delivery is settled through the subscription that it came
from. A settlement after the end of the subscription is dropped, because the broker delivers the message again. The
consumer may be cancelled and consume again meanwhile; earlier deliveries are settled on the same channel.

This module must not know handlers, concurrency, or what replaces a subscription.

Invariants:
- Every delivery is in the ledger, and its bytes are in the budget, until it is settled, even after the end.
- After a body was left unread, all later ones are left unread too, which keeps their order. They are given back after
  the next `cancel`.
- Settlements of one loop turn are written together, at its end (see `acks`).
- Nothing is written after the end, because the number may belong to another channel by then.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.byte_budget import LARGE_BODY_BYTES, ByteBudget, reserved_bytes
from mxworker.amqp.consuming.declaring import Declaring
from mxworker.amqp.consuming.refusals import explained
from mxworker.amqp.protocol.acks import AckLedger
from mxworker.amqp.protocol.frames import encode_get
from mxworker.amqp.protocol.reader import RawDelivery
from mxworker.api.delivery import Delivery
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError, ChannelLost, ConnectionLost, TopologyRefused
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign
from mxworker.wire.properties import message_id_bytes

log = logging.getLogger(__name__)

# A queue with a single active consumer refuses basic.get; there a pause replaces the barrier.
_PAUSE_INSTEAD_OF_BARRIER_S = 0.1

_LARGEST_PREFETCH = 65_535  # the prefetch is a short on the wire

Admit = Callable[[*tuple[Delivery, ...]], None]
"""Takes the deliveries of one read."""


class Subscription:
    """One channel that consumes one queue. Make it with `open`; `lost` resolves once, when the channel has ended."""

    def __init__(
        self,
        connection: BrokerConnection,
        channel: AbstractChannel,
        number: int,
        queue: Queue,
        admit: Admit,
        budget: ByteBudget,
        on_full: Callable[[], None],
        on_too_large: Callable[[str], None],
        growth: int = 1,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[BrokerError] = loop.create_future()
        self.is_lost = False
        self.opened_at = loop.time()
        self.delivered = 0
        self.prefetch = 0
        """How many unsettled deliveries the present consumer may have, or the last one could have."""
        self.consumer_tag: str | None = None
        """The tag of the present consumer, None while the queue is not consumed."""
        self.is_consumed = False
        """Whether deliveries may come. The first may come before the consumer tag is known."""
        self._connection = connection
        self._plane = connection.plane
        self._channel = channel
        self._number = number
        self._queue = queue
        self._admit = admit
        self._budget = budget
        self._on_full = on_full
        self._on_too_large = on_too_large
        self._growth = growth
        self._ledger = AckLedger(number)
        self._takes_none = False
        self._unread: list[int] = []  # at most prefetch
        self._unread_count = 0
        self._unread_bytes = 0
        self._received_bytes = 0
        self._received_from = 0
        self._is_dirty = False
        self._got: asyncio.Future[int | None] | None = None
        self._keeps_got = False

    @classmethod
    async def open(
        cls,
        connection: BrokerConnection,
        queue: Queue,
        prefetch: int | None,
        admit: Admit,
        *,
        retry_steps_ms: Sequence[int] = (),
        budget: ByteBudget | None = None,
        on_full: Callable[[], None] = lambda: None,
        on_too_large: Callable[[str], None] = lambda what: None,
        growth: int = 1,
        former: BrokerError | None = None,
    ) -> Subscription:
        """Open a channel, ensure the topology and consume. Deliveries go to `admit`, called inside the read.

        With None for `prefetch`, the queue is not consumed yet. When `budget` has no room for a delivery, `on_full` is
        called inside the read instead; the caller must `cancel` soon. Without a budget the bytes have no bound.
        `on_too_large` is called inside the read with a description of a message whose body is above the cap and that
        must not be rejected. A large body counts as `growth` times its size.
        Raises TopologyRefused, ChannelLost or ConnectionLost.
        """
        budget = budget or ByteBudget(sys.maxsize)
        async with Declaring(connection) as declaring:
            await topology.ensure(declaring, queue, retry_steps_ms, former)
            channel = await declaring.take()
        underlay = await channel.get_underlay_channel()
        subscription = cls(connection, channel, underlay.number, queue, admit, budget, on_full, on_too_large, growth)
        try:
            connection.plane.register(underlay.number, subscription)
            if prefetch is not None:
                await subscription._consume(prefetch)
        except (BrokerError, asyncio.CancelledError):  # an open channel would go on to get deliveries for nobody
            await subscription.close()
            raise
        return subscription

    # ---- consuming

    async def consume(self, prefetch: int, consumer_tag: str | None = None) -> None:
        """Consume again after `cancel`, with a new consumer tag. A refusal ends the subscription."""
        try:
            await self._consume(prefetch, consumer_tag)
        except BrokerError as error:
            self._end(error)

    async def _consume(self, prefetch: int, consumer_tag: str | None = None) -> None:
        underlay = await self._channel.get_underlay_channel()
        self.is_consumed = True
        with self._explained(), library_errors(self._queue.name):
            # This also removes a global prefetch (rabbit_channel.erl, handle_method of basic.qos), which
            # _refuse_successor may have set: with one, a quorum queue refuses the consumer, and the whole connection
            # ends (540).
            await underlay.basic_qos(prefetch_count=prefetch)
            consumed = await underlay.basic_consume(
                self._queue.name,
                _never_called,
                arguments=self._queue.consumer_arguments(),
                consumer_tag=consumer_tag,
            )
            if self._queue.type == "quorum" and self._connection.server.startswith("RabbitMQ 3."):
                await _refuse_successor(self._channel)
        self.prefetch, self.consumer_tag = prefetch, consumed.consumer_tag

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except TopologyRefused as error:
            raise explained(self._queue, {}, error) from error

    def leave_unread(self) -> None:
        """Leave all further bodies unread, as if the budget had no room. Call this while consuming; `cancel` later."""
        self._takes_none = True

    def take_body_bytes(self) -> int:
        """Return the average size of the bodies that came since the last call, 0 when none came.

        If bodies were left unread, only those count, because they came last.
        """
        count, size_bytes = self.delivered - self._received_from, self._received_bytes
        if self._unread_count:
            count, size_bytes = self._unread_count, self._unread_bytes
        self._received_from, self._received_bytes = self.delivered, 0
        self._unread_count = self._unread_bytes = 0
        return size_bytes // count if count else 0

    async def cancel(self) -> None:
        """Stop the deliveries; return when the broker has confirmed that none will follow, or the channel is lost.

        Then the deliveries that were left unread are given back.
        """
        if self.is_lost or self.consumer_tag is None:
            return
        underlay = await self._channel.get_underlay_channel()
        try:
            with library_errors(self._queue.name):
                await underlay.basic_cancel(self.consumer_tag)
        except BrokerError as error:
            self._end(error)
        self.consumer_tag = None
        self.is_consumed = False
        self._takes_none = False
        if self._unread and not self.is_lost:
            for tag in self._unread:
                self._ledger.give_back(tag)
            self._unread.clear()
            self._write_soon()

    # ---- called inside the read, see reader.ConsumerSink

    def takes(self, size_bytes: int) -> bool:
        """Tell whether the budget has room for a body. There is always room for one when nothing is held."""
        if self._takes_none:
            return False
        budget = self._budget
        if size_bytes > LARGE_BODY_BYTES:
            size_bytes = reserved_bytes(size_bytes, self._growth)
        has_room = budget.held_bytes + size_bytes <= budget.limit_bytes and not self._unread
        return has_room or not self._ledger.unsettled

    def room_bytes(self) -> int:
        """Return how many bytes of bodies the budget has room for, even if they are all large."""
        if self._takes_none or self._unread:
            return 0
        budget = self._budget
        return max(0, budget.limit_bytes - budget.held_bytes) // self._growth

    def on_deliveries(self, deliveries: list[RawDelivery]) -> None:
        """Admit deliveries. After the end they are dropped, because the broker delivers them again elsewhere."""
        if self.is_lost:
            return
        read_at = self._plane.read_at
        sizes: dict[int, int] = {}
        admitted = []
        for tag, redelivered, route, properties, body in deliveries:
            size_bytes = len(body)
            sizes[tag] = size_bytes if size_bytes <= LARGE_BODY_BYTES else reserved_bytes(size_bytes, self._growth)
            admitted.append(Delivery(body, properties, route, redelivered, tag, self, read_at))
        self._ledger.deliver_all(sizes)
        size_bytes = sum(sizes.values())
        self._budget.held_bytes += size_bytes
        self._received_bytes += size_bytes
        self.delivered += len(admitted)
        self._admit(*admitted)

    def on_too_large(self, tag: int, size_bytes: int, properties: bytes) -> None:
        """Reject a message above the cap to the dead-letter queue, or give it back when the broker might drop it."""
        if self.is_lost:
            return
        message_id = foreign(message_id_bytes(properties).decode("utf-8", "backslashreplace"))
        what = (
            f"message {message_id or f'(no id, delivery tag {tag})'} of queue {self._queue.name} has a body of "
            f"{size_bytes} bytes, above --max-body-size, {self._plane.frames.body_cap_bytes} bytes"
        )
        self._ledger.deliver(tag)
        self.delivered += 1
        self._received_from += 1  # the prefetch need not fit this body
        if self._queue.dead_letters_itself:
            how = "" if self._queue.type == "quorum" else ", at most once, because the queue is classic"
            facts = log_event("body_too_large", queue=self._queue.name, message_id=message_id, body_bytes=size_bytes)
            log.error(
                "%s; the message is rejected unread to queue %s%s", what, self._queue.dead_letter_name, how, extra=facts
            )
            self._ledger.reject(tag, requeue=False)
            self._write_soon()
        else:
            self._unread.append(tag)
            self._on_too_large(what)

    def on_unread(self, tag: int, size_bytes: int) -> None:
        """Record a delivery without its body, to be given back later."""
        if self.is_lost:
            return
        self._ledger.deliver(tag)
        self.delivered += 1
        self._unread.append(tag)
        self._unread_count += 1
        self._unread_bytes += reserved_bytes(size_bytes, self._growth)
        self._on_full()

    def on_get(self, tag: int | None) -> None:
        """Handle the answer to the barrier's basic.get, and give its message back at once, or when the channel ends."""
        if tag is not None:
            self._ledger.deliver(tag)
            if not self._keeps_got:
                self._ledger.give_back(tag)
                self._write_soon()
        if self._got is not None and not self._got.done():
            self._got.set_result(tag)

    def on_cancel(self) -> None:
        """End the subscription, because the broker has cancelled its consumer."""
        self._end(ChannelLost(f"the broker cancelled the consumer of queue '{self._queue.name}'"))

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        """End the subscription, because its channel has ended."""
        self._end(error)

    def _end(self, error: BrokerError) -> None:
        self.is_lost = True
        self.is_consumed = False
        if not self.lost.done():
            self.lost.set_result(error)

    # ---- settling

    @property
    def unsettled(self) -> int:
        """How many deliveries are unsettled."""
        return self._ledger.unsettled

    @property
    def has_unread(self) -> bool:
        """Whether deliveries were left unread, which `cancel` will give back."""
        return bool(self._unread)

    @property
    def holds_bodies(self) -> bool:
        """Whether a delivery whose body was read is unsettled."""
        return self._ledger.unsettled > len(self._unread)

    def ack(self, delivery: Delivery) -> bool:
        """Settle a delivery as processed; return False when it was stale and nothing was sent."""
        if self.is_lost:
            return self._drop(delivery)
        self._budget.give_back(self._ledger.ack(delivery.delivery_tag))
        if not self._is_dirty:
            self._write_soon()
        return True

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        """Settle a delivery as failed; return False when it was stale and nothing was sent."""
        if self.is_lost:
            return self._drop(delivery)
        self._budget.give_back(self._ledger.reject(delivery.delivery_tag, requeue))
        self._write_soon()
        return True

    def give_back(self, delivery: Delivery) -> bool:
        """Give a delivery back unprocessed. Before `cancel` has returned, the broker may send it right back to us."""
        if self.is_lost:
            return self._drop(delivery)
        self._budget.give_back(self._ledger.give_back(delivery.delivery_tag))
        self._write_soon()
        return True

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is unsettled."""
        return self._ledger.holds(delivery.delivery_tag)

    def _drop(self, delivery: Delivery) -> bool:
        """Settle a stale delivery in the ledger and the budget, without telling the broker."""
        self._budget.give_back(self._ledger.drop(delivery.delivery_tag))
        return False

    def _write_soon(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            self._plane.write_soon(self._take_writes)

    def _take_writes(self) -> bytes:
        self._is_dirty = False
        return b"" if self.is_lost else self._ledger.flush()

    # ---- ending

    async def barrier(self, keeps_got: bool = False) -> None:
        """Wait until the broker has processed every settlement written so far, or the channel is lost.

        A channel close discards settlements that are still on their way inside a quorum queue. A basic.get on the same
        queue and channel is answered after them. Call this after `cancel`, when all deliveries are settled, with a
        deadline. A message that it brings is given back at once, or with `keeps_got` when the channel ends, so that it
        goes back after unsettled deliveries that were before it in the queue.
        """
        self._keeps_got = keeps_got
        if self.is_lost:
            return
        self._plane.write(self._take_writes())
        if self._queue.single_active_consumer:
            await asyncio.sleep(_PAUSE_INSTEAD_OF_BARRIER_S)
            return
        self._got = asyncio.get_running_loop().create_future()
        self._plane.write(encode_get(self._number, self._queue.name))
        await asyncio.wait((self._got, self.lost), return_when=asyncio.FIRST_COMPLETED)

    def give_up(self, why: str) -> None:
        """Write all settlements, and count as lost from now on, although the channel is open."""
        try:
            if not self.is_lost:
                self._plane.write(self._take_writes())
        finally:
            self._end(ChannelLost(why))

    async def close(self) -> None:
        """Write all settlements and close the channel within 2 s. The broker requeues the unsettled deliveries.

        Without an answer the channel stays registered, so that later deliveries are dropped here. In the library they
        would wait for ever for a reader, and block the whole connection.
        """
        self.give_up("closed")
        await self._connection.close_channel(self._channel)


async def _refuse_successor(channel: AbstractChannel) -> None:
    """Make the broker cancel the consumer of a deleted quorum queue, even when the queue is created again at once.

    Before 4.0, RabbitMQ first tries for 30 ms to consume any new queue with the same name
    (rabbit_channel.erl, handle_consuming_queue_down_or_eol). With a quorum queue that leaves a dead consumer: the new
    queue hands messages to it, which never leave the broker, and no basic.cancel is sent. But a quorum queue refuses
    the consumers of a channel with a global prefetch, so a global prefetch after our own consume makes that attempt
    fail. It limits nothing, because quorum queues do not support it (https://www.rabbitmq.com/docs/quorum-queues). It
    has no effect where an operator has forbidden it (from 3.12 on), or in the one round trip after the consume.
    x-cancel-on-ha-failover, the argument made for this, is a 406 on a quorum queue.
    """
    underlay = await channel.get_underlay_channel()
    await underlay.basic_qos(prefetch_count=_LARGEST_PREFETCH, global_=True)


async def _never_called(_: object) -> None:
    raise AssertionError("the data plane diverts every delivery")
