"""What an application wants sent is what the wire says, or is refused before anything is sent."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, cast, get_type_hints

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands, header

from mxworker.api.message import Content, Encoder, Message, MessageOptions
from mxworker.errors import EncodeError, MessageTooLarge
from mxworker.payloads.compression import Compression, decompress
from mxworker.wire.properties import Properties, message_id_bytes
from tests.rabbit.raw import short_string

ID = b"an-id"
TEXTS = ("content_type", "correlation_id", "reply_to", "type", "app_id", "message_id")

short_texts = st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
sendable_texts = short_texts.filter(lambda text: len(text.encode("utf-8", "surrogateescape")) <= 255)
messages = st.builds(
    Message,
    body=st.binary(max_size=20),
    headers=st.none()
    | st.dictionaries(
        st.text(max_size=10).filter(lambda name: name not in ("CC", "BCC")),  # which hold routing keys
        st.integers(0, 9) | st.text(max_size=10),
        max_size=3,
    ),
    persistent=st.booleans(),
    priority=st.none() | st.integers(0, 255),
    expiration_ms=st.none() | st.integers(0, 2**32 - 1),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    **{name: st.none() | sendable_texts for name in TEXTS},
)


def raw_properties(content: Content) -> bytes:
    """Return the properties as a publisher puts them together."""
    return content.head + short_string(ID if content.message_id is None else content.message_id) + content.tail


def sent(message: object, encoder: Encoder | None = None) -> tuple[Properties, bytes]:
    """Return what a receiver sees of `message`: properties and body."""
    content = (encoder or Encoder()).encode(message)
    return Properties(raw_properties(content)), content.body


def refusal(message: object, encoder: Encoder | None = None) -> str:
    with pytest.raises(EncodeError) as caught:
        (encoder or Encoder()).encode(message)
    return str(caught.value)


# ---- properties


@given(message=messages)
@settings(max_examples=500, deadline=None)
def test_what_a_message_says_is_what_a_receiver_reads(message: Message) -> None:
    properties, body = sent(message)
    assert body == message.body
    for name in TEXTS:
        default = {"content_type": "application/octet-stream", "message_id": ID.decode()}.get(name)
        said = getattr(message, name)
        assert getattr(properties, name) == (default if said is None else said), name
    assert properties.headers == (message.headers or {})
    assert properties.delivery_mode == (2 if message.persistent else 1)
    assert (properties.priority, properties.timestamp) == (message.priority, message.timestamp)
    assert properties.expiration == (None if message.expiration_ms is None else str(message.expiration_ms))
    assert properties.content_encoding is None
    assert properties.user_id is None


@given(message=messages)
@settings(max_examples=200, deadline=None)
def test_the_message_id_is_where_the_flags_say(message: Message) -> None:
    content = Encoder().encode(message)
    expected = ID if message.message_id is None else message.message_id.encode("utf-8", "surrogateescape")
    assert message_id_bytes(raw_properties(content)) == expected


def test_pamqp_reads_every_property() -> None:
    message = Message(
        b"body",
        content_type="text/html",
        headers={"n": 1},
        message_id="id",
        persistent=False,
        priority=7,
        expiration_ms=60_000,
        correlation_id="correlation",
        reply_to="replies",
        type="kind",
        app_id="app",
        timestamp=1_700_000_000,
    )
    content_header = header.ContentHeader()
    content_header.unmarshal(struct.pack(">HHQ", 60, 0, 4) + raw_properties(Encoder().encode(message)))
    assert dict(content_header.properties) == dict(
        commands.Basic.Properties(
            content_type="text/html",
            headers={"n": 1},
            delivery_mode=1,
            priority=7,
            correlation_id="correlation",
            reply_to="replies",
            expiration="60000",
            message_id="id",
            timestamp=datetime.fromtimestamp(1_700_000_000, UTC),
            message_type="kind",
            app_id="app",
        )
    )


def test_datetime_is_sent_as_whole_seconds() -> None:
    moment = datetime(2026, 1, 1, 2, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert sent(Message(timestamp=moment))[0].timestamp == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"message_id": "x" * 256}, f"message_id is {'x' * 256!r:.80}: it has 256 bytes, the limit is 255"),
        ({"correlation_id": "ä" * 128}, f"correlation_id is {'ä' * 128!r:.80}: it has 256 bytes, the limit is 255"),
        ({"reply_to": 7}, "reply_to is 7: it is not a str"),
        ({"reply_to": "amq.rabbitmq.reply-to"}, "reply_to is 'amq.rabbitmq.reply-to': a direct reply needs a consumer"),
        ({"headers": {"CC": "q2"}}, "headers['CC'] is 'q2': it must be a list of routing keys"),
        ({"headers": {"BCC": ["q2", 3]}}, "headers['BCC'] is ['q2', 3]: it must be a list of routing keys"),
        ({"message_id": b"id"}, "message_id is b'id': it is not a str"),
        ({"app_id": "\ud800"}, r"app_id is '\ud800': it is not Unicode, surrogates not allowed"),
        ({"priority": 256}, "priority is 256: it is not from 0 to 255"),
        ({"priority": -1}, "priority is -1: it is not from 0 to 255"),
        ({"priority": True}, "priority is True: it is not a whole number"),
        ({"priority": 1.0}, "priority is 1.0: it is not a whole number"),
        ({"expiration_ms": -1}, "expiration_ms is -1: it is not from 0 to 4294967295"),
        ({"expiration_ms": 2**32}, "expiration_ms is 4294967296: it is not from 0 to 4294967295"),
        ({"expiration_ms": "60000"}, "expiration_ms is '60000': it is not a whole number"),
        ({"timestamp": 2**64}, "timestamp is 18446744073709551616: it is not from 0 to 18446744073709551615"),
        ({"timestamp": 1.5}, "timestamp is 1.5: it is not a whole number"),
        ({"timestamp": datetime(1969, 1, 1, tzinfo=UTC)}, "timestamp is -31536000: it is not from 0 to"),
        ({"timestamp": datetime(2026, 1, 1)}, "it has no time zone"),
        ({"headers": {"a": {"b": Decimal(-1)}}}, "headers['a']['b']: a decimal field is finite and not negative"),
        ({"compression": "brotli"}, "compression is 'brotli': compression is gzip or zstd, not 'brotli'"),
        ({"content_type": "application/msgpack"}, "content_type is 'application/msgpack': no serializer is registered"),
    ],
    ids=str,
)
def test_property_that_cannot_be_sent_is_named_with_its_value(options: dict[str, Any], text: str) -> None:
    assert text in refusal(Message({}, **options))


def test_the_options_are_the_fields_of_a_message() -> None:
    fields = {name: hint for name, hint in get_type_hints(Message).items() if name != "body"}
    assert get_type_hints(MessageOptions) == fields


def test_options_beside_a_body_make_the_same_content_as_a_message_of_them() -> None:
    encoder = Encoder()
    options: MessageOptions = {"priority": 5, "headers": {"a": 1}, "message_id": "m-1"}
    beside, within = encoder.encode({"b": 2}, options), encoder.encode(Message({"b": 2}, **options))
    for name in Content.__slots__:
        assert getattr(beside, name) == getattr(within, name)


@pytest.mark.parametrize("made", [Message("text"), Encoder().encode("text")], ids=["message", "content"])
def test_options_beside_what_has_its_own_are_refused(made: Message | Content) -> None:
    assert Encoder().encode(made, {}) is not None
    with pytest.raises(EncodeError, match="has its options already"):
        Encoder().encode(made, {"priority": 5})


# ---- bodies


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


class Struct(msgspec.Struct, rename="camel"):
    order_id: int
    at: datetime | None = None


class Model(pydantic.BaseModel):
    order_id: int
    at: datetime | None = None


MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "content_type", "body"),
    [
        (b"\xff", "application/octet-stream", b"\xff"),
        (bytearray(b"\xff"), "application/octet-stream", b"\xff"),
        pytest.param(memoryview(b"abc")[1:], "application/octet-stream", b"bc", id="memoryview"),
        ("ä", "text/plain", "ä".encode()),
        (None, "application/json", b"null"),
        ({"a": [1, 2.5, True, None]}, "application/json", b'{"a":[1,2.5,true,null]}'),
        ([], "application/json", b"[]"),
        (7, "application/json", b"7"),
        (Point(1), "application/json", b'{"x":1}'),
        (Colour.RED, "application/json", b'"red"'),
        (MOMENT, "application/json", b'"2026-01-01T00:00:00+00:00"'),
        (uuid.UUID(int=1), "application/json", b'"00000000-0000-0000-0000-000000000001"'),
        (Struct(1, MOMENT), "application/json", b'{"orderId":1,"at":"2026-01-01T00:00:00Z"}'),
        ([{"s": Struct(1)}], "application/json", b'[{"s":{"orderId":1,"at":null}}]'),
        (Model(order_id=1, at=MOMENT), "application/json", b'{"order_id":1,"at":"2026-01-01T00:00:00Z"}'),
        ({"m": Model(order_id=1)}, "application/json", b'{"m":{"order_id":1,"at":null}}'),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_body_and_content_type_follow_from_the_value(value: object, content_type: str, body: bytes) -> None:
    for message in (value, Message(value)):
        properties, sent_body = sent(message)
        assert (properties.content_type, sent_body, properties.delivery_mode) == (content_type, body, 2)
        assert type(sent_body) is bytes


def test_buffer_that_changes_after_encoding_changes_nothing() -> None:
    buffer = bytearray(b"before")
    content = Encoder().encode(buffer)
    buffer[:] = b"after!"
    assert content.body == b"before"


@pytest.mark.parametrize("content_type", ["application/vnd.order+json", "application/json; charset=utf-8", "text/json"])
def test_other_names_of_json_are_kept(content_type: str) -> None:
    properties, body = sent(Message({"a": 1}, content_type=content_type))
    assert (properties.content_type, body) == (content_type, b'{"a":1}')


@pytest.mark.parametrize("body", [b"abc", "abc"])
def test_bytes_and_text_may_have_any_content_type(body: bytes | str) -> None:
    properties, sent_body = sent(Message(body, content_type="application/json"))
    assert (properties.content_type, sent_body) == ("application/json", b"abc")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1, 2}, "a set cannot be sent as application/json"),
        (Decimal(1), "a Decimal cannot be sent as application/json"),
        ({"a": object()}, "a dict cannot be sent as application/json"),
        ({1: 2}, "a dict cannot be sent as application/json"),
        ({"a": "\ud800"}, "a dict cannot be sent as application/json"),
        ("\ud800", "a str cannot be sent as text/plain"),
        (lambda: None, "a function cannot be sent as application/json"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_body_without_a_form_is_refused(value: object, text: str) -> None:
    assert refusal(value).startswith(text)
    assert refusal(Message(value)).startswith(text)


@dataclasses.dataclass
class Measured:
    value: object
    _private: float = math.nan


@dataclasses.dataclass(slots=True)
class MeasuredInSlots:
    value: object
    _private: float = math.nan


class MeasuredStruct(msgspec.Struct):
    value: object


class MeasuredModel(pydantic.BaseModel):
    value: float | None


class Ratios(pydantic.RootModel[list[float]]):
    pass


class Limit(Enum):
    NONE = math.inf


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "JSON has no nan"),
        ([1.5, math.inf], "JSON has no inf, which is at [1]"),
        ((-math.inf,), "JSON has no -inf, which is at [0]"),
        ({"a": None, "b": [{"c": 1.5}, {"c": math.nan}]}, "JSON has no nan, which is at ['b'][1]['c']"),
        ({"a": 2**70, "b": math.nan}, "JSON has no nan, which is at ['b']"),
        (Limit.NONE, "JSON has no inf"),
        ([Limit.NONE], "JSON has no inf, which is at [0]"),
        (Measured(math.nan), "JSON has no nan, which is at ['value']"),
        (MeasuredInSlots([math.nan]), "JSON has no nan, which is at ['value'][0]"),
        ({"m": MeasuredStruct(math.nan)}, "JSON has no nan, which is at ['m']['value']"),
        (MeasuredModel(value=math.inf), "JSON has no inf, which is at ['value']"),
        ([Ratios([1.5, math.nan])], "JSON has no nan, which is at [0][1]"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_number_that_json_does_not_have_is_refused_where_it_is(value: object, text: str) -> None:
    for message in (value, Message(value)):
        assert refusal(message).endswith(f" cannot be sent as application/json: {text}")


@pytest.mark.parametrize(
    "value",
    [
        {"null": "null", "a": [None, 1.5, -0.0, 1e308], "b": (True, MOMENT, Colour.RED, uuid.UUID(int=1))},
        [None, Measured(None), MeasuredInSlots(1.5), MeasuredStruct(None), MeasuredModel(value=None), Ratios([1.5])],
        [None, 2**70],
    ],
)
def test_null_beside_other_values_is_sent(value: object) -> None:
    assert b"null" in sent(value)[1]


def test_number_that_python_writes_no_text_of_is_refused() -> None:
    assert refusal({"a": 10**5000}).startswith("a dict cannot be sent as application/json")


def test_endless_body_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "cannot be sent as application/json" in refusal(endless)


def test_serializer_makes_the_bodies_of_its_content_type() -> None:
    encoder = Encoder(serializers={"application/msgpack": msgspec.msgpack.encode})
    properties, body = sent(Message({"a": 1}, content_type="application/msgpack"), encoder)
    assert properties.content_type == "application/msgpack"
    assert msgspec.msgpack.decode(body) == {"a": 1}
    assert sent({"a": 1}, encoder)[1] == b'{"a":1}'


def test_serializer_for_json_replaces_ours() -> None:
    encoder = Encoder(serializers={"application/json": lambda value: json.dumps(value).encode()})
    for message in ({"a": 1}, Message({"a": 1}), Message({"a": 1}, content_type="application/json")):
        properties, body = sent(message, encoder)
        assert (properties.content_type, body) == ("application/json", b'{"a": 1}')


@pytest.mark.parametrize("raised", [ValueError("no"), RecursionError("deep"), MemoryError("large")])
def test_whatever_a_serializer_raises_is_an_encode_error(raised: Exception) -> None:
    def broken(value: object) -> bytes:
        raise raised

    with pytest.raises(EncodeError) as caught:
        Encoder(serializers={"x": broken}).encode(Message({}, content_type="x"))
    assert caught.value.__cause__ is raised
    assert str(caught.value) == f"a dict cannot be sent as x: {raised}"


def test_serializer_that_returns_no_bytes_is_refused() -> None:
    faulty: Callable[[Any], Any] = str
    encoder = Encoder(serializers={"x": faulty})
    assert refusal(Message({}, content_type="x"), encoder) == "the serializer for x returned a str instead of bytes"


# ---- limits, compression, prepared messages


def test_body_of_the_limit_is_sent_and_one_byte_more_is_not() -> None:
    encoder = Encoder(max_body_bytes=10)
    for wrap in (bytes, Message):
        assert encoder.encode(wrap(b"x" * 10)).body == b"x" * 10
        with pytest.raises(MessageTooLarge) as caught:
            encoder.encode(wrap(b"x" * 11))
        assert str(caught.value) == "the body has 11 bytes, the limit is 10"


def test_limit_is_that_of_the_compressed_body() -> None:
    encoder = Encoder(Compression(), max_body_bytes=2000)
    assert len(encoder.encode(bytes(100_000)).body) < 2000
    with pytest.raises(MessageTooLarge):
        encoder.encode(random.Random(1).randbytes(2001))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("wrap", [lambda body: body, Message, lambda body: Message(body, compression="gzip")])
def test_compressed_body_says_so(encoding: str, wrap: Callable[[object], object]) -> None:
    properties, body = sent(wrap("a" * 5000), Encoder(Compression(encoding)))
    assert properties.content_type == "text/plain"
    assert properties.content_encoding in ("gzip", encoding)
    assert decompress(body, properties.content_encoding) == b"a" * 5000
    assert properties.message_id == ID.decode()


@pytest.mark.parametrize("message", [b"a" * 1024, Message("a" * 1024), Message("a" * 5000, compression="none")])
def test_body_that_is_not_compressed_says_nothing(message: object) -> None:
    properties, body = sent(message, Encoder(Compression()))
    assert properties.content_encoding is None
    assert set(body) == set(b"a")


def test_message_may_ask_for_a_compression_that_the_publisher_does_not_use() -> None:
    assert sent(Message("a" * 5000, compression="zstd"))[0].content_encoding == "zstd"
    assert sent(Message("a" * 5000, compression="zstd"), Encoder(Compression()))[0].content_encoding == "zstd"


def test_prepared_message_is_taken_as_it_is() -> None:
    encoder = Encoder()
    content = encoder.encode(Message({"a": 1}, priority=1))
    assert encoder.encode(content) is content


def test_repr_shows_no_body() -> None:
    assert repr(Encoder().encode(b"S3cr3t")) == "<Content id=None 6 bytes>"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"headers": {"a": 1, "trace": "old", "z": [1, {"b": None}]}},
        {"content_type": "text/x", "compression": "gzip", "headers": {}, "priority": 3, "correlation_id": "c"},
        {"message_id": "mine", "app_id": "app", "timestamp": 7},
    ],
)
def test_content_with_headers_differs_in_its_headers_alone(options: MessageOptions) -> None:
    content = Encoder().encode("body " * 500, options)
    more = content.with_headers({"trace": "new", "state": "x"})
    expected = {**options, "headers": {**(options.get("headers") or {}), "trace": "new", "state": "x"}}
    same = Encoder().encode("body " * 500, cast("MessageOptions", expected))
    assert (more.message_id, more.tail, more.body) == (content.message_id, content.tail, content.body)

    def read(one: Content) -> tuple[object, ...]:
        raw = one.head + bytes((1,)) + b"i" + one.tail
        found = Properties(raw)
        return found.headers, found.content_type, found.content_encoding, found.priority, found.correlation_id

    assert read(more) == read(same)
