"""The formats of a log record: text for people, JSON for programs. Pure. See `log` for how lines are written.

Control characters are escaped, so that text from a publisher's message cannot start a new line. In JSON they are
escaped too; a JSON reader gets them back. Longer lines are visibly shortened.
"""

from __future__ import annotations

import logging
import time

import orjson

from mxworker.system.printable import CUT, by_line, escaped, head, printable, tail, well_formed
from mxworker.system.stderr import LINE_BYTES

_TEXT_HEAD_BYTES = 2048  # for the line before a traceback, which gets the other bytes
_JSON_LIMITS = (2000, 1000, 500, 250, 120, 60, 30)  # characters of a field; the first limit with which all fits is used
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """`12:30:01.250 INFO  mxworker.master  slot 1 EMPTY -> STARTING (start)`, then the indented traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and the traceback, if any. A long traceback keeps its end, which names the error."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {record.name}  {record.getMessage()}"
        line = printable(line)
        trace = _trace(self, record)
        if not trace:
            return head(line, LINE_BYTES - 1)
        line = head(line, _TEXT_HEAD_BYTES)
        indented = "\n".join("    " + printable(row) for row in trace.split("\n"))
        return f"{line}\n{tail(indented, LINE_BYTES - 2 - len(line.encode()))}"


class JsonFormatter(logging.Formatter):
    """One JSON object: time (RFC 3339, UTC), level, logger, pid, message, event, traceback, and the fields of `extra`.

    The fields of an object that would be longer than a line are shortened until it fits, so that it stays valid JSON.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if "event" in record.__dict__:
            entry["event"] = record.__dict__["event"]
        if trace := _trace(self, record):
            entry["traceback"] = by_line(trace)  # the error may quote text from a publisher
        extra = {str(key): value for key, value in record.__dict__.items() if key not in _STANDARD}
        whole = {key: _plain(value) for key, value in (extra | entry).items()}  # our own fields win
        for limit in _JSON_LIMITS:
            line = _object(whole, limit)
            if len(line.encode()) < LINE_BYTES:
                return line
        return _object({key: whole[key] for key in entry}, _JSON_LIMITS[-1])


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the traceback of a record: the prepared text when it has one, else that of its exception."""
    return record.exc_text or (formatter.formatException(record.exc_info) if record.exc_info else "")


def _plain(value: object) -> object:
    """Return a value that JSON can hold: a scalar, or for anything else its JSON as bytes."""
    if isinstance(value, str):
        return well_formed(value)
    if value is None or isinstance(value, bool | float):
        return value
    try:
        return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, a lone surrogate, a cycle
        return well_formed(repr(value))


def _object(fields: dict[str, object], limit: int) -> str:
    short = {well_formed(key)[:limit]: _shortened(key, value, limit) for key, value in fields.items()}
    return escaped(orjson.dumps(short).decode(), _in_json)


def _in_json(character: str) -> str:
    """Return the JSON escape of a character, in UTF-16 units. orjson itself escapes the characters below 32."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _shortened(key: str, value: object, limit: int) -> object:
    if isinstance(value, bytes):
        if len(value) <= limit:
            return orjson.Fragment(value)
        value = value.decode()
    if not isinstance(value, str) or len(value) <= limit:
        return value
    return CUT + value[-limit:] if key == "traceback" else value[:limit] + CUT
