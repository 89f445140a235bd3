"""What a refused queue means, and the line of code with which the service starts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mxworker.amqp.connecting.library_errors import LOCKED, PRECONDITION_FAILED
from mxworker.amqp.consuming.differences import Difference, breaks_retries, not_of_the_type
from mxworker.amqp.consuming.found import FoundQueue
from mxworker.api.queue_code import code_of
from mxworker.api.queues import Queue, stream_refusal
from mxworker.errors import TopologyRefused

# What mxworker reads of the arguments of a queue that others have declared.
_READ_ARGUMENTS = ("x-delivery-limit", "x-consumer-timeout")
_VHOST = re.compile(r"in vhost '(?P<vhost>[^']*)'")
_USER = re.compile(r"refused for user '(?P<user>[^']*)'")
_RESOURCE = re.compile(r"access to (?P<kind>\w+) '(?P<name>[^']*)'")
_DEFAULT_EXCHANGE = "amq.default"  # its name in permissions
_LIMIT = "x-delivery-limit"


def explained(queue: Queue, found: Mapping[str, FoundQueue], refused: TopologyRefused) -> TopologyRefused:
    """Return the refusal of `queue`, or of a queue beside it, with a text that says what to do.

    `found` is what is at the broker, by name: `queue` first, then those beside it. It is empty if that is unknown.
    """
    text = _text(_Case(queue, found), refused)
    return refused if text is None else TopologyRefused(text, refused.code, refused.reply, refused.queue)


class _Case:
    """A queue that the code describes, and what is at the broker."""

    def __init__(self, queue: Queue, found: Mapping[str, FoundQueue]) -> None:
        self.queue = queue
        self.found = found

    @property
    def exists(self) -> bool:
        """Whether the queue itself is known to exist."""
        return self.is_there(self.queue.name)

    def is_there(self, name: str) -> bool:
        """Whether a queue is known to exist."""
        one = self.found.get(name)
        return one is not None and one.is_there

    def is_missing(self, name: str) -> bool:
        """Whether a queue is known not to exist."""
        one = self.found.get(name)
        return one is not None and not one.is_there

    def differences_of(self, name: str) -> tuple[Difference, ...]:
        one = self.found.get(name)
        return one.differences if one is not None else ()

    @property
    def retry_names(self) -> list[str]:
        beside = (self.queue.name, self.queue.dead_letter_name)
        return [name for name in self.found if name not in beside]

    def consumable(self) -> Queue:
        """Return the queue as the code has it, if it can be consumed so, and as `taken_as_it_is` otherwise."""
        is_other = self.exists and not self.found[self.queue.name].is_as_declared
        return self.taken_as_it_is() if is_other and self.queue.declare == "ensure" else self.queue

    def taken_as_it_is(self) -> Queue:
        """Return the queue as `declare="passive"` takes it: with the type and the consumers that the broker has."""
        return taken_as_it_is(self.queue, self.differences_of(self.queue.name))


def taken_as_it_is(wanted: Queue, found: Sequence[Difference]) -> Queue:
    """Return a queue as `declare="passive"` takes it: with the type and the consumers that the broker has."""
    differences = {difference.key: difference for difference in found}
    kept = {key: value for key, value in wanted.arguments.items() if key in _READ_ARGUMENTS}
    queue = replace(wanted, max_priority=None, declare="passive", arguments={})
    if "x-queue-type" in differences:
        is_quorum = differences["x-queue-type"].value == "quorum"
        queue = replace(queue, type="quorum" if is_quorum else "classic")
    if "x-single-active-consumer" in differences:
        queue = replace(queue, single_active_consumer=bool(differences["x-single-active-consumer"].value))
    return replace(queue, arguments={key: value for key, value in kept.items() if key not in differences})


def _text(case: _Case, refused: TopologyRefused) -> str | None:
    match refused.code:
        case 406:
            return _other_arguments(case, refused)
        case 404:
            return _missing(case, refused)
        case 403:
            return _forbidden(case, refused)
        case 405:
            return (
                f"broker refused queue '{refused.queue}': {LOCKED} RESOURCE_LOCKED, it is exclusive to another "
                "connection, and goes when that connection ends.\n"
                "  Have it declared without 'exclusive', or consume another queue."
            )
    return None


# ---- other arguments


def _other_arguments(case: _Case, refused: TopologyRefused) -> str | None:
    name = refused.queue
    misplaced = not_of_the_type(refused.reply)
    if misplaced is not None and misplaced[1] == "stream":
        return stream_refusal(name)
    differences = case.differences_of(name)
    if any(difference.key == "x-queue-type" and difference.value == "stream" for difference in differences):
        return stream_refusal(name)
    refusal = f"broker refused queue '{name}': {PRECONDITION_FAILED} PRECONDITION_FAILED, "
    if not differences:
        if misplaced is None:
            return None
        key, kind = misplaced
        return (
            f"{refusal}a {kind} queue takes no {key}.\n"
            f"  Take {key} out of the arguments of queue '{case.queue.name}', or use another type of queue."
        )
    lines = [f"{refusal}{differences[0]}."]
    if differences[1:]:
        lines.append(f"Also: {'; '.join(map(str, differences[1:]))}.")
    return "\n  ".join([*lines, *_ways_out(case, name, differences), *_notes(differences)])


def _ways_out(case: _Case, name: str, differences: Sequence[Difference]) -> list[str]:
    anew = "elete it when it is empty: mxworker declares it anew."
    if name in case.retry_names and breaks_retries(differences):
        return [
            f"Messages would not come back from it in time. D{anew}",
            f"Or write {_line(case.consumable(), False)} to do without retries, or other delays.",
        ]
    if not case.exists and name != case.queue.name:
        return [f"There is no queue '{case.queue.name}' yet. D{anew}"]
    has_broken_retries = any(breaks_retries(case.differences_of(retry)) for retry in case.retry_names)
    line = _line(case.taken_as_it_is(), not has_broken_retries)
    return [f"Write {line} to take existing queues as they are.", f"Or d{anew}"]


def _notes(differences: Sequence[Difference]) -> list[str]:
    keys = {difference.key: difference for difference in differences}
    if "auto_delete" in keys:
        return ["A queue with auto_delete is deleted when its last consumer leaves, also at a pause or a restart."]
    if "durable" in keys:
        return ["A queue that is not durable loses its messages when the broker restarts."]
    if _LIMIT in keys and keys[_LIMIT].value is None:
        return ["On RabbitMQ 4 raise its delivery limit by a policy: without one, it drops what came back 20 times."]
    return []


# ---- what is missing


def _missing(case: _Case, refused: TopologyRefused) -> str:
    text = str(refused).partition("\n")[0]
    queue, name = case.queue, refused.queue
    if "no exchange" in refused.reply:
        return (
            f"{text}\n  Create the exchange first: mxworker declares queues and binds them, but declares no exchange.\n"
            f"  Or take it out of {code_of(queue)}."
        )
    if name == queue.name:
        return f"{text}\n  Create it, or write {_declared(queue)} to have mxworker declare it."
    passive, without = code_of(replace(queue, declare="passive")), _without_missing(case)
    return (
        f"{text}\n  Create it, or write {passive} to have mxworker declare the queues beside '{queue.name}'.\n"
        f"  Or do without: write {without}."
    )


def _declared(queue: Queue) -> str:
    """Return the code with which mxworker declares the queue."""
    return code_of(queue).replace(f', declare="{queue.declare}"', "")


# ---- what this user may not do


def _forbidden(case: _Case, refused: TopologyRefused) -> str | None:
    user, vhost = _USER.search(refused.reply), _VHOST.search(refused.reply)
    if user is None:
        return None
    text = str(refused).partition("\n")[0]
    grant = _grant(case.queue, vhost["vhost"] if vhost is not None else "/", user["user"])
    ways = _ways_without_rights(case, refused)
    return "\n  ".join([text, *ways, f"{'Or have' if ways[1:] else 'Have'} an administrator grant it {grant}"])


def _ways_without_rights(case: _Case, refused: TopologyRefused) -> list[str]:
    """Return what is there, and the line that works without the right; no line when none does."""
    queue = case.queue
    resource = _RESOURCE.search(refused.reply)
    if case.is_missing(queue.name):
        return [f"There is no queue '{queue.name}', and this user may not create it."]
    if resource is not None and resource["name"] == _DEFAULT_EXCHANGE:
        told = "Retries and dead letters are published to the default exchange, which permissions call 'amq.default'."
        return [told, f"Write {_line(replace(case.taken_as_it_is(), dead_letter=False), False)} to do without them."]
    if not case.exists or (case.is_there(refused.queue) and queue.declare != "ensure"):
        return []
    missing = [name for name in case.found if case.is_missing(name)]
    there = f"Queue '{queue.name}' exists" + (f", but not {', '.join(missing)}." if missing else ".")
    return [there, f"Write {_without_missing(case)} to take it as it is{' and do without' if missing else ''}."]


def _without_missing(case: _Case) -> str:
    """Return the code that does without the queues that are missing beside the queue."""
    queue = case.taken_as_it_is()
    if case.queue.declare == "off":
        queue = replace(queue, declare="off")
    if case.is_missing(queue.dead_letter_name):
        queue = replace(queue, dead_letter=False)
    return _line(queue, not any(map(case.is_missing, case.retry_names)))


def _line(queue: Queue, has_retries: bool) -> str:
    return code_of(queue) if has_retries else f"{code_of(queue)} and retry=None in its handler"


def _grant(queue: Queue, vhost: str, user: str) -> str:
    own = rf"^{re.escape(queue.name)}($|[.])"
    exchanges = "".join(f"|^{re.escape(exchange)}$" for exchange in sorted({exchange for exchange, _ in queue.bind}))
    return (
        "(this replaces all that the user may do): "
        f"rabbitmqctl set_permissions -p '{vhost}' '{user}' '{own}' '{own}|^amq[.]default$' '{own}{exchanges}'"
    )
