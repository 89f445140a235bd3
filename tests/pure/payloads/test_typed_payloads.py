"""What msgspec and pydantic read, and how little of a hostile body is seen in what they say of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypedDict, TypeVar, Union
from uuid import UUID

import annotated_types
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from mxworker import Handlers
from mxworker.api.content_codec import ContentCodec
from mxworker.api.decoder import decoder_for
from mxworker.api.handlers import compile_handlers
from mxworker.errors import AppLoadError, DecodeError
from mxworker.payloads.typed_payloads import TAKEN, typed_form
from tests.pure.api.test_delivery import delivery
from tests.rabbit.raw import raw_properties

Item = TypeVar("Item")


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    sku: str
    quantity: int


@dataclass
class Order:
    id: int
    lines: list[Line] = field(default_factory=list)
    note: str | None = None


class Address(TypedDict):
    city: str


class Struct(msgspec.Struct, forbid_unknown_fields=True):
    id: int


class Node(msgspec.Struct):
    next: Optional[Node] = None  # noqa: UP045


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: int


class ModelLine(pydantic.BaseModel):
    sku: str
    quantity: int


class Model(pydantic.BaseModel):
    id: int
    lines: list[ModelLine] = []


class ModelNode(pydantic.BaseModel):
    next: ModelNode | None = None


class ModelCat(pydantic.BaseModel):
    kind: Literal["cat"]


class ModelDog(pydantic.BaseModel):
    kind: Literal["dog"]


class Page(pydantic.BaseModel, Generic[Item]):
    items: list[Item]


class Owner(pydantic.BaseModel, extra="forbid"):
    pet: Annotated[ModelCat | ModelDog, pydantic.Field(discriminator="kind")]


@pydantic.dataclasses.dataclass
class Checked:
    id: Annotated[int, pydantic.Field(gt=0)]


@dataclass
class Mixed:
    model: ModelLine


class Unknown:
    pass


@dataclass
class WithUnknown:
    inner: list[Unknown]


def taken(annotation: object, body: bytes) -> object:
    return decoder_for(annotation)(delivery(), body)


def refusal(annotation: object, body: bytes) -> str:
    """Return the text of the DecodeError that `body` ends in."""
    with pytest.raises(DecodeError) as caught:
        taken(annotation, body)
    return str(caught.value)


def fault(annotation: object) -> str:
    with pytest.raises(AppLoadError) as caught:
        typed_form(annotation)
    return str(caught.value)


# ---- what is taken


@pytest.mark.parametrize(
    ("annotation", "body", "expected"),
    [
        (Order, b'{"id": 1, "lines": [{"sku": "a", "quantity": 2}]}', Order(1, [Line("a", 2)])),
        (Address, b'{"city": "Oslo", "more": 1}', {"city": "Oslo"}),
        (Struct, b'{"id": 1}', Struct(1)),
        (Node, b'{"next": {}}', Node(Node())),
        (list[Order], b'[{"id": 1}]', [Order(1)]),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (dict[int, int], b'{"1": 1}', {1: 1}),
        (Sequence[int], b"[1]", [1]),
        (tuple[int, str], b'[1, "a"]', (1, "a")),
        (Order | None, b"null", None),
        (Union[Cat, Dog], b'{"type": "Dog", "tricks": 3}', Dog(3)),  # noqa: UP007
        (Literal["a", "b"], b'"b"', "b"),
        (Colour, b'"red"', Colour.RED),
        (NewType("OrderId", int), b"7", 7),
        (Annotated[int, msgspec.Meta(ge=1)], b"1", 1),
        (datetime, b'"2024-01-02T03:04:05Z"', datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (Decimal, b'"1.10"', Decimal("1.10")),
        (UUID, b'"12345678-1234-5678-1234-567812345678"', UUID("12345678-1234-5678-1234-567812345678")),
        (int, b"1", 1),
        (TypeAliasType("Orders", list[Order]), b'[{"id": 1}]', [Order(1)]),
    ],
    ids=str,
)
def test_what_msgspec_reads(annotation: object, body: bytes, expected: object) -> None:
    assert taken(annotation, body) == expected


@pytest.mark.parametrize(
    ("annotation", "body", "expected"),
    [
        (
            Model,
            b'{"id": 1, "lines": [{"sku": "a", "quantity": 2}]}',
            Model(id=1, lines=[ModelLine(sku="a", quantity=2)]),
        ),
        (list[Model], b'[{"id": 1}]', [Model(id=1)]),
        (dict[str, Model], b'{"a": {"id": 1}}', {"a": Model(id=1)}),
        (Model | None, b"null", None),
        (Page[Model], b'{"items": [{"id": 1}]}', Page[Model](items=[Model(id=1)])),
        (Checked, b'{"id": 1}', Checked(id=1)),
        (Mixed, b'{"model": {"sku": "a", "quantity": 1}}', Mixed(ModelLine(sku="a", quantity=1))),
        (Annotated[int, annotated_types.Gt(3)], b"4", 4),
        (pydantic.AnyUrl, b'"https://example.org/"', pydantic.AnyUrl("https://example.org/")),
        (TypeAliasType("Models", list[Model]), b'[{"id": 1}]', [Model(id=1)]),
    ],
    ids=str,
)
def test_what_pydantic_reads(annotation: object, body: bytes, expected: object) -> None:
    assert taken(annotation, body) == expected


@pytest.mark.parametrize(
    ("annotation", "body"),
    [
        (Checked, b'{"id": 0}'),
        (Annotated[int, annotated_types.Gt(3)], b"3"),
        (list[Annotated[int, annotated_types.Gt(3)]], b"[3]"),
        (Annotated[int, msgspec.Meta(gt=3)], b"3"),
    ],
    ids=str,
)
def test_constraint_is_checked_by_the_library_that_it_is_of(annotation: object, body: bytes) -> None:
    assert refusal(annotation, body).startswith("the body does not fit ")


def test_model_s_own_way_to_read_json_is_used() -> None:
    class Own(Model):
        @classmethod
        def model_validate_json(cls, *arguments: Any, **named: Any) -> Own:
            return cls(id=7)

    assert taken(Own, b"") == Own(id=7)


def test_msgspec_s_decoder_is_called_with_nothing_between() -> None:
    from_json = typed_form(Order).from_json
    assert isinstance(getattr(from_json, "__self__", None), msgspec.json.Decoder)


@pytest.mark.parametrize(
    ("annotation", "expected"), [(Order, Order(1)), (Model, Model(id=1)), (Model | None, Model(id=1))], ids=str
)
def test_value_that_a_codec_read_is_checked_as_json_is(annotation: object, expected: object) -> None:
    decode = decoder_for(
        annotation, {"application/x": ContentCodec("application/x", lambda body: {"id": body.decode()})}
    )
    arrived = delivery(raw_properties(content_type=b"application/x"))
    with pytest.raises(DecodeError, match=r"the body does not fit .* - at `\$.id`"):
        decode(arrived, b"S3cr3t")
    decode = decoder_for(annotation, {"application/x": ContentCodec("application/x", lambda body: {"id": int(body)})})
    assert decode(arrived, b"1") == expected


INTEGERS = st.integers(-(2**63), 2**63 - 1)  # msgpack has no larger ones
LINES = st.builds(Line, st.text(), INTEGERS)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: INTEGERS,
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    bool: st.booleans(),
    bytes: st.binary(),
    Colour: st.sampled_from(Colour),
    datetime: st.datetimes(timezones=st.just(UTC)),
    UUID: st.uuids(),
    int | None: st.none() | INTEGERS,
    list[str]: st.lists(st.text()),
    dict[str, int]: st.dictionaries(st.text(), INTEGERS),
    dict[int, str]: st.dictionaries(INTEGERS, st.text()),
    tuple[int, str]: st.tuples(INTEGERS, st.text()),
    Line: LINES,
    list[Line]: st.lists(LINES, max_size=3),
}


@given(data=st.data(), types=st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=6))
def test_generated_dataclass_comes_back_as_msgspec_wrote_it(data: st.DataObject, types: list[Any]) -> None:
    generated = make_dataclass("Generated", [(f"field_{number}", kind) for number, kind in enumerate(types)])
    value = generated(*(data.draw(VALUES[kind]) for kind in types))
    decode = decoder_for(generated, {"application/x": ContentCodec("application/x", msgspec.msgpack.decode)})
    assert decode(delivery(), msgspec.json.encode(value)) == value
    arrived = delivery(raw_properties(content_type=b"application/x"))
    assert decode(arrived, msgspec.msgpack.encode(value)) == value


# ---- what is not, at the start


@pytest.mark.parametrize(
    "annotation",
    [
        Exception,
        Callable[[int], int],
        type,
        Unknown,
        list[Unknown],
        WithUnknown,
        bytes | str,
        Line | Order,
        Literal[[1]],
        "dict",
        [],
        ...,
    ],
    ids=str,
)
def test_annotation_that_nothing_can_decode(annotation: object) -> None:
    text = fault(annotation)
    assert text.startswith("takes its payload as ")
    assert ", which nothing can decode (" in text
    assert text.endswith(f"); use {TAKEN}")


def test_class_that_a_library_would_only_miss_at_a_delivery_is_named() -> None:
    assert "(Unknown is no type that msgspec knows)" in fault(WithUnknown)


def test_reason_of_the_library_is_told() -> None:
    assert "Type unions may not contain more than one dataclass" in fault(Line | Order)


def test_model_whose_annotations_cannot_be_resolved() -> None:
    class Broken(pydantic.BaseModel):
        field: Nowhere  # type: ignore[name-defined]  # noqa: F821

    assert "Broken, which nothing can decode (pydantic: " in fault(Broken)
    assert "'Nowhere'" in fault(Broken)


def test_dataclass_whose_annotations_cannot_be_resolved() -> None:
    @dataclass
    class Broken:
        field: Nowhere  # type: ignore[name-defined]  # noqa: F821

    assert "(msgspec: name 'Nowhere' is not defined)" in fault(Broken)


def test_model_in_a_container_that_pydantic_does_not_know() -> None:
    assert ", which nothing can decode (pydantic: " in fault(dict[Unknown, Model])


TYPE_STATEMENTS = """
type Body = bytes
type Missing = list[Nowhere]
type Missings = list[Missing]
type Json = dict[str, Json] | int
type Tree = dict[str, Tree] | Model
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with Python 3.12")
def test_type_statement_is_another_name_and_may_name_itself() -> None:
    names: dict[str, Any] = {"Model": Model}
    exec(TYPE_STATEMENTS, names)
    assert taken(names["Body"], b"\xff") == b"\xff"
    assert taken(names["Tree"], b'{"leaf": {"id": 1}}') == {"leaf": Model(id=1)}
    for annotation in (names["Missing"], names["Missings"]):
        assert "(msgspec: name 'Nowhere' is not defined)" in fault(annotation)
    assert "(msgspec: maximum recursion depth exceeded" in fault(names["Json"])  # what it cannot do, as it says


async def take_order(payload: Order) -> None: ...


async def take_address(payload: Address) -> None: ...


async def take_model(payload: Model) -> None: ...


@pytest.mark.parametrize(
    ("function", "missing", "text"),
    [
        (take_order, "msgspec", "takes its payload as Order, which needs msgspec: pip install 'mxworker[typed]'."),
        (take_address, "msgspec", "takes its payload as Address, which needs msgspec: pip install 'mxworker[typed]'."),
        (take_model, "pydantic", "takes its payload as Model, which needs pydantic: pip install 'mxworker[pydantic]'."),
    ],
)
def test_missing_library_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], missing: str, text: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # the import machinery's own way to say that there is none
    handlers = Handlers()
    handlers.consume("orders")(function)
    with pytest.raises(AppLoadError) as caught:
        compile_handlers(handlers)
    line = function.__code__.co_firstlineno
    assert str(caught.value) == f"{__file__}:{line}  handler '{function.__name__}' {text}"


def test_model_needs_no_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    assert taken(list[Model], b'[{"id": 1}]') == [Model(id=1)]


WITHOUT_TYPES = """
import sys
import mxworker, mxworker.cli, mxworker.worker.main
from mxworker import Context, Delivery, Handlers
from mxworker.api.handlers import compile_handlers
from typing import Any
handlers = Handlers()
handlers.codec("application/x", len)
for number, kind in enumerate((bytes, str, dict, dict[str, Any], list, list[Any], Any, object, Delivery)):
    async def take(payload, ctx: Context): ...
    take.__annotations__["payload"] = kind
    handlers.consume(str(number))(take)
compile_handlers(handlers)
print(sorted({"msgspec", "pydantic", "pydantic_core"} & sys.modules.keys()))
"""


def test_no_library_is_imported_before_an_annotation_needs_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TYPES], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- what is not, at a delivery: the text says where and why


@pytest.mark.parametrize(
    ("annotation", "body", "text"),
    [
        (
            Order,
            b'{"id": 1, "lines": [{"sku": "a", "quantity": "S3cr3t"}]}',
            "the body does not fit Order: Expected `int`, got `str` - at `$.lines[0].quantity`",
        ),
        (Order, b"{}", "the body does not fit Order: Object missing required field `id`"),
        (Order, b'{"id": 1', "the body is not JSON: Input data was truncated"),
        (Order, b'{"id": NaN}', "the body is not JSON: JSON is malformed: invalid character (byte 7)"),
        (Colour, b'"S3cr3t"', "the body does not fit Colour: Invalid enum value"),
        (list[Colour], b'["S3cr3t - at `$"]', "the body does not fit list[{}.Colour]: Invalid enum value - at `$[0]`"),
        (Cat | Dog, b'{"type": "S3cr3t"}', "the body does not fit {0}.Cat | {0}.Dog: Invalid value - at `$.type`"),
        (
            Model,
            b'{"id": "S3cr3t", "lines": [{"sku": "a", "quantity": "S3cr3t"}]}',
            "the body does not fit Model: Input should be a valid integer, unable to parse string as an integer - at "
            "`$.id`; Input should be a valid integer, unable to parse string as an integer - at `$.lines[0].quantity`",
        ),
        (Owner, b'{"pet": {"kind": "S3cr3t"}}',
         "the body does not fit Owner: Input tag is none of the expected ones - at `$.pet`"),
        (list[ModelCat], b"[1,1,1,1,1]", "the body does not fit list[{}.ModelCat]: " + "; ".join(
            f"Input should be an object - at `$[{number}]`" for number in range(3)) + "; 2 more"),
        (list[ModelCat], b"[%s1]" % (b"1," * 1000),
         "the body does not fit list[{}.ModelCat]: it has 1001 errors, too many to name any"),
        (Model, b"", "the body does not fit Model: Invalid JSON: EOF while parsing a value at line 1 column 0"),
    ],
)  # fmt: skip
def test_refusal_says_where_and_why_and_not_what_was_there(annotation: object, body: bytes, text: str) -> None:
    assert refusal(annotation, body) == text.format(__name__)


def test_refusal_of_text_that_is_not_utf_8_says_so() -> None:
    text = refusal(Order, b'{"id": 1, "note": "\xff"}')
    assert text in (
        "the body is not JSON: text in it is not UTF-8: invalid start byte",
        "the body is not JSON: Invalid UTF-8 encoded string",  # from msgspec 0.23 on
    )


LARGE = b"S3cr3t" * 1_700_000
DEEP = 100_000


@pytest.mark.parametrize(
    ("annotation", "body"),
    [
        (Node, b'{"next":' * DEEP),
        (Node, b'{"next":' * DEEP + b"null" + b"}" * DEEP),
        (list[Any], b"[" * DEEP),
        (dict[str, Any] | None, b'{"a":' * DEEP),
        (ModelNode, b'{"next":' * DEEP + b"null" + b"}" * DEEP),
        (int, b"9" * 5000),
        (int, b"9" * 10_000_000),
        (int, b"1e999999999"),
        (float, b"1e999"),
        (float, b"-Infinity"),
        (Order, b'{"id": %s}' % (b"9" * 5000)),
        (Model, b'{"id": %s}' % (b"9" * 5000)),
        (Model, b'{"id": NaN}'),
        (Order, b'{"id": "%s"}' % LARGE),
        (Order, b'"%s"' % LARGE),
        (Order, LARGE),
        (Colour, b'"%s"' % LARGE),
        (dict[str, Colour], b'{"%s": "%s"}' % (LARGE, LARGE)),
        (Cat | Dog, b'{"type": "%s"}' % LARGE),
        (Struct, b'{"id": 1, "%s": 1}' % LARGE),
        (datetime, b'"%s"' % LARGE),
        (UUID, b'"%s"' % LARGE),
        (Model, b'{"id": "%s"}' % LARGE),
        (Owner, b'{"pet": {"kind": "%s"}}' % LARGE),
        (Owner, b'{"%s": 1}' % LARGE),
        (dict[str, Model], b'{"%s": 1}' % LARGE),
        (list[Model], b"[%s1]" % (b"1," * 300_000)),
        (Struct, '{"id": 1, "a\\n\\u0000\u202e": 1}'.encode()),
        (Owner, b'{"a\\n\\u0000": 1}'),
        (Order, b"\xef\xbb\xbf{}"),
        (Order, b'{"id": 1} {}'),
        (str | None, b'"\\ud800"'),
        (Order, b"\x00"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
def test_hostile_body_is_refused_in_a_few_words(annotation: object, body: bytes) -> None:
    text = refusal(annotation, body)
    assert text.startswith(("the body does not fit ", "the body is not JSON: "))
    assert len(text) < 1000
    assert text.isprintable()


def test_large_and_odd_bodies_that_fit_are_taken() -> None:
    assert taken(Order, b'{"id": 1, "note": "%s"}' % LARGE) == Order(1, note=LARGE.decode())
    assert taken(int, b"9" * 4000) == int("9" * 4000)
    assert taken(Order, b'{"id": 1, "more": [[[[]]]], "id": 2}') == Order(2)


def test_value_of_a_codec_nested_too_deeply_is_refused() -> None:
    value: Any = None
    for _ in range(DEEP):
        value = {"next": value}
    for annotation in (Node, ModelNode):
        form = typed_form(annotation)
        with pytest.raises(form.refusals) as caught:
            form.from_value(value)
        text = form.explain(caught.value)
        assert text.startswith(f"the body does not fit {annotation.__name__}: ")
        assert len(text) < 500
    while value is not None:  # Python's own way to free it would be as deep
        value = value["next"]


@given(body=st.binary(max_size=100))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(delivery(), body)
        except DecodeError:
            pass


DECODERS = [
    decoder_for(annotation) for annotation in (Order, Address, Struct, Cat | Dog, int, Model, Owner, list[Model])
]


# ---- when the application's own code refuses


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        """Refuse what is not positive, and break on zero."""
        if self.number < 0:
            raise ValueError("a number below zero")
        1 / self.number


def test_value_error_of_a_dataclass_means_a_bad_body() -> None:
    assert refusal(Positive, b'{"number": -1}') == "the body does not fit Positive: a number below zero"


class Quoting(pydantic.BaseModel):
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def refuse(cls, text: str) -> str:
        raise ValueError(text)


def test_value_error_of_a_model_means_a_bad_body_and_is_shown_in_part() -> None:
    assert refusal(Quoting, b'{"text": "too short"}') == (
        "the body does not fit Quoting: Value error, too short - at `$.text`"
    )
    assert len(refusal(Quoting, b'{"text": "%s"}' % LARGE)) < 500


def test_other_error_of_a_dataclass_is_its_own_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        taken(Positive, b'{"number": 0}')
