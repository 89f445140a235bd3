"""The messages between a worker and a process of its `cpu=True` handlers, as values and as bytes.

    worker -> member   MemberSettings, as an argument of the command
    member -> worker   ready, or failed with a text
    worker -> member   a request: one delivery                \
    member -> worker   any number of times: publish           |  once for each delivery
    worker -> member       confirmed, or refused              |
    member -> worker   a settlement                           /
    worker -> member   the end of the stream: leave

One side writes at a time. A frame is a head in JSON and raw parts. Nothing is pickled, and the bytes of a publisher are
not interpreted on the way. Neither side trusts the lengths that the other side announces: a frame that is too long, or
whose lengths do not add up, raises ProtocolBroken, and the process of the handler is ended.

Pure: no I/O, no event loop.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mxworker import errors
from mxworker.api.delivery import Delivery, Source
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.message import Content
from mxworker.api.receipts import Confirmed
from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement
from mxworker.config.overrides import Overrides
from mxworker.config.process import Consumption
from mxworker.config.publisher import PublisherSettings
from mxworker.system.printable import head as beginning
from mxworker.system.printable import tail, well_formed
from mxworker.system.tracebacks import trace_of

READY = "ready"
FAILED = "failed"
REQUEST = "request"
SETTLEMENT = "settlement"
PUBLISH = "publish"
CONFIRMED = "confirmed"
REFUSED = "refused"

_PREFIX = struct.Struct(">IQ")  # bytes of the head, bytes of all parts
_MAX_HEAD_BYTES = 256 * 1024
"""All texts in a head are bounded, see `failures.TEXT_CHARACTERS`, and a character takes up to 12 bytes in JSON."""
_BESIDE_BODY_BYTES = 1024 * 1024  # for properties and route: a frame of AMQP holds them, of 128 KiB by default
_MAX_PARTS = 8
_FAULT_BYTES = 16 * 1024  # of the error text of a member that cannot start
_JOINED_BYTES = 128 * 1024  # a frame up to this size is joined for one write; larger frames are not copied
_MOST_LINES = 1 << 40
_TRACE_BYTES = 3000  # of a traceback, since a log line has room for no more
_KINDS: Mapping[str, type[Settlement]] = {kind.__name__: kind for kind in (Ack, Requeue, Retry, Reject)}
_PUBLISH_ERRORS: Mapping[str, type[errors.PublishError]] = {
    error.__name__: error
    for error in (
        errors.EncodeError,
        errors.MessageTooLarge,
        errors.PublishOverflow,
        errors.PublishNacked,
        errors.Unroutable,
        errors.PublishUnconfirmed,
    )
}


class ProtocolBroken(Exception):
    """The bytes from the pipe are no frame of ours: some other code wrote into it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; `kind` is one of the constants above."""

    kind: str
    facts: dict[str, Any]
    parts: tuple[bytes, ...] = ()

    @property
    def parts_bytes(self) -> int:
        """The total length of the parts."""
        return sum(map(len, self.parts))

    def pieces(self) -> list[bytes]:
        """Return the bytes to write: one piece for a small frame, and uncopied parts for a large one."""
        sizes = [len(part) for part in self.parts]
        head = json.dumps([self.kind, self.facts, sizes], default=str).encode()
        start = _PREFIX.pack(len(head), sum(sizes)) + head
        if len(start) + sum(sizes) <= _JOINED_BYTES:
            return [b"".join((start, *self.parts))]
        return [start, *self.parts]


class Unpacker:
    """Makes a frame from bytes as they arrive. Holds at most one frame, since the other side then waits."""

    def __init__(self, max_body_bytes: int) -> None:
        """Refuse frames that are longer than a frame with a body of `max_body_bytes` can be."""
        self._max_parts_bytes = max_parts_bytes(max_body_bytes)
        self._data = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether no byte of a frame has arrived yet."""
        return not self._data

    def feed(self, data: bytes) -> Frame | None:
        """Add bytes, and return the frame when it is complete. Raises ProtocolBroken."""
        self._data += data
        if len(self._data) < _PREFIX.size:
            return None
        head_bytes, parts_bytes = _PREFIX.unpack_from(self._data)
        if head_bytes > _MAX_HEAD_BYTES:
            raise ProtocolBroken(f"a head of {head_bytes} bytes, the limit is {_MAX_HEAD_BYTES}")
        if parts_bytes > self._max_parts_bytes:
            raise ProtocolBroken(f"parts of {parts_bytes} bytes, the limit is {self._max_parts_bytes}")
        end = _PREFIX.size + head_bytes + parts_bytes
        if len(self._data) < end:
            return None
        if len(self._data) > end:
            raise ProtocolBroken("bytes after the end of a frame")
        whole, self._data = self._data, bytearray()
        return _frame(memoryview(whole), _PREFIX.size + head_bytes)


def max_parts_bytes(max_body_bytes: int) -> int:
    """Return the longest total length of a frame's parts, where a body may have `max_body_bytes`."""
    return max_body_bytes + _BESIDE_BODY_BYTES


def _frame(data: memoryview, parts_at: int) -> Frame:
    try:
        kind, facts, sizes = json.loads(bytes(data[_PREFIX.size : parts_at]))
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolBroken(f"a head that cannot be read: {error}") from error
    if type(kind) is not str or type(facts) is not dict or type(sizes) is not list:
        raise ProtocolBroken("a head that is not a kind, facts and sizes")
    if len(sizes) > _MAX_PARTS or not all(type(size) is int and size >= 0 for size in sizes):
        raise ProtocolBroken(f"sizes that are not valid: {sizes!r:.200}")
    if sum(sizes) != len(data) - parts_at:
        raise ProtocolBroken(f"parts of {len(data) - parts_at} bytes, where the head says {sum(sizes)}")
    parts = []
    for size in sizes:
        parts.append(bytes(data[parts_at : parts_at + size]))
        parts_at += size
    return Frame(kind, facts, tuple(parts))


# ---- the settings of a member


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """The settings by which a member loads the same application as its worker, and logs in the same way.

    Every user of the machine can read them: never add a value that may hold a password, as the URLs of brokers do.
    """

    worker: int
    worker_pid: int
    log_level: str
    log_style: str

    # The worker's own settings, by their names in `Consumption`.
    app: str
    app_dir: str | None
    may_be_insecure: bool
    queues: tuple[str, ...]
    exclude_queues: tuple[str, ...]
    publisher: PublisherSettings
    overrides: Overrides
    queue_overrides: Mapping[str, Overrides]
    boot_timeout_s: float
    max_body_bytes: int
    prefetch_budget_bytes: int
    metrics_directory: str | None

    number: int = 0
    """The number of the member among those of its worker that live."""

    @classmethod
    def of(cls, settings: Consumption, worker: int, worker_pid: int, log_as: tuple[str, str]) -> MemberSettings:
        """Return the settings for members of worker `worker`; `log_as` is level and style, see `log.set_up`."""
        own = {name: getattr(settings, name) for name in cls.__slots__ if hasattr(settings, name)}
        return cls(worker, worker_pid, *log_as, **own)

    @classmethod
    def from_json(cls, text: str) -> MemberSettings:
        """Return the settings in a text that `to_json` made."""
        facts = json.loads(text)
        made = {
            "queues": tuple(facts["queues"]),
            "exclude_queues": tuple(facts["exclude_queues"]),
            "overrides": Overrides(**facts["overrides"]),
            "queue_overrides": {queue: Overrides(**chosen) for queue, chosen in facts["queue_overrides"].items()},
            "publisher": PublisherSettings(**facts["publisher"]),
        }
        return cls(**facts | made)

    def to_json(self) -> str:
        """Return the settings as an argument of a command."""
        return json.dumps(asdict(self))


# ---- the failed start of a member


def failed(error: BaseException) -> Frame:
    """Return the frame of a member that cannot start."""
    return Frame(FAILED, {"text": beginning(well_formed(str(error)), _FAULT_BYTES)})


def fault_of(frame: Frame) -> str:
    """Return why a member cannot start. Raises ProtocolBroken."""
    text = frame.facts.get("text")
    if frame.kind != FAILED or not isinstance(text, str):
        raise ProtocolBroken(f"'{frame.kind:.20}' instead of '{READY}' or '{FAILED}'")
    return text


# ---- deliveries and settlements


def request(queue: str, delivery: Delivery) -> Frame:
    """Return the request to execute a delivery of `queue`."""
    facts = {
        "queue": queue,
        "redelivered": delivery.redelivered,
        "tag": delivery.delivery_tag,
        "executed": delivery.executed,
    }
    return Frame(REQUEST, facts, (delivery.raw_properties, delivery.raw_route, delivery.body))


def requested(frame: Frame, source: Source) -> tuple[str, Delivery]:
    """Return the queue and the delivery of a request. Raises ProtocolBroken."""
    facts = frame.facts
    try:
        raw_properties, route, body = frame.parts
        delivery = Delivery(body, raw_properties, route, facts["redelivered"], facts["tag"], source)
        delivery.executed = facts["executed"]
        return facts["queue"], delivery
    except (KeyError, ValueError) as error:
        raise ProtocolBroken(f"'{frame.kind:.20}' instead of a request: {facts!r:.200}") from error


def settled(settlement: Settlement, lines_dropped: int = 0) -> Frame:
    """Return the answer to a request. The member has dropped `lines_dropped` lines of its log since the last one."""
    kind = next(name for name, kind in _KINDS.items() if isinstance(settlement, kind))
    facts: dict[str, Any] = {"kind": kind}
    if lines_dropped:
        facts |= {"lines_dropped": lines_dropped}
    if isinstance(settlement, Retry):
        facts |= {"after_s": None if settlement.after_s is None else float(settlement.after_s)}
    if isinstance(settlement, Retry | Reject):
        facts |= {"reason": settlement.reason}
    if settlement.failure is not None:
        error = settlement.__cause__
        trace = tail(well_formed(trace_of(error)), _TRACE_BYTES) if error is not None else ""
        facts |= {"failure": asdict(replace(settlement.failure, trace=trace))}
    return Frame(SETTLEMENT, facts)


def settlement_of(frame: Frame) -> Settlement:
    """Return the settlement in an answer. Raises ProtocolBroken."""
    facts = frame.facts
    try:
        settlement = _settlement(facts)
        if "failure" in facts:
            failure = facts["failure"]
            kind = FailureKind(failure["kind"])
            settlement.failure = Failure(kind, *(_text(failure, name) for name in ("error_type", "text", "trace")))
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolBroken(f"an answer without a settlement: {facts!r:.200}") from error
    return settlement


def lines_dropped_of(frame: Frame) -> int:
    """Return how many lines of its log the member dropped since its last answer. Raises ProtocolBroken."""
    lines = frame.facts.get("lines_dropped", 0)
    if type(lines) is not int or not 0 <= lines <= _MOST_LINES:
        raise ProtocolBroken(f"dropped lines that cannot be counted: {lines!r:.200}")
    return lines


def _settlement(facts: Mapping[str, Any]) -> Settlement:
    kind = _KINDS[facts["kind"]]
    if kind is Retry:
        return Retry(facts["after_s"], _text(facts, "reason"))
    if kind is Reject:
        return Reject(_text(facts, "reason"))
    return kind()


def _text(facts: Mapping[str, Any], name: str) -> str:
    """Return the text of a fact. Raises KeyError, TypeError."""
    text = facts[name]
    if not isinstance(text, str):
        raise TypeError(f"{name} is no text")
    return text


# ---- the messages that a handler publishes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded message of a handler, and its route. With `timeout_s` None the publisher's timeout holds."""

    content: Content
    exchange: str
    routing_key: str
    mandatory: bool
    timeout_s: float | None


def publish(outgoing: Outgoing) -> Frame:
    """Return the request to publish."""
    content = outgoing.content
    facts = {
        "exchange": outgoing.exchange,
        "routing_key": outgoing.routing_key,
        "mandatory": outgoing.mandatory,
        "timeout_s": outgoing.timeout_s,
        "has_id": content.message_id is not None,
    }
    return Frame(PUBLISH, facts, (content.head, content.message_id or b"", content.tail, content.body))


def outgoing(frame: Frame) -> Outgoing:
    """Return the message in a request to publish. Raises ProtocolBroken."""
    facts = frame.facts
    try:
        head, message_id, tail, body = frame.parts
        content = Content(head, message_id if facts["has_id"] else None, tail, body)
        timeout_s = None if facts["timeout_s"] is None else float(facts["timeout_s"])
        route = _text(facts, "exchange"), _text(facts, "routing_key")
        return Outgoing(content, *route, bool(facts["mandatory"]), timeout_s)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolBroken(f"a request to publish without a message: {facts!r:.200}") from error


def published(outcome: Confirmed | errors.PublishError) -> Frame:
    """Return the answer to a request to publish."""
    if isinstance(outcome, Confirmed):
        return Frame(CONFIRMED, {"message_id": outcome.message_id, "may_be_unrouted": outcome.may_be_unrouted})
    text = beginning(well_formed(str(outcome)), _FAULT_BYTES)
    return Frame(REFUSED, {"error": type(outcome).__name__, "text": text})


def outcome_of(frame: Frame) -> Confirmed | errors.PublishError:
    """Return the outcome in the answer to a request to publish. Raises ProtocolBroken."""
    facts = frame.facts
    try:
        if frame.kind == CONFIRMED:
            return Confirmed(_text(facts, "message_id"), bool(facts["may_be_unrouted"]))
        return _PUBLISH_ERRORS.get(_text(facts, "error"), errors.PublishUnconfirmed)(_text(facts, "text"))
    except (KeyError, TypeError) as error:
        raise ProtocolBroken(f"'{frame.kind:.20}' instead of the outcome of a publish: {facts!r:.200}") from error
