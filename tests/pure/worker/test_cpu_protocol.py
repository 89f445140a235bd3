"""What a worker and its processes say to each other arrives as it was said, however it is cut."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker import Ack, Delivery, Reject, Requeue, Retry
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.message import Content
from mxworker.api.receipts import Confirmed
from mxworker.api.settlement import Settlement
from mxworker.brokers import Brokers
from mxworker.config.overrides import Overrides
from mxworker.config.process import Consumption
from mxworker.errors import PublishError, PublishUnconfirmed, Unroutable
from mxworker.system.foreign_errors import TEXT_CHARACTERS, text_of, type_name
from mxworker.worker.cpu.protocol import (
    CONFIRMED,
    FAILED,
    REFUSED,
    REQUEST,
    SETTLEMENT,
    Frame,
    MemberSettings,
    Outgoing,
    ProtocolBroken,
    Unpacker,
    failed,
    fault_of,
    lines_dropped_of,
    outcome_of,
    outgoing,
    publish,
    published,
    request,
    requested,
    settled,
    settlement_of,
)
from tests.harness.nowhere import Nowhere

MIB = 1024 * 1024
MOST = 1000
any_text = st.text(st.characters())  # with lone surrogates: a text may come from a hostile body


def with_failure(settlement: Settlement, failure: Failure | None) -> Settlement:
    settlement.failure = failure
    return settlement


failures = st.none() | st.builds(Failure, st.sampled_from(FailureKind), any_text, any_text)
seconds = st.none() | st.floats(0, 1e9)
settlements = st.builds(
    with_failure,
    st.builds(Ack) | st.builds(Requeue) | st.builds(Retry, seconds, any_text) | st.builds(Reject, any_text),
    failures,
)


def framed(head: bytes, parts: bytes) -> bytes:
    """Return the bytes of a frame whose head may be anything."""
    return struct.pack(">IQ", len(head), len(parts)) + head + parts


def carried(frame: Frame, cut: Callable[[int], int] = lambda left: left) -> Frame:
    """Return what arrives when the bytes come in pieces of `cut(bytes left)`."""
    data = b"".join(frame.pieces())
    unpacker = Unpacker(MOST)
    arrived = None
    while data:
        assert arrived is None
        size = max(1, min(cut(len(data)), len(data)))
        arrived = unpacker.feed(data[:size])
        data = data[size:]
    assert arrived is not None
    return arrived


@given(settlements)
def test_settlement_arrives_as_it_was(settlement: Settlement) -> None:
    there = settlement_of(carried(settled(settlement)))
    assert type(there) is type(settlement)
    assert there.failure == settlement.failure
    assert vars(there) | {"failure": None} == vars(settlement) | {"failure": None}


@pytest.mark.parametrize("lines", [0, 1, 5_000])
def test_dropped_lines_of_the_log_arrive_with_the_settlement(lines: int) -> None:
    frame = carried(settled(Ack(), lines))
    assert lines_dropped_of(frame) == lines
    assert type(settlement_of(frame)) is Ack


@pytest.mark.parametrize("lines", [-1, True, 1.5, "1", None, 2**50])
def test_dropped_lines_that_nobody_can_have_counted_are_refused(lines: object) -> None:
    with pytest.raises(ProtocolBroken):
        lines_dropped_of(Frame(SETTLEMENT, {"kind": "Ack", "lines_dropped": lines}))


@given(st.data(), st.binary(), st.binary(), st.binary(), st.booleans(), st.integers(1, 2**64 - 1))
def test_delivery_arrives_as_it_was_however_it_is_cut(
    data: st.DataObject, body: bytes, properties: bytes, route: bytes, redelivered: bool, tag: int
) -> None:
    delivery = Delivery(body, properties, route, redelivered, tag, Nowhere())
    delivery.executed = data.draw(st.integers(0, 100))
    frame = carried(request("orders", delivery), lambda left: data.draw(st.integers(1, left)))
    queue, there = requested(frame, Nowhere())
    assert queue == "orders"
    assert (there.body, there.raw_properties, there.raw_route) == (body, properties, route)
    assert (there.redelivered, there.delivery_tag, there.executed) == (redelivered, tag, delivery.executed)


@given(
    st.binary(),
    st.none() | st.binary(),
    st.binary(),
    st.tuples(any_text, any_text, st.booleans(), st.none() | st.floats(allow_nan=False)),
)
def test_publish_arrives_as_it_was(
    head: bytes, message_id: bytes | None, body: bytes, how: tuple[str, str, bool, float | None]
) -> None:
    there = outgoing(carried(publish(Outgoing(Content(head, message_id, b"tail", body), *how))))
    content = there.content
    assert (content.head, content.message_id, content.tail, content.body) == (head, message_id, b"tail", body)
    assert (there.exchange, there.routing_key, there.mandatory, there.timeout_s) == how


def test_outcome_of_a_publish_arrives_as_what_it_was() -> None:
    for may_be_unrouted in (False, True):
        confirmed = outcome_of(carried(published(Confirmed("id", may_be_unrouted))))
        assert isinstance(confirmed, Confirmed)
        assert (confirmed.message_id, confirmed.may_be_unrouted) == ("id", may_be_unrouted)
    refused = outcome_of(carried(published(Unroutable("no queue takes it"))))
    assert (type(refused), str(refused)) == (Unroutable, "no queue takes it")


def test_error_that_is_not_known_here_is_an_unknown_fate() -> None:
    class Newer(PublishError):
        pass

    assert type(outcome_of(carried(published(Newer("?"))))) is PublishUnconfirmed


def test_large_part_is_not_copied_to_be_sent() -> None:
    body = bytes(1_000_000)
    assert any(piece is body for piece in Frame("request", {}, (b"small", body)).pieces())
    assert len(Frame("request", {}, (b"small", b"body")).pieces()) == 1


def test_settlement_of_a_class_of_the_applications_own_arrives_as_what_it_is() -> None:
    class TooOld(Reject):
        pass

    there = settlement_of(carried(settled(TooOld("2019"))))
    assert type(there) is Reject
    assert there.reason == "2019"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 20,
        b"\0\0\0\x02\0\0\0\0\0\0\0\0{}",
        b"\0\0\0\x02\0\0\0\0\0\0\0\0{,",
        b"\0\0\0\x01\0\0\0\0\0\0\0\0\xff",
        b"".join(Frame("ready", {}).pieces()) + b"x",
        framed(b'["ready",{},[2]]', b"x"),
        framed(b'["ready",{},[1]]', b"xx"),
        framed(b'["ready",{},[]]', b"x"),
        framed(b'["ready",{},[-1,2]]', b"x"),
        framed(b'["ready",{},[true]]', b"x"),
        framed(b'["ready",{},[1.0]]', b"x"),
        framed(b'["ready",{},["1"]]', b"x"),
        framed(b'["ready",{},1]', b"x"),
        framed(b'["ready",{},{}]', b""),
        framed(b'["ready",{},[0,0,0,0,0,0,0,0,0]]', b""),
        framed(b'["ready",[],[]]', b""),
        framed(b'["ready",null,[]]', b""),
        framed(b"[{},{},[]]", b""),
        framed(b'["ready",{}]', b""),
        framed(b"[" * 200_000, b""),
        framed(b'["ready",{},[' + b"9" * 5000 + b"]]", b""),
    ],
)
def test_bytes_that_are_no_frame_are_found_out(data: bytes) -> None:
    with pytest.raises(ProtocolBroken):
        Unpacker(MOST).feed(data)


@pytest.mark.parametrize(
    ("head_bytes", "parts_bytes", "is_taken"),
    [
        (256 * 1024, MOST + MIB, True),
        (256 * 1024 + 1, 0, False),
        (2**32 - 1, 0, False),
        (10, MOST + MIB + 1, False),
        (10, 2**40, False),
        (10, 2**64 - 1, False),
    ],
)
def test_length_beyond_any_frame_of_ours_is_refused_before_its_bytes_come(
    head_bytes: int, parts_bytes: int, is_taken: bool
) -> None:
    with nullcontext() if is_taken else pytest.raises(ProtocolBroken, match="the limit is"):
        assert Unpacker(MOST).feed(struct.pack(">IQ", head_bytes, parts_bytes)) is None


@given(st.binary(max_size=200) | st.builds(framed, st.binary(max_size=60), st.binary(max_size=60)))
def test_any_bytes_are_a_frame_or_a_part_of_one_or_broken(data: bytes) -> None:
    try:
        frame = Unpacker(MOST).feed(data)
    except ProtocolBroken:
        return
    assert frame is None or (sum(map(len, frame.parts)) <= MOST + MIB and isinstance(frame.facts, dict))


def test_longest_texts_that_there_are_fit_into_a_head() -> None:
    text = "\U0001f600" * (TEXT_CHARACTERS + 100)
    settlement = with_failure(Reject(text), Failure(FailureKind.FAILED, type_name(text), text_of(text)))
    settlement.__cause__ = ValueError(text)
    assert carried(settled(settlement)).kind == SETTLEMENT
    assert carried(failed(ValueError(text * 1000))).kind == FAILED
    assert carried(published(Unroutable(text * 1000))).kind == REFUSED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
facts = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["queue", "tag", "executed", "reason", "after_s", "error", "text", "message_id"], json_values),
        **dict.fromkeys(["exchange", "routing_key", "mandatory", "timeout_s", "has_id", "redelivered"], json_values),
        "kind": st.sampled_from(["Ack", "Retry", "Reject"]) | json_values,
        "failure": st.fixed_dictionaries(
            {"kind": st.sampled_from(FailureKind)},
            optional=dict.fromkeys(["error_type", "text", "trace"], json_values),
        )
        | json_values,
    },
)


@given(
    st.sampled_from([FAILED, SETTLEMENT, CONFIRMED, REFUSED, REQUEST]),
    facts,
    st.lists(st.binary(max_size=3), max_size=5).map(tuple),
    st.sampled_from([settlement_of, outgoing, outcome_of, fault_of, lambda frame: requested(frame, Nowhere())]),
)
def test_whatever_a_head_says_it_means_something_or_is_broken(
    kind: str, facts: dict[str, object], parts: tuple[bytes, ...], read: Callable[[Frame], object]
) -> None:
    with suppress(ProtocolBroken):
        read(Frame(kind, facts, parts))


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"kind": "Perhaps"},
        {"kind": "Retry", "after_s": -1.0, "reason": ""},
        {"kind": "Reject"},
        {"kind": "Ack", "failure": {"kind": "unheard of", "error_type": "", "text": ""}},
        {"kind": "Ack", "failure": None},
    ],
)
def test_answer_that_means_nothing_is_found_out(facts: dict[str, object]) -> None:
    with pytest.raises(ProtocolBroken):
        settlement_of(Frame(SETTLEMENT, facts))


def test_settings_arrive_as_they_were() -> None:
    consumption = Consumption(
        app="app:handlers",
        app_dir="/srv",
        brokers=Brokers.parse(["amqp://nowhere"]),
        queues=("a", "b"),
        overrides=Overrides(concurrency=3),
    )
    settings = MemberSettings.of(consumption, 4, 1234, ("debug", "json"))
    assert MemberSettings.from_json(settings.to_json()) == settings
    assert (settings.worker, settings.worker_pid, settings.log_level, settings.log_style) == (4, 1234, "debug", "json")
    for name in ("app", "app_dir", "queues", "overrides", "max_body_bytes"):
        assert getattr(settings, name) == getattr(consumption, name)
    assert "nowhere" not in settings.to_json(), "the broker's URL, which may hold a password, is not in the arguments"
