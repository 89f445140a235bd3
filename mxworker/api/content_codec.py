"""A codec that the application registers: it reads and makes the bodies of one further content type.

Formats that can run code when they are read, pickle above all, are refused: everyone who may publish to a queue could
run code in its workers (kombu: ContentDisallowed). They are recognised by the content type and the module of the
function. A function of your own that calls them is not, and is your own decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from mxworker.api.callables import is_coroutine_function, name_of
from mxworker.errors import DecodeError
from mxworker.payloads.payload_form import bounded
from mxworker.payloads.serializers import Serializer

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")  # RFC 6838, 4.2
_UNSAFE_TYPES = re.compile("pickle|python-serialize|marshal|dill")  # the second is what kombu calls pickle
_UNSAFE_MODULES = frozenset({"pickle", "_pickle", "cloudpickle", "dill", "jsonpickle", "marshal"})


@dataclass(frozen=True, slots=True)
class ContentCodec:
    """The function that reads the bodies of `content_type`, and the one that makes them for the publisher, if any.

    Raises ValueError for a format that can run code, for a text that is no media type, and for functions that cannot be
    called or are async; TypeError for a content type that is no text.
    """

    content_type: str
    decode: Callable[[bytes], Any]
    encode: Serializer | None = None

    def __post_init__(self) -> None:
        """Refuse codecs that must never be registered."""
        if not isinstance(self.content_type, str):
            raise TypeError(f"a content type is text like 'application/msgpack', not {self.content_type!r:.80}")
        if not _MEDIA_TYPE.fullmatch(self.content_type.lower()):
            raise ValueError(f"{self.content_type!r} is no content type like 'application/msgpack', without parameters")
        if _UNSAFE_TYPES.search(self.content_type.lower()):
            raise ValueError(f"{self.content_type!r} is refused: reading it could run whatever code a publisher sends")
        for function in (self.decode, self.encode):
            if function is not None and not callable(function):
                raise ValueError(f"the codec of {self.content_type!r} must be functions, not {function!r:.80}")
            if is_coroutine_function(function):
                raise ValueError(
                    f"the codec of {self.content_type!r} must be plain functions: {name_of(function)!r} is async"
                )
            if _module_of(function) in _UNSAFE_MODULES:
                raise ValueError(
                    f"{_module_of(function)} is refused as codec of {self.content_type!r}: "
                    "reading it could run whatever code a publisher sends"
                )

    @property
    def media_type(self) -> str:
        """The content type as deliveries are compared with it: in lower case."""
        return self.content_type.lower()

    def read(self, body: bytes) -> Any:
        """Return the value of `body`. Every exception of the application's function becomes a DecodeError."""
        try:
            return self.decode(body)
        except Exception as error:
            reason = bounded(f"{type(error).__name__}: {error}")
            raise DecodeError(f"the body is not {self.content_type}, as its content-type says: {reason}") from error


NO_CODECS: Mapping[str, ContentCodec] = MappingProxyType({})


def _module_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", "")).partition(".")[0]
