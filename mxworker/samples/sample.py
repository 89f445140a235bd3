"""The sample of a handler: the body of a message that its decoder accepts.

    annotation             sample
    bytes, str             the word "text"
    dict, Any              an object with the keys that the code of the handler reads: see `used_keys`
    list                   an array
    Delivery               as for Any
    all else               a valid document, by what msgspec or pydantic tells about the type

Every sample was decoded by the handler's own decoder, so a validator of the application has accepted it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from mxworker.api.decoder import Decoder, simplest
from mxworker.api.delivery import Delivery, Source
from mxworker.errors import AppLoadError, DecodeError
from mxworker.payloads.annotations import shown
from mxworker.payloads.content_types import BYTES, JSON, TEXT
from mxworker.payloads.payload_form import bounded
from mxworker.payloads.serializers import to_json
from mxworker.payloads.typed_payloads import typed_form
from mxworker.samples import values
from mxworker.samples.used_keys import document_read_by
from mxworker.samples.values import NoSample
from mxworker.system.foreign_errors import lines_of
from mxworker.system.printable import foreign
from mxworker.wire.properties import FLAG_CONTENT_TYPE, join

_OBJECT = {values.KEY: values.TEXT}
_DOCUMENTS: Mapping[Any, Any] = MappingProxyType(
    {dict: _OBJECT, list: [values.TEXT], Any: _OBJECT, object: _OBJECT, Delivery: _OBJECT}
)
_RAW_TYPES: Mapping[Any, str] = MappingProxyType({bytes: BYTES, str: TEXT})


@dataclass(frozen=True, slots=True)
class Sample:
    """The body of a message, and its content type."""

    body: bytes
    content_type: str


def sample_of(annotation: Any, decode: Decoder, source: str = "") -> Sample:
    """Return a sample for the payload of a handler; `decode` is its decoder, `source` the text of its code, if known.

    Raises NoSample, which names the annotation, the field in it and the reason.
    """
    try:
        made = _made(simplest(annotation), source)
        decode(_delivery(made), made.body)
    except (NoSample, DecodeError, AppLoadError) as error:
        raise NoSample(f"there is no sample of {foreign(shown(annotation))}: {error}") from error
    except Exception as error:  # a validator or another function of the application
        why = bounded(f"{type(error).__name__}: {lines_of(error)[0]}")
        raise NoSample(f"there is no sample of {foreign(shown(annotation))}: {why}") from error
    return made


def _made(annotation: Any, source: str) -> Sample:
    for kind, content_type in _RAW_TYPES.items():
        if annotation is kind:
            return Sample(values.TEXT.encode(), content_type)
    for kind, document in _DOCUMENTS.items():
        if annotation is kind:
            read = document_read_by(source) if document is _OBJECT else {}
            return Sample(to_json(read or document), JSON)
    return Sample(to_json(_typed(annotation)), JSON)


def _typed(annotation: Any) -> Any:
    """Return the sample of a type that a library checks, by what that library tells about the type."""
    if typed_form(annotation).library == "msgspec":
        from mxworker.samples.msgspec_types import sample_of_type

        return sample_of_type(annotation)
    from pydantic import TypeAdapter

    from mxworker.samples.json_schema import sample_of_schema

    return sample_of_schema(TypeAdapter(annotation).json_schema())


def _delivery(sample: Sample) -> Delivery:
    """Return the sample as a decoder takes it: only the content type is looked at."""
    content_type = sample.content_type.encode()
    raw = join({FLAG_CONTENT_TYPE: bytes([len(content_type)]) + content_type})
    return Delivery(sample.body, raw, b"", redelivered=False, delivery_tag=1, source=cast("Source", None))
