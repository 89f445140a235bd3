"""The line of code that describes a queue, for error texts. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mxworker.api.queues import Queue


def code_of(queue: Queue) -> str:
    """Return the call that makes `queue`, as short as it can be written."""
    plain = Queue("plain")
    given = {field.name: getattr(queue, field.name) for field in fields(queue) if field.name != "name"}
    options = [f"{name}={_literal(value)}" for name, value in given.items() if value != getattr(plain, name)]
    return f"Queue({', '.join([_literal(queue.name), *options])})"


def _literal(value: Any) -> str:
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case Mapping():
            return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
        case tuple():
            return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
        case Sequence() if not isinstance(value, bytes):
            return f"[{', '.join(map(_literal, value))}]"
    return repr(value)
