"""The methods of a channel that declare, bind and delete exchanges and queues."""

from __future__ import annotations

from pamqp import commands

from mxworker.devbroker import frames
from mxworker.devbroker.client import Line
from mxworker.devbroker.exchanges import EXCHANGE, QUEUE, Binding, Destination, Exchange
from mxworker.devbroker.faults import Fault, not_found, precondition_failed
from mxworker.devbroker.message import REPLY_TO
from mxworker.devbroker.queues import Declared, Queue


class Declaring:
    """Changes the topology of the virtual host as the client asks for."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._topology = line.vhost.topology
        self._last_queue: str | None = None

    def queue_name(self, name: str) -> str:
        """Return `name`, or for an empty one the queue that was declared last."""
        if name:
            return name
        if self._last_queue is None:
            raise not_found("no previously declared queue")
        return self._last_queue

    def declare_exchange(self, method: commands.Exchange.Declare) -> None:
        """Answer exchange.declare."""
        if method.passive:
            self._topology.exchange_but_default(method.exchange)
        else:
            self._topology.declare_exchange(
                Exchange(
                    method.exchange,
                    method.exchange_type,
                    durable=method.durable,
                    auto_delete=method.auto_delete,
                    internal=method.internal,
                    arguments=method.arguments or {},
                )
            )
        if not method.nowait:
            self._line.send(commands.Exchange.DeclareOk())

    def delete_exchange(self, method: commands.Exchange.Delete) -> None:
        """Answer exchange.delete."""
        self._topology.delete_exchange(method.exchange, method.if_unused)
        if not method.nowait:
            self._line.send(commands.Exchange.DeleteOk())

    def bind_exchange(self, method: commands.Exchange.Bind) -> None:
        """Answer exchange.bind."""
        binding = _binding((EXCHANGE, method.destination), method)
        self._topology.bind(method.source, binding, self._line.client)
        if not method.nowait:
            self._line.send(commands.Exchange.BindOk())

    def unbind_exchange(self, method: commands.Exchange.Unbind) -> None:
        """Answer exchange.unbind."""
        binding = _binding((EXCHANGE, method.destination), method)
        self._topology.unbind(method.source, binding, self._line.client)
        if not method.nowait:
            self._line.send(commands.Exchange.UnbindOk())

    def declare_queue(self, method: commands.Queue.Declare) -> None:
        """Answer queue.declare."""
        if method.queue.startswith(REPLY_TO):
            self._declare_replies(method)
            return
        queue = self._find_or_make(method)
        self._last_queue = queue.name
        if not method.nowait:
            self._declared(queue.name, queue.ready.count, len(queue.consumers))

    def bind_queue(self, method: commands.Queue.Bind) -> None:
        """Answer queue.bind."""
        binding = _binding((QUEUE, self.queue_name(method.queue)), method)
        self._topology.bind(method.exchange, binding, self._line.client)
        if not method.nowait:
            self._line.send(commands.Queue.BindOk())

    def unbind_queue(self, method: commands.Queue.Unbind) -> None:
        """Answer queue.unbind."""
        binding = _binding((QUEUE, self.queue_name(method.queue)), method)
        self._topology.unbind(method.exchange, binding, self._line.client)
        self._line.send(commands.Queue.UnbindOk())

    def purge_queue(self, method: commands.Queue.Purge) -> None:
        """Answer queue.purge."""
        purged = self._find(method.queue).ready.clear()
        if not method.nowait:
            self._line.send(commands.Queue.PurgeOk(purged))

    def delete_queue(self, method: commands.Queue.Delete) -> None:
        """Answer queue.delete, then tell consumers; a queue that is missing is no error."""
        queue = None
        name = self.queue_name(method.queue)
        if name in self._topology.queues:
            queue = self._topology.queue(name, self._line.client)
            self._assert_deletable(queue, method)
        if not method.nowait:
            self._line.send(commands.Queue.DeleteOk(0 if queue is None else queue.ready.count))
        if queue is not None:
            self._line.vhost.delete_queue(queue)

    def _assert_deletable(self, queue: Queue, method: commands.Queue.Delete) -> None:
        self._assert_supported(queue, method)
        if method.if_unused and queue.consumers:
            raise precondition_failed(f"{self._topology.where(QUEUE, queue.name)} in use")
        if method.if_empty and queue.ready.count:
            raise precondition_failed(f"{self._topology.where(QUEUE, queue.name)} not empty")

    def _assert_supported(self, queue: Queue, method: commands.Queue.Delete) -> None:
        for flag, name in ((method.if_unused, "if-unused"), (method.if_empty, "if-empty")):
            if flag and queue.is_quorum:
                raise Fault(
                    540,
                    f"cannot delete {self._topology.where(QUEUE, queue.name)}. queue.delete operations with {name} "
                    "flag set are not supported by quorum queues",
                )

    def _find(self, name: str) -> Queue:
        return self._topology.queue(self.queue_name(name), self._line.client)

    def _find_or_make(self, method: commands.Queue.Declare) -> Queue:
        if method.passive:
            queue = self._topology.queue(method.queue, self._line.client)
            self._line.vhost.used(queue)
            return queue
        declared = Declared(
            durable=method.durable and not method.exclusive,  # as it goes with its connection
            auto_delete=method.auto_delete,
            owner=self._line.client if method.exclusive else None,
            arguments=method.arguments or {},
        )
        return self._line.vhost.declare_queue(method.queue, declared, self._line.client)

    def _declare_replies(self, method: commands.Queue.Declare) -> None:
        """Answer for the address of direct replies: a declare tells whether the consumer is still there."""
        name = method.queue
        if name != REPLY_TO and name not in self._line.vhost.reply_receivers:
            raise not_found(f"no {self._topology.where(QUEUE, name)}")
        if not method.nowait:
            self._declared(name, 0, 1)

    def _declared(self, name: str, ready: int, consumers: int) -> None:
        self._line.client.write(frames.declare_ok(self._line.number, name, ready, consumers))


def _binding(
    destination: Destination,
    method: commands.Exchange.Bind | commands.Exchange.Unbind | commands.Queue.Bind | commands.Queue.Unbind,
) -> Binding:
    return Binding(destination, method.routing_key, method.arguments or {})
