"""AMQP field tables: message headers as bytes, and as a dict.

    decode(encode(headers)) == headers

The type octets are those that RabbitMQ reads (https://www.rabbitmq.com/amqp-0-9-1-errata.html#section_3, and its
rabbit_binary_parser). Reading is bounded, because anybody may have written the table. Writing refuses a value that
would be read back as another one, that could not be read here, or that makes RabbitMQ close the connection.

| Python                                   | octet                  | also read from |
|------------------------------------------|------------------------|----------------|
| None                                     | V                      |                |
| bool                                     | t                      |                |
| int                                      | I, or l above 32 bits  | b B s u i L    |
| float                                    | d                      | f              |
| Decimal                                  | D                      |                |
| str                                      | S                      |                |
| bytes                                    | x                      |                |
| aware datetime in whole seconds          | T                      |                |
| Timestamp                                | T                      |                |
| list, tuple                              | A                      |                |
| dict                                     | F                      |                |

Names and strings are UTF-8; other bytes survive as surrogates (PEP 383). Of two entries with one name the last counts,
except in `integer`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NoReturn

from mxworker.errors import DecodeError, EncodeError

MAX_DEPTH = 32
"""The most levels of nested tables and arrays, with the outermost. Python's recursion limit is far higher."""
MAX_ENTRIES = 4096
"""The most values in a table with its nested tables and arrays. Reading them takes a few milliseconds."""
SHORT_STRING_BYTES = 255
MAX_SPLIT = MAX_ENTRIES + 64
"""The most entries of a table that is split, without nested ones. Splitting them takes a millisecond or two.

The number is `MAX_ENTRIES` plus the entries that copies and the broker may add.
"""

_STEPS_SHOWN = 6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = (datetime.max.replace(tzinfo=UTC, microsecond=0) - _EPOCH) // timedelta(seconds=1)
# The scale is an octet. RabbitMQ reads the unscaled number as unsigned, other clients as signed: both agree up to here.
_MAX_SCALE = 255
_MAX_UNSCALED = 2**31 - 1

_NUMBERS: Mapping[int, struct.Struct] = MappingProxyType(
    {
        ord(octet): struct.Struct(layout)
        for octet, layout in {
            "b": ">b",
            "B": ">B",
            "s": ">h",
            "u": ">H",
            "I": ">i",
            "i": ">I",
            "l": ">q",
            "L": ">q",
            "f": ">f",
            "d": ">d",
        }.items()
    }
)
_FIXED_SIZES: Mapping[int, int] = MappingProxyType(
    {octet: number.size for octet, number in _NUMBERS.items()} | {ord("t"): 1, ord("V"): 0, ord("T"): 8, ord("D"): 5}
)
_INTEGERS = frozenset(b"bBsuIilL")
_SIZED = frozenset(b"SxFA")
_first = itemgetter(0)
_size = struct.Struct(">I")
_read_size = _size.unpack_from
_timestamp = struct.Struct(">Q")
_decimal = struct.Struct(">BI")
_tagged_int = struct.Struct(">ci").pack
_tagged_long = struct.Struct(">cq").pack
_tagged_double = struct.Struct(">cd").pack
_tagged_timestamp = struct.Struct(">cQ").pack
_tagged_decimal = struct.Struct(">cBI").pack
_tagged_size = struct.Struct(">cI").pack


class Timestamp(int):
    """A number in a timestamp field that no datetime can hold: milliseconds or finer, where the standard has seconds.

    A number that a datetime can hold is read back as a datetime.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Timestamp({int(self)})"


def decode(raw: bytes) -> dict[str, Any]:
    """Return the table in `raw`, which does not include the size of the table.

    Takes time proportional to the size. Raises DecodeError, which never shows a name or a value, when the table is cut
    short, has a type octet that RabbitMQ does not know, more than 4096 entries, or more than 32 levels.
    """
    return _Reader(raw).table(len(raw), 1)


def encode(table: Mapping[str, Any]) -> bytes:
    """Return `table` as on the wire, without its size.

    Raises EncodeError, which names the key but no value, for a table that could not be sent and read back; see the
    module.
    """
    writer = _Writer()
    writer.table(table)
    return bytes(writer.out)


def entries(raw: bytes) -> list[tuple[bytes, bytes]]:
    """Return the entries of the table in `raw`, in order: each a name and a value as on the wire with its type first.

    `entry` of each of them, joined, is `raw` again. `encode(decode(raw))` is not when a value has a type that we only
    read. Nested tables and arrays are not read, so their depth and number have no bound. Raises DecodeError, which
    never shows a name or a value, when the table is cut short, has a type octet that RabbitMQ does not know, or more
    than `MAX_SPLIT` entries.
    """
    return [(raw[at + 1 : value_at], raw[value_at:end]) for at, value_at, end in _spans(raw)]


def in_order_of_names(raw: bytes, but: Set[bytes]) -> bytes:
    """Return the table in `raw` with its entries sorted by name, without those whose names are in `but`.

    Entries with one name keep their order. Raises DecodeError as `entries` does.
    """
    spans = list(_spans(raw))
    names = [raw[at + 1 : value_at] for at, value_at, _ in spans]
    if but.isdisjoint(names) and names == sorted(names):
        return raw  # as RabbitMQ 4 sends all, and many clients
    kept = [(name, raw[at:end]) for name, (at, _, end) in zip(names, spans, strict=True) if name not in but]
    kept.sort(key=_first)
    return b"".join([whole for _, whole in kept])


def integer(raw: bytes, name: bytes) -> int | None:
    """Return the value of the first entry with this name in the table in `raw`; None when it is missing or no integer.

    When there are two, RabbitMQ writes its own count into the first. The table is read only up to the last place where
    the name could be, and up to there a broken table raises DecodeError as in `entries`.
    """
    key = bytes((len(name),)) + name
    last = raw.rfind(key)
    for at, value_at, _ in _spans(raw):
        if at > last:
            break
        if raw.startswith(key, at):
            octet = raw[value_at]
            return int(_NUMBERS[octet].unpack_from(raw, value_at + 1)[0]) if octet in _INTEGERS else None
    return None


def _spans(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the offsets of each entry of a table: its start, the start of its value, and its end."""
    at = 0
    count = 0
    whole = len(raw)
    try:
        while at < whole:
            count += 1
            if count > MAX_SPLIT:
                raise DecodeError(f"the headers have more than {MAX_SPLIT} entries")
            value_at = at + 1 + raw[at]
            octet = raw[value_at]
            if octet in _SIZED:
                end: int = value_at + 5 + _read_size(raw, value_at + 1)[0]
            elif octet in _FIXED_SIZES:
                end = value_at + 1 + _FIXED_SIZES[octet]
            else:
                _refuse_type(octet, value_at)
            if end > whole:
                _refuse_cut_short(at)
            yield at, value_at, end
            at = end
    except (IndexError, struct.error):
        _refuse_cut_short(at)


def entry(name: bytes, value: bytes) -> bytes:
    """Return an entry as on the wire. The name has at most 255 bytes; `value` begins with its type."""
    return bytes((len(name),)) + name + value


def _refuse_type(octet: int, at: int) -> NoReturn:
    raise DecodeError(f"the headers have a value of the unknown type 0x{octet:02x} at byte {at}")


def _refuse_cut_short(at: int) -> NoReturn:
    raise DecodeError(f"the headers are cut short: a value at byte {at} goes past the end of its table")


class _Reader:
    """Reads the bytes once, in order. `end` is the end of the innermost table or array."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0
        self._entries = 0

    def table(self, end: int, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while self._at < end:
            name = self._take(self._take(1, end)[0], end).decode("utf-8", "surrogateescape")
            values[name] = self._value(end, depth)
        return values

    def _array(self, end: int, depth: int) -> list[Any]:
        values = []
        while self._at < end:
            values.append(self._value(end, depth))
        return values

    def _value(self, end: int, depth: int) -> Any:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise DecodeError(f"the headers have more than {MAX_ENTRIES} entries")
        octet = self._take(1, end)[0]
        number = _NUMBERS.get(octet)
        if number is not None:
            return number.unpack(self._take(number.size, end))[0]
        match chr(octet):
            case "S":
                return self._take(self._size(end), end).decode("utf-8", "surrogateescape")
            case "t":
                return self._take(1, end) != b"\x00"
            case "V":
                return None
            case "x":
                return self._take(self._size(end), end)
            case "T":
                return _instant(_timestamp.unpack(self._take(8, end))[0])
            case "D":
                scale, unscaled = _decimal.unpack(self._take(5, end))
                return Decimal(f"{unscaled}E-{scale}")
            case "F":
                return self.table(self._inner_end(end, depth), depth + 1)
            case "A":
                return self._array(self._inner_end(end, depth), depth + 1)
        _refuse_type(octet, self._at - 1)

    def _inner_end(self, end: int, depth: int) -> int:
        if depth == MAX_DEPTH:
            raise DecodeError(f"the headers have more than {MAX_DEPTH} tables and arrays inside each other")
        inner_end = self._size(end) + self._at
        if inner_end > end:
            _refuse_cut_short(self._at)
        return inner_end

    def _size(self, end: int) -> int:
        return int(_size.unpack(self._take(4, end))[0])

    def _take(self, size: int, end: int) -> bytes:
        start = self._at
        self._at = start + size
        if self._at > end:
            _refuse_cut_short(start)
        return self._raw[start : self._at]


def _instant(seconds: int) -> datetime | Timestamp:
    return _EPOCH + timedelta(seconds=seconds) if seconds <= _LAST_SECOND else Timestamp(seconds)


class _Writer:
    """Appends to `out`. `_path` leads to the value being written, for the error that refuses it."""

    def __init__(self) -> None:
        self.out = bytearray()
        self._path: list[str | int] = []
        self._entries = 0

    def table(self, table: Mapping[Any, Any]) -> None:
        for name, value in table.items():
            self._path.append(name)
            encoded = self._text(name) if isinstance(name, str) else self._refuse("a name is a str")
            if len(encoded) > SHORT_STRING_BYTES:
                self._refuse(f"the name has {len(encoded)} bytes, the most are {SHORT_STRING_BYTES}")
            self.out.append(len(encoded))
            self.out += encoded
            self._value(value)
            self._path.pop()

    def _array(self, values: Sequence[Any]) -> None:
        for position, value in enumerate(values):
            self._path.append(position)
            self._value(value)
            self._path.pop()

    def _value(self, value: Any) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            self._refuse(f"more than {MAX_ENTRIES} entries in all")
        match value:
            case str():
                self._sized(b"S", self._text(value))
            case None:
                self.out += b"V"
            case bool():
                self.out += b"t\x01" if value else b"t\x00"
            case Timestamp():
                self._timestamp(value)
            case int():
                self._int(value)
            case float():
                self._float(value)
            case bytes() | bytearray() | memoryview():
                self._sized(b"x", bytes(value))
            case datetime():
                self._timestamp(self._seconds(value))
            case Decimal():
                self._decimal(value)
            case list() | tuple() | Mapping():
                self._inside(value)
            case _:
                self._refuse(f"a {type(value).__name__} has no form in AMQP headers")

    def _inside(self, value: Sequence[Any] | Mapping[Any, Any]) -> None:
        """Write a table or an array, and fill in its size afterwards."""
        if len(self._path) == MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} tables and arrays inside each other")
        start = len(self.out)
        if isinstance(value, Mapping):
            self.out += b"F\x00\x00\x00\x00"
            self.table(value)
        else:
            self.out += b"A\x00\x00\x00\x00"
            self._array(value)
        _size.pack_into(self.out, start + 1, len(self.out) - start - 5)

    def _sized(self, octet: bytes, content: bytes) -> None:
        self.out += _tagged_size(octet, len(content))
        self.out += content

    def _text(self, text: str) -> bytes:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            self._refuse(f"the text is not Unicode: {error.reason} at character {error.start}")

    def _int(self, number: int) -> None:
        if -(2**31) <= number < 2**31:
            self.out += _tagged_int(b"I", number)
        elif -(2**63) <= number < 2**63:
            self.out += _tagged_long(b"l", number)
        else:
            self._refuse("the number has more than 64 bits")

    def _float(self, number: float) -> None:
        if not math.isfinite(number):  # RabbitMQ's parser has no clause for such a number, and closes the connection
            self._refuse("NaN and infinity have no form that RabbitMQ reads")
        self.out += _tagged_double(b"d", number)

    def _seconds(self, moment: datetime) -> int:
        if moment.utcoffset() is None:
            self._refuse("the datetime has no time zone")
        since = moment - _EPOCH
        if since.microseconds:
            self._refuse("the datetime has a fraction of a second, a timestamp field has none")
        return since // timedelta(seconds=1)

    def _timestamp(self, seconds: int) -> None:
        if not 0 <= seconds < 2**64:
            self._refuse("a timestamp field begins in 1970, and has 64 bits")
        self.out += _tagged_timestamp(b"T", seconds)

    def _decimal(self, number: Decimal) -> None:
        if not number.is_finite() or number.is_signed():
            self._refuse("a decimal field is finite and not negative")
        exponent = int(number.as_tuple().exponent)
        scale = max(0, -exponent)
        # The comparison comes first: the number itself may have a million digits.
        if scale > _MAX_SCALE or number.adjusted() + scale > 10 or (unscaled := _unscaled(number)) > _MAX_UNSCALED:
            self._refuse(f"a decimal field holds at most {_MAX_UNSCALED} with at most {_MAX_SCALE} decimal places")
        self.out += _tagged_decimal(b"D", scale, unscaled)

    def _refuse(self, why: str) -> NoReturn:
        steps = "".join(f"[{step!r:.80}]" for step in self._path[:_STEPS_SHOWN])
        more = "..." if len(self._path) > _STEPS_SHOWN else ""
        raise EncodeError(f"headers{steps}{more}: {why}")


def _unscaled(number: Decimal) -> int:
    """Return `number` without its decimal point."""
    _, digits, exponent = number.as_tuple()
    return int("".join(map(str, digits)) + "0" * int(exponent))
