"""Mistakes that can be seen in the code and the settings of a service. Pure.

`server` is the product and version of the broker, None while no broker was asked. `known` are the arguments that a
queue was found to have at the broker, by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mxworker.api.compilation import Handler
from mxworker.api.queues import KEEPS_RETURNED, Queue
from mxworker.brokers import Brokers
from mxworker.cli.check.findings import Finding, error, warning
from mxworker.config.units import format_duration

Known = Mapping[str, Mapping[str, Any]]

NOT_ASKED: Known = {}
_VERSION = re.compile(r"RabbitMQ (\d+)\.(\d+)")
_LIMIT = "x-delivery-limit"
_DLX = "x-dead-letter-exchange"
_SOME_BROKER = "RabbitMQ 4.0"  # for what depends on the version, while no broker was asked
_TIMEOUTS_NEVER_COUNT = (4, 3)
_REMOVED = {
    "x-ha-policy": "RabbitMQ 3 ignores it, and 4 has no mirrored queues",
    "x-ha-nodes": "RabbitMQ 3 ignores it, and 4 has no mirrored queues",
    "x-queue-mode": "classic queues ignore it since 3.12, and 4.3 refuses it",
}
_OLD_VERSION = "x-queue-version"


def version_of(server: str | None) -> tuple[int, int] | None:
    """Return the version of a RabbitMQ, None for another broker or none."""
    found = _VERSION.match(server or "")
    return (int(found[1]), int(found[2])) if found else None


def lints(
    handlers: Sequence[Handler], declared: Sequence[Queue], server: str | None = None, known: Known = NOT_ASKED
) -> Iterator[Finding]:
    """Yield what is wrong with the handlers, their queues, and the queues that are only declared."""
    for handler in handlers:
        yield from _of_handler(handler, server)
    for queue in [*(handler.queue for handler in handlers), *declared]:
        yield from _of_queue(queue, known.get(queue.name), server)
    for handler in handlers:
        yield from _of_limit(handler.queue, known.get(handler.queue.name), server)


def broker_lints(brokers: Brokers | None, is_password_typed: bool) -> Iterator[Finding]:
    """Yield what is wrong with the way to the broker."""
    for place in brokers.exposed_places if brokers is not None else ():
        yield warning(
            "plain-text-broker",
            f"broker {place}",
            "gets the password and all messages over a network in plain text",
            "Write amqps:// instead of amqp:// in its URL, and let the broker listen for TLS.",
        )
    if is_password_typed:
        yield warning(
            "password-on-command-line",
            "--broker-url",
            "has a password on the command line, where other users see it",
            "Let MXWORKER_BROKER_URL_FILE name a file with the URL.",
        )


def _of_handler(handler: Handler, server: str | None) -> Iterator[Finding]:
    subject = f"handler {handler.name} of queue '{handler.queue.name}'"
    limit_s = handler.queue.consumer_timeout_s
    limit = format_duration(limit_s)
    if handler.timeout_s >= limit_s:
        yield _endless(handler, subject, server)
    elif handler.longest_hold_s >= limit_s:
        yield warning(
            "consumer-timeout",
            subject,
            f"may hold a message for {format_duration(handler.longest_hold_s)}: {handler.prefetch} are prefetched, "
            f"{_at_once(handler)} run at once, each for up to {format_duration(handler.timeout_s)}. After {limit} "
            "(consumer_timeout) RabbitMQ takes back all that are unsettled, and they are delivered again",
            f"Set prefetch={_fitting_prefetch(handler)} or less, lower the timeout, or raise the concurrency.",
        )
    waiting = handler.prefetch - _at_once(handler)
    has_priorities = handler.queue.max_priority is not None or "x-max-priority" in handler.queue.arguments
    if has_priorities and waiting > 0:
        yield warning(
            "priority-prefetch",
            subject,
            f"prefetches {waiting} more than run at once, and an urgent message waits behind those",
            f"Set prefetch={_at_once(handler)}.",
        )


def _endless(handler: Handler, subject: str, server: str | None) -> Finding:
    """Return the finding about a handler that the broker's timeout overtakes."""
    limit = format_duration(handler.queue.consumer_timeout_s)
    is_certain = (version_of(server) or (0, 0)) >= _TIMEOUTS_NEVER_COUNT
    since = "" if is_certain else ", on RabbitMQ 4.3 and newer without end"
    return (error if is_certain else warning)(
        "endless-redelivery",
        subject,
        f"may run for {format_duration(handler.timeout_s)}, but after {limit} (consumer_timeout) RabbitMQ takes the "
        "message back and delivers it again. That never counts as a failure, so a message that takes longer runs again "
        f"and again{since}",
        f"Set a timeout below {limit}. If the broker has a longer consumer_timeout, say so in the queue's arguments: "
        "x-consumer-timeout, in milliseconds.",
    )


def _at_once(handler: Handler) -> int:
    return handler.concurrency * (handler.batch.size if handler.batch is not None else 1)


def _fitting_prefetch(handler: Handler) -> int:
    """Return the largest prefetch with which each message is settled in time."""
    wait_s = handler.batch.wait_s if handler.batch is not None else 0.0
    rounds = int((handler.queue.consumer_timeout_s - wait_s - 1) // handler.timeout_s)
    return max(1, rounds) * _at_once(handler)


def _of_queue(queue: Queue, known: Mapping[str, Any] | None, server: str | None) -> Iterator[Finding]:
    subject = f"queue '{queue.name}'"
    arguments = queue.arguments if known is None else known
    if not queue.dead_letter and _DLX not in arguments and _type_of(queue, known) == "quorum":
        yield _no_target(queue, subject, known is not None)
    for name, value in queue.arguments.items():
        reason = _REMOVED.get(name)
        if name == _OLD_VERSION and value == 1:
            reason = "RabbitMQ 4.3 refuses classic queues of version 1"
        if reason is not None:
            is_refused = (version_of(server) or (0, 0)) >= _TIMEOUTS_NEVER_COUNT
            yield (error if is_refused else warning)(
                "removed-argument",
                subject,
                f"has the argument {name}: {reason}",
                f"Take {name} out of its arguments. An existing queue keeps it: delete that when it is empty, or "
                'accept it with declare="passive". For replicated queues use type="quorum".',
            )


def _no_target(queue: Queue, subject: str, is_known: bool) -> Finding:
    is_certain = queue.declare == "ensure"
    own = "" if is_known else "or its own arguments "
    unless = "" if is_certain else f", unless a policy {own}name{'s' if is_known else ''} a target"
    return (error if is_certain else warning)(
        "no-dead-letter-target",
        subject,
        f"has no dead-letter target, so rejected messages, and those whose retries are used up, are lost{unless}",
        f"Leave out dead_letter=False, so that they go to {queue.dead_letter_name}; or name a target: "
        f'arguments={{"{_DLX}": "...", "x-dead-letter-routing-key": "..."}}.',
    )


def _of_limit(queue: Queue, known: Mapping[str, Any] | None, server: str | None) -> Iterator[Finding]:
    """Yield the finding about a queue of others, which may drop what is given back too often."""
    if _type_of(queue, known) != "quorum" or (known is not None and _LIMIT in known):
        return
    doubt = queue.doubt_of_limit(server or _SOME_BROKER)
    if doubt is None:
        return
    limit = KEEPS_RETURNED[_LIMIT]
    yield warning(
        "delivery-limit-unknown",
        f"queue '{queue.name}'",
        "is not declared by mxworker, and its delivery limit is "
        + ("not known" if known is None else "none of its own (policies cannot be seen over AMQP)")
        + ". On RabbitMQ 4 a quorum queue without one has 20: a message that came back more often, from pauses, stops "
        "or workers that died, is dead-lettered by the broker, or deleted if there is no dead-letter exchange",
        "Raise it:  rabbitmqctl set_policy --apply-to quorum_queues mxworker "
        f"'^{re.escape(queue.name)}([.].+)?$' '{{\"delivery-limit\": {limit}}}'\n"
        "Then say so in the code:  "
        f'Queue("{queue.name}", declare="{queue.declare}", arguments={{"{_LIMIT}": {limit}}})',
    )


def _type_of(queue: Queue, known: Mapping[str, Any] | None) -> str:
    return queue.type if known is None else str(known.get("x-queue-type", "classic"))
