"""A queue of the application: its name, its arguments, and what mxworker may declare of it.

Pure. `api.topology` has the queues beside it, and `amqp.consuming.topology` declares all of them at the broker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from mxworker.errors import EncodeError
from mxworker.wire.field_table import SHORT_STRING_BYTES, encode

CONSUMER_TIMEOUT_S = 30 * 60.0
"""The time for which RabbitMQ lets a delivery be unsettled by default, before it closes the channel
(https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout)."""
# The arguments with which a quorum queue dead-letters its messages without a loss. At-least-once alone loses them when
# the target is missing, unless the queue refuses publishes meanwhile
# (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).
AT_LEAST_ONCE: Mapping[str, str] = MappingProxyType(
    {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
)
KEEPS_RETURNED: Mapping[str, int] = MappingProxyType({"x-delivery-limit": 2**31 - 1})
"""The argument with which a quorum queue keeps a message however often it is given back.

From RabbitMQ 4.0 on the default limit is 20, and before 4.3 every return counts: a pause, a drain, the death of a
worker. Above the limit the broker dead-letters the message, or deletes it if there is no dead-letter target. Only
mxworker counts attempts, see `copies`. The largest number means "no limit" in every version: -1 means that from 4.0 on,
and no redelivery at all before. With a limit, a returned message goes back to the head of the queue; without one,
RabbitMQ before 4.0 puts it at the tail (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
"""
_RABBITMQ_VERSION = re.compile(r"RabbitMQ (?P<major>\d+)\.")
_FIRST_WITH_LIMIT = 4
_DEAD_LETTER_TARGET = frozenset({"x-dead-letter-exchange", "x-dead-letter-routing-key"})
_MAX_PRIORITY = 255
_RESERVED_PREFIX = "amq."
_CONSUMER_PRIORITIES = range(-(2**31), 2**31)
_SURROGATE = re.compile("[\ud800-\udfff]")
# The names of queues and exchanges that pamqp accepts. For others it raises in the middle of a declaration.
SENDABLE_NAME = re.compile(r"[a-zA-Z0-9\-_.:@#,/+ ]*")


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to consume, and what mxworker may declare of it.

    `type` is quorum (replicated, the default) or classic. A classic queue dead-letters at most once: when the broker
    dies during dead-lettering, the message can be lost (https://www.rabbitmq.com/docs/dlx#safety).

    `bind` lists (exchange, routing key) pairs; the exchanges must exist. With `dead_letter` rejected messages go to
    `<name>.dlq`; without it they go where the queue's own policy sends them, or nowhere.

    `declare`: "ensure" declares the queue, its dead-letter queue and its retry queues, and binds the queue. "passive"
    is for a queue that somebody else has declared: the queue is taken as it is, whatever its arguments are, and the
    queues beside it and the bindings are declared. Queues beside it that exist are taken, too. "off" declares nothing,
    and checks that the queues beside it exist.

    With `single_active_consumer` one of all workers gets the messages and the others stand by, so that with
    `concurrency=1` messages are handled in order (https://www.rabbitmq.com/docs/consumers#single-active-consumer). A
    `Requeue` keeps the order: the message is executed again before the next one. A worker that is stopped, reloaded or
    replaced keeps the order, too, if its handlers end within the drain timeout. A `Retry` does not: while the message
    waits, those behind it are handled. A pause does not either: another worker takes over at once.

    `max_priority`, 1 to 255, has a classic queue deliver messages of a higher priority first. Each level costs the
    broker memory and CPU, so 10 levels are plenty (https://www.rabbitmq.com/docs/priority). A quorum queue takes no
    such argument. Before RabbitMQ 4.0 it has no priorities. From 4.0 to 4.2 it has two, and delivers two messages with
    a priority above 4 for each one of the rest. From 4.3 on it has 32, from 0 to 31, and delivers the higher ones
    first.

    `consumer_priority`: these workers get messages only while no consumer of a higher priority can take more. The
    default of all consumers is 0 (https://www.rabbitmq.com/docs/consumer-priority).

    `arguments` are further queue arguments, such as `{"x-max-length": 1000}`. They replace ours of the same key,
    `x-dead-letter-exchange` included; an `x-queue-type` counts as the `type`. With an `x-delivery-limit` of your own
    the broker drops or dead-letters a message that was given back more often, also when it was never handled: see
    `KEEPS_RETURNED`. With "passive" and "off" the arguments are not sent; they only describe the queue for mxworker.
    """

    name: str
    type: Literal["quorum", "classic"] = "quorum"
    bind: Sequence[tuple[str, str]] = ()
    dead_letter: bool = True
    declare: Literal["ensure", "passive", "off"] = "ensure"
    single_active_consumer: bool = False
    max_priority: int | None = None
    consumer_priority: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that would fail later, at the broker."""
        if not isinstance(self.name, str):
            raise TypeError(f"the name of a queue is text, not {self.name!r:.80}")
        object.__setattr__(self, "name", str.__str__(self.name))  # the value of an enum's member, in f-strings too
        self._check_types()
        if not self.name or _size(self.dead_letter_name) > SHORT_STRING_BYTES:
            raise ValueError(f"a queue name has 1 to 251 bytes, and not {_size(self.name)}: {self.name!r:.60}")
        for name in (self.name, *(exchange for exchange, _ in self.bind)):
            if not SENDABLE_NAME.fullmatch(name):
                raise ValueError(f"the name {name!r} has more than letters, digits, spaces and -_.:@#,/+")
        for _, routing_key in self.bind:
            if _SURROGATE.search(routing_key):
                raise ValueError(f"queue '{self.name}': the routing key {routing_key!r} is no Unicode text")
        self._check_declaration()
        self._refuse_stream()
        object.__setattr__(self, "type", self.arguments.get("x-queue-type", self.type))
        if self.type not in ("quorum", "classic"):
            raise ValueError(f"queue '{self.name}': type is 'quorum' or 'classic', not {self.type!r:.80}")
        if self.max_priority is not None:
            self._check_max_priority(self.max_priority)
        # The check of the type comes first, since a range compares values of other types one by one.
        is_number = isinstance(self.consumer_priority, int) and not isinstance(self.consumer_priority, bool)
        if not is_number or self.consumer_priority not in _CONSUMER_PRIORITIES:
            raise ValueError(f"queue '{self.name}': consumer_priority {self.consumer_priority!r} is no 32-bit integer")
        try:
            encode(self.arguments)
        except EncodeError as error:
            raise ValueError(f"queue '{self.name}': its arguments cannot be sent: {error}") from None
        if self.arguments.get("x-single-active-consumer"):
            object.__setattr__(self, "single_active_consumer", True)

    def _check_types(self) -> None:
        """Refuse values of other types than the annotations."""
        for name in ("dead_letter", "single_active_consumer"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"queue '{self.name}': {name} is True or False, not {getattr(self, name)!r:.80}")
        bindings = self.bind
        if not isinstance(bindings, Sequence) or not all(map(_is_binding, bindings)):
            raise TypeError(
                f"queue '{self.name}': bind is a list of pairs, exchange and routing key, not {bindings!r:.80}. "
                'Write bind=[("shop", "orders.*")]'
            )
        if not isinstance(self.arguments, Mapping):
            raise TypeError(
                f"queue '{self.name}': arguments are a dict, such as {{\"x-max-length\": 1000}}, "
                f"not {self.arguments!r:.80}"
            )

    def _check_declaration(self) -> None:
        """Refuse what the broker would refuse for every user, and bindings that nobody would make."""
        if self.declare not in ("ensure", "passive", "off"):
            raise ValueError(f"queue '{self.name}': declare is 'ensure', 'passive' or 'off', not {self.declare!r}")
        if self.declare == "ensure" and self.name.startswith(_RESERVED_PREFIX):
            raise ValueError(
                f"queue '{self.name}': names that begin with 'amq.' are the broker's own, and cannot be declared. "
                "Choose another name"
            )
        if self.declare == "off" and self.bind:
            raise ValueError(
                f"queue '{self.name}': declare=\"off\" declares nothing, so it makes no bindings. "
                'Leave bind out, or write declare="passive"'
            )
        if any(exchange == "" for exchange, _ in self.bind):
            raise ValueError(
                f"queue '{self.name}': every queue is bound to the default exchange \"\" by its name, and cannot be "
                "bound to it otherwise. Leave that pair out of bind"
            )

    def _refuse_stream(self) -> None:
        if "stream" in (self.type, self.arguments.get("x-queue-type")):
            raise ValueError(stream_refusal(self.name))

    def _check_max_priority(self, max_priority: int) -> None:
        if not isinstance(max_priority, int) or isinstance(max_priority, bool):
            raise TypeError(f"queue '{self.name}': max_priority is a whole number, not {max_priority!r:.80}")
        if self.type == "quorum":
            raise ValueError(
                f"queue '{self.name}': a quorum queue takes no max_priority. What it does with priorities depends on "
                "the broker: before RabbitMQ 4.0 nothing; from 4.0 to 4.2 it delivers two messages with a priority "
                "above 4 for each one of the rest; from 4.3 on it has 32 levels, and the higher ones come first. "
                'Leave max_priority out, or use type="classic".'
            )
        if not 1 <= max_priority <= _MAX_PRIORITY:
            raise ValueError(f"queue '{self.name}': max_priority is from 1 to {_MAX_PRIORITY}, not {max_priority}")

    @property
    def dead_letter_name(self) -> str:
        """The name of the queue for rejected messages."""
        return f"{self.name}.dlq"

    @property
    def quarantine_name(self) -> str:
        """The name of the queue for messages that kill workers. The queue is declared when it is first needed."""
        return f"{self.name}.quarantine"

    def retry_name(self, step_ms: int) -> str:
        """Return the name of the queue in which failed deliveries wait `step_ms` milliseconds."""
        return f"{self.name}.retry.{step_ms}"

    @property
    def dead_letters_itself(self) -> bool:
        """Whether the queue is known to dead-letter rejected messages. A queue that others declared may drop them."""
        is_redirected = not _DEAD_LETTER_TARGET.isdisjoint(self.arguments)
        return self.dead_letter and self.declare == "ensure" and not is_redirected

    @property
    def keeps_returned(self) -> bool:
        """Whether the queue is known to keep a message however often it is given back: see `KEEPS_RETURNED`."""
        known = self.declared_arguments() if self.declare == "ensure" else self.arguments
        return self.type == "classic" or known.get("x-delivery-limit") == KEEPS_RETURNED["x-delivery-limit"]

    @property
    def consumer_timeout_s(self) -> float:
        """The time for which the broker lets a delivery be unsettled, as far as can be known here."""
        timeout_ms = self.arguments.get("x-consumer-timeout")
        return timeout_ms / 1000 if isinstance(timeout_ms, int) else CONSUMER_TIMEOUT_S

    def declared_arguments(self) -> dict[str, Any]:
        """Return the arguments of the queue's declaration. Never change them: the broker would answer with a 406."""
        arguments: dict[str, Any] = {"x-queue-type": self.type}
        if self.type == "quorum":
            arguments |= KEEPS_RETURNED
        if self.dead_letter:
            arguments["x-dead-letter-exchange"] = ""
            arguments["x-dead-letter-routing-key"] = self.dead_letter_name
            if self.type == "quorum":
                arguments |= AT_LEAST_ONCE
        if self.single_active_consumer:
            arguments["x-single-active-consumer"] = True
        if self.max_priority is not None:
            arguments["x-max-priority"] = self.max_priority
        return arguments | dict(self.arguments)

    def doubt_of_limit(self, server: str) -> str | None:
        """Return a warning when the broker may drop messages that are given back, and None otherwise.

        `server` is the broker's product and version. Queues that mxworker declares keep all messages, see
        `KEEPS_RETURNED`, and so do classic queues. For other queues the application gives the limit in `arguments`.
        """
        version = _RABBITMQ_VERSION.match(server)
        if version is None or int(version["major"]) < _FIRST_WITH_LIMIT:
            return None
        if self.declare == "ensure" or self.type == "classic" or "x-delivery-limit" in self.arguments:
            return None
        keeps = dict(KEEPS_RETURNED)
        pattern = f"^{re.escape(self.name)}([.].+)?$"
        policy = json.dumps({"delivery-limit": keeps["x-delivery-limit"]})
        return (
            f"queue '{self.name}' is not declared by mxworker, so its delivery limit is not known. On {server} a "
            "quorum queue without a limit of its own has 20: a message that came back more often, from pauses, drains "
            "or workers that died, is dead-lettered by the broker, or deleted if there is no dead-letter exchange. "
            "Raise the limit of the queue and of those beside it: rabbitmqctl set_policy --apply-to quorum_queues "
            f"mxworker '{pattern}' '{policy}' (or declare them with x-delivery-limit), and say so in the code: "
            f'Queue("{self.name}", declare="{self.declare}", arguments={json.dumps(keeps)})'
        )

    def consumer_arguments(self) -> dict[str, Any]:
        """Return the arguments of the queue's consumer.

        For a queue that we do not declare, a priority is the only way to detect a stream, which takes no consumer with
        a priority (rabbit_stream_queue.erl, capabilities/0; tried on 3.10 and 4.0). For other queues 0 is the default.
        """
        if self.consumer_priority or self.declare != "ensure":
            return {"x-priority": self.consumer_priority}
        return {}


def _is_binding(pair: object) -> bool:
    return (
        isinstance(pair, Sequence)
        and not isinstance(pair, str)
        and len(pair) == 2
        and all(isinstance(part, str) and _size(part) <= SHORT_STRING_BYTES for part in pair)
    )


def _size(text: str) -> int:
    """Return the bytes of `text` in UTF-8, also of one with surrogates, which cannot be sent."""
    return len(text.encode(errors="surrogatepass"))


def stream_refusal(queue: str) -> str:
    """Return the text of the error for a stream: why it is not consumed, and what to use instead."""
    return (
        f"queue '{queue}' is a stream, which mxworker does not consume: it keeps what was acked, refuses rejects, "
        "and leaves it to its consumers to know their offset.\n"
        "  Use a quorum queue, bound to the exchange that feeds the stream, or read the stream with a stream client "
        "(https://www.rabbitmq.com/docs/streams)."
    )
