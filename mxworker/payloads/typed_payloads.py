"""Payloads checked by a library: msgspec reads dataclasses, TypedDicts, structs and more, pydantic reads its models.

Neither library is imported before an annotation needs it: msgspec takes 20 ms, pydantic 50 ms. Annotations are checked
at start; each delivery costs one call into the library.

A library's error about a body is shown without the values of the body, where the library keeps them apart, and always
shortened. A ValueError from a `__post_init__` or a validator means a bad body to both libraries. Most other exceptions
pass through, because then the application has failed. pydantic accepts NaN and Infinity as numbers unless the model
says `allow_inf_nan=False`; JSON has neither, and all other forms refuse them.

A number arrives exactly as it was sent, or the body is refused. msgspec does that itself. pydantic makes a double of
each number with a fraction or an exponent, so that a Decimal would lose digits, an int could change, and a number that
is too large would become infinite; see `_exactly`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mxworker.errors import AppLoadError, DecodeError
from mxworker.payloads.annotations import needs_pydantic, shown
from mxworker.payloads.payload_form import PayloadForm, bounded

if TYPE_CHECKING:
    import msgspec
    import pydantic

TAKEN = (
    "bytes, str, dict, list, Any, mxworker.Delivery, a dataclass, TypedDict or msgspec.Struct, a pydantic model, "
    "or a container of those"
)
_MOST_ERRORS_NAMED = 3
_MOST_ERRORS_LISTED = 1000
"""pydantic lists all errors or none. A million errors, from a body of 2 MB, would take seconds and a gigabyte."""
_TOO_DEEP = "it is nested too deeply"
# msgspec quotes values of the body after these texts; pydantic quotes them in this one type of error.
_MSGSPEC_QUOTES_AFTER = ("Invalid enum value", "Invalid value")
_PYDANTIC_QUOTES_IN = "union_tag_invalid"

# A double may not hold a number with 16 digits, counting the dot, or with an exponent of three digits. For the search,
# all digits and dots are replaced by 0.
_DIGITS_ALIKE = bytes(
    ord("0") if chr(octet) in "0123456789." else ord("e") if octet == ord("E") else octet for octet in range(256)
)
_SIGNS = (b"0" * 16, b"0e000", b"0e+000", b"0e-000")
_BEFORE_A_NUMBER = b" \t\r\n:,["
_LONGEST_LOOKED_BACK = 100
_NO_WHOLE_NUMBER = re.compile(rb"-?[0-9]+[.eE]")


def typed_form(annotation: Any) -> PayloadForm:
    """Return the form that `annotation` asks for.

    Raises AppLoadError when no library can read it, or the library for it is not installed. The text of the error
    continues a sentence that begins with "the handler".
    """
    if needs_pydantic(annotation):
        return _of_pydantic(annotation)
    try:
        import msgspec.inspect
    except ImportError:
        raise _needs(annotation, "msgspec", "typed") from None
    try:
        decoder = msgspec.json.Decoder(annotation)
        strangers = tuple(_unknown_classes(msgspec.inspect.type_info(annotation)))
    except Exception as error:  # the annotation is the user's code, and may raise anything when it is resolved
        raise unusable(annotation, f"msgspec: {error}") from error
    if any(map(needs_pydantic, strangers)):
        return _of_pydantic(annotation)
    if strangers:
        raise unusable(annotation, f"{shown(strangers[0])} is no type that msgspec knows")
    return _of_msgspec(annotation, decoder)


def unusable(annotation: Any, why: str) -> AppLoadError:
    """Return the error for an annotation that cannot be decoded."""
    return AppLoadError(
        f"takes its payload as {shown(annotation)}, which nothing can decode ({bounded(why)}); use {TAKEN}"
    )


def _needs(annotation: Any, library: str, extra: str) -> AppLoadError:
    return AppLoadError(
        f"takes its payload as {shown(annotation)}, which needs {library}: pip install 'mxworker[{extra}]'"
    )


# ---- msgspec


def _of_msgspec(annotation: Any, decoder: msgspec.json.Decoder[Any]) -> PayloadForm:
    import msgspec

    name = shown(annotation)

    def from_value(value: Any) -> Any:
        return msgspec.convert(value, annotation, str_keys=True)  # many formats have only string keys

    def explain(error: Exception) -> str:
        match error:
            case msgspec.ValidationError():
                return f"the body does not fit {name}: {bounded(_without_value(str(error)))}"
            case RecursionError():
                return f"the body does not fit {name}: {_TOO_DEEP}"
            case UnicodeDecodeError():
                return f"the body is not JSON: text in it is not UTF-8: {error.reason}"
        return f"the body is not JSON: {bounded(str(error))}"

    refusals = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
    return PayloadForm(decoder.decode, from_value, refusals, explain, "msgspec")


def _without_value(text: str) -> str:
    """Return the error text of msgspec without the value from the body: what is wrong, and where."""
    for opening in _MSGSPEC_QUOTES_AFTER:
        if text.startswith(opening):
            _, separator, place = text.rpartition(" - at `$")
            return f"{opening}{separator}{place}" if separator and text.endswith("`") else opening
    return text


def _unknown_classes(info: Any) -> Iterator[type]:
    """Yield the classes that msgspec accepts in an annotation, but cannot make from any body."""
    import msgspec.inspect

    seen: set[int] = set()
    rest = [info]
    while rest:
        part = rest.pop()
        if id(part) in seen:  # a structure may be recursive
            continue
        seen.add(id(part))
        if isinstance(part, msgspec.inspect.CustomType):
            yield part.cls
        elif isinstance(part, tuple):
            rest.extend(part)
        elif isinstance(part, msgspec.inspect.Field):
            rest.append(part.type)
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Metadata):
            rest.extend(getattr(part, name) for name in part.__struct_fields__)


# ---- pydantic


def _of_pydantic(annotation: Any) -> PayloadForm:
    try:
        import pydantic
    except ImportError:  # a type may support pydantic while pydantic is not installed
        raise _needs(annotation, "pydantic", "pydantic") from None
    try:
        from_json, from_value = _validators(annotation)
    except Exception as error:  # a model's annotations are the user's code, too
        raise unusable(annotation, f"pydantic: {error}") from error
    name = shown(annotation)

    def explain(error: Exception) -> str:
        reason = _reason(error) if isinstance(error, pydantic.ValidationError) else _TOO_DEEP
        return f"the body does not fit {name}: {reason}"

    return PayloadForm(from_json, from_value, (pydantic.ValidationError, RecursionError), explain, "pydantic")


def _validators(annotation: Any) -> tuple[Callable[[bytes], Any], Callable[[Any], Any]]:
    import pydantic

    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        annotation.model_rebuild()  # raises now, not at the first delivery, for a name that cannot be resolved
        return _exactly(annotation.model_validate_json, annotation.model_validate), annotation.model_validate
    adapter = pydantic.TypeAdapter(annotation)
    return _exactly(adapter.validate_json, adapter.validate_python), adapter.validate_python


def _exactly(from_json: Callable[[bytes], Any], from_value: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    """Return `from_json`, but parse a body with a number that is no double here, and check it with `from_value`.

    pydantic gets such a number as a Decimal. It makes an exact Decimal or int of it, or refuses it, and rounds it to a
    float where the annotation says float. A strict model may refuse such a body, because it gets Python values.
    """

    def read(body: bytes) -> Any:
        if _may_exceed_a_double(body):
            found: list[Decimal] = []
            value = _with_exact_numbers(body, found)
            if found:
                return from_value(value)
        return from_json(body)

    return read


def _may_exceed_a_double(body: bytes) -> bool:
    """Tell whether `body` may have a number with a fraction or an exponent that a double does not hold exactly."""
    alike = body.translate(_DIGITS_ALIKE)
    for sign in _SIGNS:
        at = alike.find(sign)
        while at != -1:
            before = alike[max(0, at - _LONGEST_LOOKED_BACK) : at + 1]
            rest = before.rstrip(b"0-")
            is_number = not rest or rest[-1] in _BEFORE_A_NUMBER  # else it is part of a text
            if is_number and _NO_WHOLE_NUMBER.match(body, at + 1 - len(before) + len(rest)):
                return True
            at = alike.find(sign, at + len(sign))
    return False


def _with_exact_numbers(body: bytes, found: list[Decimal]) -> Any:
    """Parse a JSON body, and add each number that is no double to `found`. Return None for a body that is no JSON."""

    def number(text: str) -> float | Decimal:
        double, exact = float(text), Decimal(text)
        if math.isinf(double) or (not double and exact):
            raise DecodeError("the body has a number beyond the range of a double, which is from 5e-324 to 1.8e308")
        if exact == Decimal(repr(double)):
            return double
        found.append(exact)
        return exact

    import pydantic_core

    try:
        pydantic_core.from_json(body)  # stricter than the standard library
        return json.loads(body.decode(), parse_float=number)
    except ValueError:  # pydantic will say what is wrong with the body
        found.clear()
        return None


def _reason(error: pydantic.ValidationError) -> str:
    count = error.error_count()
    if count > _MOST_ERRORS_LISTED:
        return f"it has {count} errors, too many to name any"
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    reasons = [f"{bounded(_message(one))}{_place(one['loc'])}" for one in errors[:_MOST_ERRORS_NAMED]]
    if count > _MOST_ERRORS_NAMED:
        reasons.append(f"{count - _MOST_ERRORS_NAMED} more")
    return "; ".join(reasons)


def _message(error: Any) -> str:
    return "Input tag is none of the expected ones" if error["type"] == _PYDANTIC_QUOTES_IN else error["msg"]


def _place(location: tuple[int | str, ...]) -> str:
    """Return the place of an error in the body, in the notation of msgspec."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return f" - at `${bounded(path)}`" if path else ""
