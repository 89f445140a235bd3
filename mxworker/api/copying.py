"""Make a copy of a delivery, to be published to another queue, or again to its own.

A copy keeps body, properties and headers byte for byte, except for values on which the broker would act; see `origins`.
A message without an id gets one from the publisher. You must have the copy confirmed before you ack its original.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxworker.api.message import Copy
from mxworker.wire import field_table
from mxworker.wire.origins import moved_away, with_headers
from mxworker.wire.properties import FLAG_MESSAGE_ID, join

_FLAGS_BYTES = 2


def copy_of(body: bytes, raw_properties: bytes, raw_route: bytes, added: Mapping[str, Any]) -> Copy:
    """Return a copy of a delivery, with `added` headers in place of those of the same names.

    Body, properties and route are as on the wire, see `Delivery`. Raises DecodeError when properties or headers cannot
    be split, or are too many, so that no copy can be made.
    """
    values, headers = moved_away(raw_properties, raw_route)
    replaced = {name.encode() for name in added}
    kept = [(name, value) for name, value in headers if name not in replaced]
    values = with_headers(values, kept + field_table.entries(field_table.encode(added)))
    message_id = values.get(FLAG_MESSAGE_ID)
    raw = join({**values, FLAG_MESSAGE_ID: b""})  # the flag alone: the publisher puts the id where it belongs
    middle = _FLAGS_BYTES + sum(len(value) for flag, value in values.items() if flag > FLAG_MESSAGE_ID)
    return Copy(raw[:middle], None if message_id is None else message_id[1:], raw[middle:], body)
