"""The samples of all kinds of annotations: each one is read by the decoder of a handler with that annotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from mxworker import Delivery, Handlers
from mxworker.api.handlers import compile_handlers
from mxworker.samples.sample import Sample, sample_of
from mxworker.samples.values import NoSample


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Address(TypedDict, total=False):
    city: str


class Point(NamedTuple):
    x: int
    y: float


@dataclass
class Line:
    sku: str
    quantity: int = 2


@dataclass
class Order:
    id: int
    total: Decimal
    placed_at: datetime
    lines: list[Line]
    colour: Colour
    key: UUID
    note: str | None = None


@dataclass
class Everything:
    day: date
    hour: time
    wait: timedelta
    raw: bytes
    level: Level
    word: Literal["a", "b"]
    either: int | list[str]
    pair: tuple[int, str]
    many: tuple[float, ...]
    names: set[str]
    by_number: dict[int, Line]
    by_key: dict[UUID, bool]
    point: Point
    address: Address
    anything: Any
    local: Annotated[datetime, msgspec.Meta(tz=False)]
    zoned: Annotated[datetime, msgspec.Meta(tz=True)]
    bounded: Annotated[int, msgspec.Meta(gt=10, multiple_of=7)]
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    long: Annotated[str, msgspec.Meta(min_length=9)]
    short: Annotated[str, msgspec.Meta(max_length=2)]
    several: Annotated[list[int], msgspec.Meta(min_length=3)]
    code: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$", examples=["ABC"])]


@dataclass
class Tree:
    name: str
    parent: Tree | None = None
    children: list[Tree] = field(default_factory=list)


class Circle(msgspec.Struct, tag="circle", rename="camel"):
    line_width: int


class Square(msgspec.Struct, tag="square"):
    side: int


class Row(msgspec.Struct, tag="row", array_like=True):
    number: int


class Customer(pydantic.BaseModel):
    id: pydantic.PositiveInt
    name: str = pydantic.Field(min_length=2, alias="fullName")
    rate: float = pydantic.Field(gt=0, lt=1)
    page: pydantic.HttpUrl
    secret: pydantic.SecretStr
    key: pydantic.UUID4
    total: Decimal = pydantic.Field(gt=0, decimal_places=2)
    placed_at: datetime
    wait: timedelta
    colour: Colour
    word: Literal["a", "b"]
    pair: tuple[int, str]
    by_number: dict[int, str]
    by_key: dict[UUID, int]
    address: pydantic.IPvAnyAddress
    raw: bytes
    code: str = pydantic.Field(pattern="^[A-Z]{3}$", examples=["ABC"])
    embedded: pydantic.Json[dict[str, int]]
    of: Customer | None = None
    even: int = pydantic.Field(default=0, multiple_of=2)
    several: list[int] = pydantic.Field(min_length=3)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


def sample(annotation: Any) -> Sample:
    """Return the sample for a handler with this annotation."""
    handlers = Handlers()

    @handlers.consume("q")
    def handle(payload: annotation) -> None: ...

    handle.__annotations__["payload"] = annotation
    (handler,) = compile_handlers(handlers)
    return sample_of(handler.payload, handler.decode)


@pytest.mark.parametrize(
    ("annotation", "body", "content_type"),
    [
        (bytes, b"text", "application/octet-stream"),
        (str, b"text", "text/plain"),
        (dict, b'{"key":"text"}', "application/json"),
        (dict[str, Any], b'{"key":"text"}', "application/json"),
        (list, b'["text"]', "application/json"),
        (Any, b'{"key":"text"}', "application/json"),
        (Delivery, b'{"key":"text"}', "application/json"),
        (dict[str, int], b'{"key":1}', "application/json"),
        (list[Line], b'[{"sku":"text","quantity":2}]', "application/json"),
        (Line | None, b'{"sku":"text","quantity":2}', "application/json"),
        (Circle | Square, b'{"type":"circle","lineWidth":1}', "application/json"),
        (Row, b'["row",1]', "application/json"),
        (Address, b'{"city":"text"}', "application/json"),
        (Pet, b'{"kind":"cat"}', "application/json"),
    ],
)
def test_sample_is_what_the_annotation_says(annotation: Any, body: bytes, content_type: str) -> None:
    assert sample(annotation) == Sample(body, content_type)


def test_fields_of_a_dataclass_have_values_of_their_types() -> None:
    order = msgspec.json.decode(sample(Order).body, type=Order)
    assert order == Order(
        id=1,
        total=Decimal("1.5"),
        placed_at=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        lines=[Line("text")],
        colour=Colour.RED,
        key=order.key,
        note="text",
    )


def test_type_that_contains_itself_ends() -> None:
    assert sample(Tree).body == b'{"name":"text","parent":null,"children":[]}'


@pytest.mark.parametrize("annotation", [Everything, Customer, list[Customer], dict[str, Customer]])
def test_sample_is_valid_under_all_constraints(annotation: Any) -> None:
    assert sample(annotation).body


@dataclass
class Coded:
    line: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]


@dataclass
class Outer:
    coded: Coded
    unneeded: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = ""


class Checked(pydantic.BaseModel):
    total: int

    @pydantic.field_validator("total")
    @classmethod
    def is_large(cls, value: int) -> int:
        if value < 1000:
            raise ValueError("too small to be true")
        return value


class Patterned(pydantic.BaseModel):
    codes: list[Annotated[str, pydantic.Field(pattern="^[A-Z]{3}$")]] = pydantic.Field(min_length=1)


class Endless(pydantic.BaseModel):
    again: Endless


class Failing(pydantic.BaseModel):
    total: int

    @pydantic.field_validator("total")
    @classmethod
    def fail(cls, value: int) -> int:
        raise LookupError("a bug of the application")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Outer, "there is no sample of Outer: coded.line: no text is made up that matches the pattern '^[A-Z]{3}$'"),
        (Patterned, "there is no sample of Patterned: codes: no text is made up that matches the pattern"),
        (Checked, "there is no sample of Checked: the body does not fit Checked: Value error, too small to be true"),
        (Endless, "there is no sample of Endless: again: Endless contains itself"),
        (Failing, "there is no sample of Failing: LookupError: a bug of the application"),
    ],
)
def test_sample_that_cannot_be_made_is_refused_with_its_name(annotation: Any, text: str) -> None:
    with pytest.raises(NoSample) as refused:
        sample(annotation)
    assert text in str(refused.value)


def test_batch_has_the_sample_of_one_payload() -> None:
    handlers = Handlers()

    @handlers.consume_batch("q")
    async def handle(payloads: list[Line]) -> None: ...

    (handler,) = compile_handlers(handlers)
    assert sample_of(handler.payload, handler.decode).body == b'{"sku":"text","quantity":2}'


def test_sample_that_the_codec_of_the_application_cannot_read_is_refused() -> None:
    handlers = Handlers()
    decode: Callable[[bytes], Any] = lambda body: int(body)  # noqa: E731
    handlers.codec("application/json", decode)

    @handlers.consume("q")
    async def handle(payload: dict) -> None: ...

    (handler,) = compile_handlers(handlers)
    with pytest.raises(NoSample, match="the body is not application/json"):
        sample_of(handler.payload, handler.decode)
