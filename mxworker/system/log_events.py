"""The names of what log lines tell of, for programs that read a JSON log: they stay when the words of a line change.

docs/reference/log-events.md lists every name. A test compares the list with the sources.
"""

from __future__ import annotations

from typing import TypeAlias

LogEvent: TypeAlias = dict[str, object]
"""The fields of a JSON line, with the name of what it tells of in the field `event`."""


def log_event(name: str, /, **fields: object) -> LogEvent:
    """Return the `extra` of a log call. The name is a literal in lower case, such as `worker_ended`."""
    fields["event"] = name
    return fields
