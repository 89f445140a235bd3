"""The exchanges, queues and bindings of one virtual host, and the rules of declaring and deleting them.

Pure. It refuses with the codes and texts of RabbitMQ. It returns what a deletion leaves behind; somebody else tells the
consumers and stops the timers.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mxworker.devbroker.arguments import assert_exchange_name, assert_same_arguments, inequivalent, queue_settings
from mxworker.devbroker.exchanges import ALTERNATE, EXCHANGE, QUEUE, TYPES, Binding, Destination, Exchange, is_match
from mxworker.devbroker.faults import Fault, access_refused, not_found, precondition_failed
from mxworker.devbroker.message import Message
from mxworker.devbroker.queues import Declared, Queue
from mxworker.devbroker.type_names import type_name

DEFAULT = ""
_RESERVED = "amq."
_PREDECLARED = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}
_TRACE = "amq.rabbitmq.trace"


@dataclass
class Topology:
    """What a virtual host consists of. `default_delivery_limit` is that of quorum queues; None is no limit."""

    vhost: str
    default_delivery_limit: int | None = None
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the exchanges that are always there."""
        for name, kind in {DEFAULT: "direct", **_PREDECLARED}.items():
            self.exchanges[name] = Exchange(name, kind)
        self.exchanges[_TRACE] = Exchange(_TRACE, "topic", internal=True)

    def where(self, kind: str, name: str) -> str:
        """Return how RabbitMQ writes an exchange or a queue."""
        return f"{kind} '{name}' in vhost '{self.vhost}'"

    def exchange(self, name: str) -> Exchange:
        """Return an exchange; Fault 404 when it is missing."""
        try:
            return self.exchanges[name]
        except KeyError:
            raise not_found(f"no {self.where(EXCHANGE, name)}") from None

    def exchange_but_default(self, name: str) -> Exchange:
        """Return an exchange; Fault 403 for the default one, which takes publishes only."""
        _refuse_default(name)
        return self.exchange(name)

    def queue(self, name: str, user: object) -> Queue:
        """Return a queue; Fault 404 when it is missing, 405 when it belongs to another connection than `user`."""
        found = self.queues.get(name)
        if found is None:
            raise not_found(f"no {self.where(QUEUE, name)}")
        if found.declared.owner not in (None, user):
            raise self._locked(name)
        return found

    def declare_exchange(self, declared: Exchange) -> None:
        """Make an exchange, or check that it is the one which is there."""
        if declared.type not in TYPES:
            raise Fault(503, f"{'unknown' if declared.type else 'invalid'} exchange type '{declared.type}'")
        _refuse_default(declared.name)
        current = self.exchanges.get(declared.name)
        if current is None:
            self._refuse_reserved(EXCHANGE, declared.name)
            assert_exchange_name(self.where(EXCHANGE, declared.name), ALTERNATE, declared.arguments)
            self.exchanges[declared.name] = declared
            return
        where = self.where(EXCHANGE, declared.name)
        for name in ("type", "durable", "auto_delete", "internal"):
            if getattr(current, name) != getattr(declared, name):
                raise inequivalent(name, where, getattr(declared, name), getattr(current, name))
        assert_same_arguments(where, current.arguments, declared.arguments, (ALTERNATE,))

    def delete_exchange(self, name: str, if_unused: bool) -> None:
        """Delete an exchange with its bindings; one that is missing is no error."""
        _refuse_default(name)
        if name.startswith(_RESERVED):
            raise access_refused(f"deletion of system {self.where(EXCHANGE, name)} not allowed")
        found = self.exchanges.get(name)
        if found is None:
            return
        if if_unused and found.bindings:
            raise precondition_failed(f"{self.where(EXCHANGE, name)} in use")
        del self.exchanges[name]
        self._forget((EXCHANGE, name))

    def declare_queue(self, name: str, declared: Declared, user: object) -> tuple[Queue, bool]:
        """Make a queue, or check that it is the one which is there; return it, and whether it is new."""
        self._refuse_reserved(QUEUE, name)
        current = self.queues.get(name)
        if current is not None:
            self._assert_same(current, declared, user)
            return current, False
        where = self.where(QUEUE, name)
        settings = queue_settings(where, declared.arguments, self.default_delivery_limit)
        made = Queue(name or _generated_name(), declared, settings)
        if made.is_quorum:
            _refuse_for_quorum(where, declared)
        self.queues[made.name] = made
        return made, True

    def remove_queue(self, queue: Queue) -> None:
        """Take a queue and its bindings away."""
        queue.is_deleted = True
        del self.queues[queue.name]
        self._forget((QUEUE, queue.name))

    def bind(self, source: str, binding: Binding, user: object) -> None:
        """Bind a queue or an exchange to the exchange `source`."""
        self._bindable(source, binding, user).bind(binding)

    def unbind(self, source: str, binding: Binding, user: object) -> None:
        """Take a binding away; one that is missing is no error."""
        _refuse_default(source)
        kind, name = binding.destination
        if kind == QUEUE and name in self.queues:
            self.queue(name, user)
        exchange = self.exchanges.get(source)
        if exchange is not None and exchange.unbind(binding):
            self._delete_unused(exchange)

    def route(self, exchange: Exchange, message: Message) -> list[Queue]:
        """Return the queues that get a message published to `exchange`, each once."""
        if exchange.name == DEFAULT and len(message.routing_keys) == 1:
            queue = self.queues.get(message.routing_keys[0])
            return [] if queue is None else [queue]
        found: dict[str, Queue] = {}
        seen = {exchange.name}
        waiting = [exchange]
        while waiting:
            for kind, name in self._destinations(waiting.pop(), message):
                if kind == QUEUE and (queue := self.queues.get(name)) is not None:
                    found[name] = queue
                elif kind == EXCHANGE and name not in seen and name in self.exchanges:
                    seen.add(name)
                    waiting.append(self.exchanges[name])
        return list(found.values())

    def _destinations(self, exchange: Exchange, message: Message) -> list[Destination]:
        if exchange.name == DEFAULT:
            return [(QUEUE, key) for key in message.routing_keys if key in self.queues]
        found = [each for key in message.routing_keys for each in exchange.route(message, key)]
        if not found and exchange.alternate is not None:
            return [(EXCHANGE, exchange.alternate)]
        return found

    def _bindable(self, source: str, binding: Binding, user: object) -> Exchange:
        _refuse_default(source)
        kind, name = binding.destination
        exchange = self.exchange(source)
        if kind == QUEUE:
            self.queue(name, user)
        else:
            _refuse_default(name)
            self.exchange(name)
        if exchange.type == "headers":
            _assert_match(binding.arguments.get("x-match", "all"))
        return exchange

    def _forget(self, destination: Destination) -> None:
        for exchange in list(self.exchanges.values()):
            if exchange.forget(destination):
                self._delete_unused(exchange)

    def _delete_unused(self, exchange: Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings and self.exchanges.get(exchange.name) is exchange:
            del self.exchanges[exchange.name]
            self._forget((EXCHANGE, exchange.name))

    def _assert_same(self, queue: Queue, declared: Declared, user: object) -> None:
        current = queue.declared
        if current.owner not in (None, user) or (declared.owner is None) != (current.owner is None):
            raise self._locked(queue.name)
        where = self.where(QUEUE, queue.name)
        for name in ("durable", "auto_delete"):
            if getattr(current, name) != getattr(declared, name):
                raise inequivalent(name, where, getattr(declared, name), getattr(current, name))
        assert_same_arguments(where, _with_kind(current.arguments), _with_kind(declared.arguments))

    def _locked(self, name: str) -> Fault:
        return Fault(
            405,
            f"cannot obtain exclusive access to locked {self.where(QUEUE, name)}. It could be originally declared on "
            "another connection or the exclusive property value does not match that of the original declaration.",
        )

    def _refuse_reserved(self, kind: str, name: str) -> None:
        if name.startswith(_RESERVED):
            raise access_refused(f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def _with_kind(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"x-queue-type": "classic", **arguments}


def _assert_match(kind: object) -> None:
    if not isinstance(kind, str):
        raise precondition_failed(f"Invalid x-match field type {type_name(kind)} (value {kind}); expected longstr")
    if not is_match(kind):
        raise precondition_failed(
            f'Invalid x-match field value <<"{kind}">>; expected all, any, all-with-x, or any-with-x'
        )


def _refuse_default(name: str) -> None:
    if name == DEFAULT:
        raise access_refused("operation not permitted on the default exchange")


def _refuse_for_quorum(where: str, declared: Declared) -> None:
    for is_wrong, name in (
        (declared.auto_delete, "auto-delete"),
        (declared.owner is not None, "exclusive-owner"),
        (not declared.durable, "non-durable"),
    ):
        if is_wrong:
            raise precondition_failed(f"invalid property '{name}' for {where}")


def _generated_name() -> str:
    return "amq.gen-" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
