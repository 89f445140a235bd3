"""The consuming side of a channel: consumers, their limits, deliveries, and what the client says to them."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence

from pamqp import commands

from mxworker.devbroker import frames
from mxworker.devbroker.arguments import assert_consumer_arguments
from mxworker.devbroker.client import Line
from mxworker.devbroker.faults import Fault, access_refused, precondition_failed
from mxworker.devbroker.message import REPLY_TO, Message, with_headers
from mxworker.devbroker.queues import Consumer, Queue
from mxworker.devbroker.ready import Entry
from mxworker.devbroker.unacked import Held, Unacked, by_queue

_ACK, _REQUEUE, _REJECT = "ack", "requeue", "reject"


class Consuming:
    """Delivers to the client and takes its settlements."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.consumers: dict[str, Consumer] = {}
        self.unacked = Unacked()
        self.transaction: list[tuple[str, list[Held]]] | None = None
        self.is_closed = False
        self.reply_tag: str | None = None
        self.reply_token: str | None = None
        self._prefetch = 0  # of each consumer to come
        self._limit = 0  # of all consumers together
        self._consumed = 0  # how many deliveries the limit counts
        self._last_tag = 0

    @property
    def is_open_for_deliveries(self) -> bool:
        """Whether the limit of the channel and the connection let another delivery through."""
        return (
            self._line.client.is_writable and (not self._limit or self._consumed < self._limit) and not self.is_closed
        )

    def qos(self, method: commands.Basic.Qos) -> None:
        """Set how many deliveries may be unacked."""
        if method.prefetch_size:
            raise Fault(540, f"prefetch_size!=0 ({method.prefetch_size})")
        if method.global_:
            self._limit = method.prefetch_count
            self._line.send(commands.Basic.QosOk())
            self.serve_all()
        else:
            self._prefetch = method.prefetch_count
            self._line.send(commands.Basic.QosOk())

    def consume(self, method: commands.Basic.Consume, queue_name: str) -> None:
        """Start a consumer."""
        if method.consumer_tag in self.consumers or (method.consumer_tag and method.consumer_tag == self.reply_tag):
            raise Fault(530, f"attempt to reuse consumer tag '{method.consumer_tag}'")
        tag = method.consumer_tag or f"amq.ctag-{_token()}"
        if queue_name == REPLY_TO:
            self._consume_replies(method, tag)
            return
        queue = self._line.vhost.topology.queue(queue_name, self._line.client)
        where = self._line.vhost.topology.where("queue", queue_name)
        assert_consumer_arguments(where, method.arguments or {})
        self._assert_may_consume(queue, where, method.exclusive)
        consumer = Consumer(
            self,
            queue,
            tag,
            no_ack=method.no_ack,
            exclusive=method.exclusive,
            prefetch=self._prefetch,
            arguments=method.arguments,
        )
        self.consumers[tag] = consumer
        if not method.nowait:
            self._line.send(commands.Basic.ConsumeOk(tag))
        self._line.vhost.add_consumer(consumer)

    def cancel(self, method: commands.Basic.Cancel) -> None:
        """Stop a consumer; what it holds stays with it. An unknown tag is no error."""
        consumer = self.consumers.pop(method.consumer_tag or "", None)
        if method.consumer_tag == self.reply_tag:
            self.forget_replies()
        if not method.nowait:
            self._line.send(commands.Basic.CancelOk(method.consumer_tag))
        if consumer is not None:
            self._line.vhost.release([consumer], {})

    def get(self, method: commands.Basic.Get, queue_name: str) -> None:
        """Give the next message of a queue out."""
        queue = self._line.vhost.topology.queue(queue_name, self._line.client)
        if queue.is_quorum and queue.settings.single_active:
            raise Fault(
                405,
                f"cannot obtain access to locked {self._line.vhost.topology.where('queue', queue_name)}. basic.get "
                "operations are not supported by quorum queues with single active consumer",
            )
        entry = self._line.vhost.take(queue)
        if entry is None:
            self._line.send(commands.Basic.GetEmpty())
            return
        self._last_tag += 1
        if not method.no_ack:
            queue.unacked += 1
            self.unacked.add(self._last_tag, entry, queue, None)
        message, number, client = entry.message, self._line.number, self._line.client
        client.write(
            frames.get_ok(number, self._last_tag, entry.redelivered, message.address, queue.ready.count)
            + frames.content(number, _properties(queue, entry), message.body, client.frame_max)
        )

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """Send a message to the client."""
        self._last_tag = tag = self._last_tag + 1
        if not consumer.no_ack:
            consumer.unacked += 1
            self._consumed += 1
            self.unacked.add(tag, entry, consumer.queue, consumer)
        message, number, client = entry.message, self._line.number, self._line.client
        properties = _properties(consumer.queue, entry) if entry.returns else message.properties
        client.write(
            frames.deliver(number, consumer.prefix, tag, entry.redelivered, message.address)
            + frames.content(number, properties, message.body, client.frame_max)
        )

    def deliver_reply(self, message: Message) -> None:
        """Send a direct reply to the client."""
        self._last_tag += 1
        number, client = self._line.number, self._line.client
        prefix = frames.deliver_prefix(self.reply_tag or "")
        client.write(
            frames.deliver(number, prefix, self._last_tag, False, message.address)
            + frames.content(number, message.properties, message.body, client.frame_max)
        )

    def consumer_cancelled(self, consumer: Consumer) -> None:
        """Tell the client that the queue of a consumer has gone (https://www.rabbitmq.com/docs/consumer-cancel)."""
        self.consumers.pop(consumer.tag, None)
        if "consumer_cancel_notify" in self._line.client.capabilities and not self.is_closed:
            self._line.send(commands.Basic.Cancel(consumer.tag, True))

    def ack(self, tag: int, multiple: bool) -> None:
        """Forget deliveries."""
        self._settle(_ACK, self.unacked.take(tag, multiple))

    def nack(self, tag: int, multiple: bool, requeue: bool) -> None:
        """Put deliveries back, or dead-letter them."""
        self._settle(_REQUEUE if requeue else _REJECT, self.unacked.take(tag, multiple))

    def recover(self, requeue: bool, *, is_answered: bool) -> None:
        """Put all deliveries back; the answer comes before what is delivered again."""
        if not requeue:
            raise Fault(540, "requeue=false")
        if is_answered:
            self._line.send(commands.Basic.RecoverOk())
        self._apply(_REQUEUE, self.unacked.take_all())

    def commit(self) -> None:
        """Do what the settlements of the transaction ask for."""
        waiting, self.transaction = self.transaction or [], []
        for what, held in waiting:
            self._apply(what, held)

    def rollback(self) -> None:
        """Forget the settlements of the transaction."""
        waiting, self.transaction = self.transaction or [], []
        self.unacked.restore(each for _, held in waiting for each in held)

    def close(self) -> tuple[Sequence[Consumer], list[Held]]:
        """Take no deliveries any more; return the consumers to remove and the deliveries to give back."""
        if self.transaction is not None:
            self.rollback()
        self.is_closed = True
        self.forget_replies()
        consumers, self.consumers = list(self.consumers.values()), {}
        return consumers, self.unacked.take_all()

    def serve_all(self) -> None:
        """Have the queues look again whether this channel can take something."""
        for queue in {consumer.queue: None for consumer in self.consumers.values()}:
            if queue.ready.count:
                self._line.vhost.serve(queue)

    def forget_replies(self) -> None:
        """Take no direct replies any more."""
        if self.reply_token is not None:
            del self._line.vhost.reply_receivers[self.reply_token]
        self.reply_tag = self.reply_token = None

    def _settle(self, what: str, held: list[Held]) -> None:
        if self.transaction is not None:
            self.transaction.append((what, held))
        else:
            self._apply(what, held)

    def _apply(self, what: str, held: list[Held]) -> None:
        for _, _, _, consumer in held:
            if consumer is not None:
                consumer.unacked -= 1
                self._consumed -= 1
        vhost = self._line.vhost
        for queue, entries in by_queue(held).items():
            match what:
                case "ack":
                    queue.unacked -= len(entries)
                    if queue.ready.count:
                        vhost.serve(queue)
                case "requeue":
                    vhost.give_back(queue, entries)
                case _:
                    vhost.reject(queue, entries)
                    vhost.serve(queue)
        if self._limit:
            self.serve_all()

    def _assert_may_consume(self, queue: Queue, where: str, exclusive: bool) -> None:
        if queue.is_quorum:
            if self._limit:
                raise Fault(540, f"{where} does not support global qos")
            is_free = not exclusive or queue.settings.single_active or not queue.consumers
        else:
            is_free = not exclusive or not (queue.consumers or queue.settings.single_active)
        if not is_free or queue.consumers.has_exclusive:
            raise access_refused(f"{where} in exclusive use")

    def _consume_replies(self, method: commands.Basic.Consume, tag: str) -> None:
        if not method.no_ack:
            raise precondition_failed("reply consumer cannot acknowledge")
        if self.reply_tag is not None:
            raise precondition_failed("reply consumer already set")
        self.reply_tag = tag
        self.reply_token = f"{REPLY_TO}.{_token()}"
        self._line.vhost.reply_receivers[self.reply_token] = self
        if not method.nowait:
            self._line.send(commands.Basic.ConsumeOk(tag))


def _properties(queue: Queue, entry: Entry) -> bytes:
    """Return the properties to deliver; a quorum queue says how often the message came back."""
    if not entry.returns or not queue.is_quorum:
        return entry.message.properties
    return with_headers(entry.message.properties, {"x-delivery-count": b"l" + entry.returns.to_bytes(8, "big")})


def _token() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
