"""Read content-types, and decode bodies that are text (RFC 9110, 8.3).

Anybody may have written a content-type, so it is read tolerantly, and only the character sets that Python has by
itself are accepted: for an unknown name Python looks for a module, and remembers for ever that there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from encodings.aliases import aliases
from types import MappingProxyType
from typing import NamedTuple

from mxworker.errors import DecodeError
from mxworker.wire.properties import FLAG_CONTENT_TYPE

JSON = "application/json"
TEXT = "text/plain"
BYTES = "application/octet-stream"

PRESENT = FLAG_CONTENT_TYPE >> 8
"""The flag of the content-type in the first octet of the raw properties."""
JSON_ON_WIRE = b"\x10application/json"
"""The usual content-type as a short string. It is the first property, and starts at octet 2 of the raw properties."""
TEXT_ON_WIRE = b"\x0atext/plain"
JSON_ENDS_AT = 2 + len(JSON_ON_WIRE)
TEXT_ENDS_AT = 2 + len(TEXT_ON_WIRE)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some writers, those of .NET among them, put before UTF-8."""

_SHOWN_CHARACTERS = 60
# Encodings of bytes or of text by other bytes, what only Windows has, and UTF-7, in which text can pose as other text.
_NO_CHARSETS = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs", "utf_7"}
)
_WITHOUT_ALIAS = (
    *("cp720", "cp737", "cp856", "cp874", "cp875", "cp1006", "iso8859_1", "koi8_t", "koi8_u", "utf_8_sig"),
    *("mac_arabic", "mac_croatian", "mac_farsi", "mac_romanian"),
)
_CODECS = frozenset({*aliases.values(), *_WITHOUT_ALIAS}) - _NO_CHARSETS
_CHARSETS: Mapping[str, str] = MappingProxyType(
    {alias: codec for alias, codec in aliases.items() if codec in _CODECS}
    | {codec: codec for codec in _CODECS}
    | {"windows_874": "cp874"}
)
"""Python's codec for each name of a character set; a hyphen in a name is read as an underscore."""


class ContentType(NamedTuple):
    """`media_type` is in lower case without parameters, or ''. `charset` is the only parameter that is read."""

    media_type: str
    charset: str | None


NO_CONTENT_TYPE = ContentType("", None)


def content_type_of(raw: bytes) -> ContentType:
    """Return the content-type in raw properties. Never raises: one that cannot be reached counts as missing."""
    if len(raw) < 3 or not raw[0] & PRESENT:
        return NO_CONTENT_TYPE
    end = 3 + raw[2]
    return parse(raw[3:end].decode("utf-8", "surrogateescape")) if end <= len(raw) else NO_CONTENT_TYPE


def parse(content_type: str) -> ContentType:
    """Split `content_type` into media type and charset."""
    if ";" not in content_type:
        return ContentType(content_type.strip().lower(), None)
    media_type, *parameters = content_type.split(";")
    charset = None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip("\"'").lower()
    return ContentType(media_type.strip().lower(), charset)


def is_json(content_type: str) -> bool:
    """Tell whether `content_type`, which may have parameters, names JSON (RFC 6839, 3.1, for the suffix)."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in (JSON, "text/json") or media_type.endswith("+json")


def is_text(media_type: str) -> bool:
    """Tell whether `media_type`, in lower case, names text."""
    return media_type.startswith("text/")


def text(body: bytes, charset: str | None = None) -> str:
    """Decode `body` as text in `charset`, by default UTF-8. Raises DecodeError."""
    name = "utf-8" if charset is None else charset
    codec = _codec(name)
    if codec is None:
        raise DecodeError(f"the content-type names the charset {shown(name)}, which is not supported")
    try:
        return body.decode(codec)
    except UnicodeDecodeError as error:
        raise DecodeError(f"the body is not {name.upper()}: {error.reason} at byte {error.start}") from None


def utf_8(body: bytes, charset: str | None) -> bytes:
    """Return a JSON body in UTF-8. It is recoded only when it is no UTF-8 and `charset` names another encoding.

    Raises DecodeError. A zero octet means UTF-16 or UTF-32: it would be valid in UTF-8, but JSON has none.
    """
    if charset is None or _codec(charset) == "utf_8":
        return body
    if b"\0" not in body:
        try:
            body.decode()
            return body
        except UnicodeDecodeError:
            pass
    return text(body, charset).removeprefix("\ufeff").encode()


def _codec(charset: str) -> str | None:
    return _CHARSETS.get(charset.replace("-", "_"))


def shown(name: str) -> str:
    """Return a publisher's text in a form that is short and safe to log."""
    return repr(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "...")
