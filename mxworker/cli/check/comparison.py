"""Compare what an application declares with what the broker has, and say how to mend what differs. Pure.

For each difference there are two sides, and so up to three ways: the code takes the queue as it is, the code says what
the broker has, or the queue is deleted and declared anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mxworker.amqp.consuming.differences import Asked, Difference, as_the_broker_has, breaks_retries
from mxworker.amqp.consuming.found import FoundExchange, FoundQueue
from mxworker.amqp.consuming.refusals import taken_as_it_is
from mxworker.api.queue_code import code_of
from mxworker.api.queues import Queue, stream_refusal
from mxworker.api.topology import Declaration, declarations, only_declared, quarantine
from mxworker.cli.check.findings import Finding, error, warning

_TYPE = "x-queue-type"
_STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Compared:
    """A queue as the application wants it, and as it was found."""

    queue: Queue
    """The queue that is consumed, beside which this one stands, or which it is."""
    wanted: Declaration
    is_consumed: bool
    """Whether it, or the queue beside which it stands, is consumed, and not only declared."""
    found: FoundQueue | None = None
    """None while no broker was asked."""
    may_consume: bool | None = None

    @property
    def arguments(self) -> Mapping[str, Any] | None:
        """The arguments that the queue has at the broker; None when they are not known. Of a stream only the type."""
        if self.found is None:
            return None
        if _is_stream(self.found):
            return {_TYPE: _STREAM}
        asked: Asked | None = Asked(self.wanted.arguments) if self.found.is_compared else None
        for each in self.found.differences:
            asked = as_the_broker_has(asked, each) if asked is not None else None
        return None if asked is None else asked.arguments

    @property
    def is_refused(self) -> bool:
        """Whether a worker would be refused, or would not work, because of how the queue is at the broker.

        Those beside a queue of others are taken as they are, except for a retry queue that does not move messages back.
        So is a quarantine queue.
        """
        if self.found is None or not self.found.differences or self.wanted.declare != "ensure":
            return False
        if self.queue.declare == "ensure" and self.wanted.role != "quarantine":
            return True
        return self.wanted.role == "retry" and breaks_retries(self.found.differences)

    @property
    def state(self) -> str:
        """What became of the comparison, in a few words."""
        match self.found:
            case None | FoundQueue(is_there=False):
                return self._state_when_missing
            case FoundQueue(trouble=trouble) if trouble:
                return "cannot be used"
            case FoundQueue(differences=()):
                return "exists, as it should be" if self.found.is_compared else "exists"
            case _:
                return "DIFFERS" if self.is_refused else "exists, with arguments of its own"

    @property
    def _state_when_missing(self) -> str:
        if self.wanted.role == "quarantine":
            return "is declared when it is needed"
        if self.wanted.declare == "ensure":
            return "will be declared"
        return "has to exist" if self.found is None else "MISSING"


def planned(queue: Queue, retry_steps_ms: Sequence[int], is_consumed: bool) -> Iterator[Compared]:
    """Yield the queues that are declared for one queue, before any broker was asked."""
    if not is_consumed:
        queue = only_declared(queue)
    for wanted in declarations(queue, retry_steps_ms):
        yield Compared(queue, wanted, is_consumed)
    if is_consumed and queue.declare != "off":
        yield Compared(queue, quarantine(queue), is_consumed)


def queue_findings(compared: Compared) -> Iterator[Finding]:
    """Yield what is wrong with one queue at the broker."""
    wanted, found = compared.wanted, compared.found
    if found is None:
        return
    subject = f"queue '{wanted.name}'"
    if found.trouble:
        yield error(
            "queue-unusable",
            subject,
            f"cannot be used now. The broker says: {found.trouble}",
            "Check that its node runs, and that no other connection has it for itself.",
        )
    elif not found.is_there and wanted.declare != "ensure":
        yield _missing(compared, subject)
    elif wanted.role == "work" and _is_stream(found):
        refusal = stream_refusal(wanted.name).partition("\n")
        yield error("queue-is-stream", subject, refusal[0].partition(" is ")[2].rstrip("."), refusal[2].strip())
    elif found.may_declare is False and _has_to_declare(compared):
        yield _forbidden(compared, subject)
    elif compared.is_refused:
        ways = "\n".join(_ways(compared.queue, wanted, found.differences))
        yield error("queue-differs", subject, f"differs: {_both_sides(found.differences)}", ways)
    elif wanted.role == "work" and any(each.key == "durable" for each in found.differences):
        yield _transient(subject)
    if compared.may_consume is False:
        yield error(
            "may-not-consume",
            subject,
            "may not be read by this user, so it cannot be consumed",
            f"Grant the permission:  rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE '^{wanted.name}$'",
        )


def binding_findings(queue: Queue, exchanges: Mapping[str, FoundExchange]) -> Iterator[Finding]:
    """Yield what is wrong with the exchanges to which a queue is bound."""
    for exchange, routing_key in queue.bind:
        found = exchanges[exchange]
        subject = f"exchange '{exchange}'"
        if found.trouble:
            yield error("exchange-unusable", subject, f"cannot be used. The broker says: {found.trouble}", _OF_CODE)
        elif not found.is_there:
            yield error(
                "exchange-missing",
                subject,
                f"does not exist, and queue '{queue.name}' is bound to it",
                "Create the exchange first: mxworker declares queues and binds them, but declares no exchange.",
            )
        elif found.type in ("direct", "fanout") and not {"*", "#"}.isdisjoint(routing_key.split(".")):
            ignored = "compares the key as it is" if found.type == "direct" else "ignores the key"
            yield warning(
                "binding-pattern",
                subject,
                f"is of type {found.type}, which {ignored}, but queue '{queue.name}' is bound with the pattern "
                f"'{routing_key}', which only a topic exchange understands",
                "Make it a topic exchange, or bind the queue with the keys that are meant.",
            )


def rights_findings(may_publish: bool | None, needs_copies: bool) -> Iterator[Finding]:
    """Yield what is wrong with the right to publish to queues by their names, which copies of messages need."""
    if may_publish is False and needs_copies:
        yield error(
            "may-not-publish",
            "this user",
            "may not write to the default exchange, through which retries and dead letters reach their queues",
            "Let its permission to write match amq.default:  "
            "rabbitmqctl set_permissions -p VHOST USER CONFIGURE '^(amq[.]default|...)$' READ",
        )


def channel_findings(channels: int, channel_max: int) -> Iterator[Finding]:
    """Yield what is wrong with the number of channels on one connection."""
    if channels > channel_max:
        yield error(
            "too-many-channels",
            "a worker",
            f"needs up to {channels} channels on one connection, and the broker allows {channel_max}",
            "Lower pool.max-channels or publisher.channels, or raise channel_max at the broker.",
        )


_OF_CODE = "Check the name of the exchange in the code."


def _is_stream(found: FoundQueue) -> bool:
    return any(each.key == _TYPE and each.value == _STREAM for each in found.differences)


def _has_to_declare(compared: Compared) -> bool:
    """Whether a worker declares the queue, be it there or not; what others declared is only declared if missing."""
    if compared.wanted.declare != "ensure" or compared.found is None:
        return False
    return not compared.found.is_there or (compared.queue.declare == "ensure" and compared.wanted.role != "quarantine")


def _missing(compared: Compared, subject: str) -> Finding:
    queue, wanted = compared.queue, compared.wanted
    if wanted.role == "work":
        without = f"Or let mxworker declare it:  {code_of(replace(queue, declare='ensure'))}"
    elif wanted.role == "dead-letter":
        without = f"Or do without:  {code_of(replace(queue, dead_letter=False))}"
    else:
        without = "Or do without:  retry=None in the handler"
    return error(
        "queue-missing",
        subject,
        f'does not exist, and with declare="{queue.declare}" mxworker does not declare it',
        f"Create it.\n{without}",
    )


def _forbidden(compared: Compared, subject: str) -> Finding:
    queue, wanted, found = compared.queue, compared.wanted, compared.found
    pattern = f"^{re.escape(queue.name)}([.].+)?$"
    ways = [f"Grant the permission:  rabbitmqctl set_permissions -p VHOST USER '{pattern}' WRITE READ"]
    if queue.declare == "ensure" and found is not None and found.is_there:
        ways.append(f"Or take queues as others declare them:  {code_of(taken_as_it_is(queue, found.differences))}")
    text = "may not be declared by this user"
    if found is not None and found.differences:
        text += f"; {_both_sides(found.differences)}"
    if wanted.role == "quarantine":
        text += ", so messages that kill workers cannot be set aside"
    return (warning if wanted.role == "quarantine" else error)("may-not-declare", subject, text, "\n".join(ways))


def _transient(subject: str) -> Finding:
    return warning(
        "queue-transient",
        subject,
        "is not durable: a restart of the broker deletes it with its messages, and RabbitMQ 4.3 refuses such queues",
        "Have it declared as durable by those who declare it.",
    )


def _both_sides(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{each.key} is {each.theirs} at the broker and {each.ours} in the code" for each in differences)


def _ways(queue: Queue, wanted: Declaration, differences: Sequence[Difference]) -> Iterator[str]:
    """Yield the ways to mend what differs."""
    anew = f"rabbitmqctl delete_queue -p VHOST {wanted.name}"
    if wanted.role != "work":
        yield f"mxworker chooses the arguments of this queue. When it is empty, delete it:  {anew}"
        return
    yield f"Take the queue as it is:  {code_of(taken_as_it_is(queue, differences))}"
    changed = _as_the_broker_has(queue, differences)
    if changed is not None:
        yield f"Or change the code:  {code_of(changed)}"
    yield f"Or delete the queue when it is empty, and mxworker declares it anew:  {anew}"


def _as_the_broker_has(queue: Queue, differences: Sequence[Difference]) -> Queue | None:
    """Return the queue with the broker's values; None when it cannot be written so, as a missing argument cannot."""
    if not all(each.key.startswith("x-") and each.value is not None and each.is_readable for each in differences):
        return None
    theirs = {each.key: each.value for each in differences}
    kind = theirs.pop(_TYPE, queue.type)
    try:
        return replace(queue, type=kind, arguments={**queue.arguments, **theirs})
    except ValueError:
        return None
