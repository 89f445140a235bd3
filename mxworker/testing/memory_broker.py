"""The broker of a `TestWorker`: the embedded broker's own parts, without its sockets and its process.

It serves one virtual host, in the test's event loop, on the clock of the test. It notes what the worker publishes. An
exchange that nobody has declared is there all the same, since operators make exchanges; and by default every message
finds a queue, since the queues that other services consume are not there in a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from mxworker.api.compilation import Handler
from mxworker.devbroker.arguments import QueueSettings
from mxworker.devbroker.clock import Clock
from mxworker.devbroker.connection import Connection
from mxworker.devbroker.exchanges import Exchange
from mxworker.devbroker.message import Message
from mxworker.devbroker.queues import Declared, Queue
from mxworker.devbroker.running_clock import RunningClock
from mxworker.devbroker.settings import Account, Limits
from mxworker.devbroker.topology import DEFAULT, Topology
from mxworker.devbroker.vhost import VirtualHost
from mxworker.testing import pipes
from mxworker.testing.app_queues import side_queues
from mxworker.testing.received import Received
from mxworker.wire.own_headers import ATTEMPT_HEADER


class MemoryBroker:
    """A broker in the running event loop. Call `stop` at the end."""

    def __init__(self, clock: Clock, takes_all: bool, on_moved: Callable[[], object]) -> None:
        """`on_moved` is called whenever the worker or the broker has received bytes.

        Without `takes_all`, a message that no queue takes is returned to its publisher, as by RabbitMQ.
        """
        self.account = Account()
        self.limits = Limits(delivery_limit=None)
        self.alarm: str | None = None
        self.peer_clock = RunningClock()  # heartbeats of connections are in real time
        self.host = _Host(clock, takes_all)
        self._on_moved = on_moved
        self._connections: set[Connection] = set()

    def connect(self, client: asyncio.Protocol) -> asyncio.Transport:
        """Connect a client, and return its transport."""
        return pipes.connect(client, Connection(self), self._on_moved)

    def stop(self) -> None:
        """Close the connections that are left."""
        for connection in list(self._connections):
            connection.force_close("the test has ended")
        self.peer_clock.stop()

    def name_queues(self, handlers: Iterable[Handler]) -> None:
        """Learn the queues of the worker, whose copies are no publishes of the application."""
        own, beside = set[str](), set[str]()
        for handler in handlers:
            own.add(handler.queue.name)
            beside |= set(side_queues(handler))
        self.host.own_queues, self.host.side_queues = frozenset(own), frozenset(beside)

    @property
    def queues(self) -> dict[str, Queue]:
        """The queues by name."""
        return self.host.topology.queues

    def put(self, queue: str, message: Message) -> None:
        """Put a message into a queue, as if a publisher had sent it."""
        self.host.put(self.queues[queue], message)

    def waiting_in(self, queue: str) -> list[Received]:
        """Return the messages that are ready in a queue, without taking them; [] when there is no such queue."""
        found = self.queues.get(queue)
        return [] if found is None else [_received(entry.message) for entry in found.ready]

    # ---- what a connection asks for

    def vhost(self, name: str) -> VirtualHost:
        """Return the only virtual host."""
        return self.host

    def opened(self, connection: Connection) -> None:
        """Note a connection."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)


class _Host(VirtualHost):
    """The virtual host, which notes what clients publish."""

    def __init__(self, clock: Clock, takes_all: bool) -> None:
        super().__init__("/", clock, 0.0, None)
        self.published: list[Received] = []
        self.own_queues: frozenset[str] = frozenset()
        """The queues of the worker. Copies that it puts there again are no publishes of the application."""
        self.side_queues: frozenset[str] = frozenset()
        """The queues of the worker beside these: for retries, dead letters and the quarantine."""
        self.topology = _OpenTopology(self.topology.vhost, takes_all)

    def put(self, queue: Queue, message: Message) -> None:
        """Put a message into a queue, which no client has published."""
        super().deliver(message, [queue])

    def deliver(self, message: Message, queues: Iterable[Queue]) -> bool:
        """Put a published message or a dead letter into queues; return False when one of them is full."""
        is_published = not self._is_dead_lettering and not self._is_copy(message)
        accepted = super().deliver(message, queues)
        if accepted and is_published:
            self.published.append(_received(message))
        return accepted

    def _is_copy(self, message: Message) -> bool:
        """Tell whether it is a copy that mxworker made for a retry, a requeue or a dead letter."""
        key = message.routing_keys[0]
        is_requeued = key in self.own_queues and ATTEMPT_HEADER in message.headers
        return message.exchange == DEFAULT and (key in self.side_queues or is_requeued)


class _OpenTopology(Topology):
    """A topology that has every exchange, and when it `takes_all`, a queue for every message to go to."""

    def __init__(self, vhost: str, takes_all: bool) -> None:
        super().__init__(vhost)
        self._takes_all = takes_all
        self._made: set[str] = set()
        self._nowhere = Queue("nowhere", Declared(True, False, None, {}), QueueSettings(max_length=0))

    def declare_exchange(self, declared: Exchange) -> None:
        """Make an exchange, also when it was only made because it was missing."""
        if declared.name in self._made:
            self._made.discard(declared.name)
            del self.exchanges[declared.name]
        super().declare_exchange(declared)

    def exchange(self, name: str) -> Exchange:
        """Return an exchange, which is made when it is missing."""
        if name not in self.exchanges:
            self._made.add(name)
            self.exchanges[name] = Exchange(name, "topic")
        return super().exchange(name)

    def route(self, exchange: Exchange, message: Message) -> list[Queue]:
        """Return the queues that get a message; when there are none and it takes all, one that keeps nothing."""
        found = super().route(exchange, message)
        return [self._nowhere] if not found and self._takes_all else found


def _received(message: Message) -> Received:
    return Received(message.body, message.properties, message.address)
