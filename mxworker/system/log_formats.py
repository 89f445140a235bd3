"""The formats of a log record: text for people, JSON for programs. Pure. See `log` for how lines are written.

Control characters are escaped, so that text from a publisher's message cannot start a new line. In JSON they are
escaped too; a JSON reader gets them back. Longer lines are visibly shortened.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import orjson

from mxworker.system.printable import CUT, by_line, escaped, head, printable, tail, well_formed
from mxworker.system.stderr import LINE_BYTES

Facts: TypeAlias = Callable[[], Mapping[str, object]]
"""Returns the facts of the message that the calling code handles; nothing where no handler runs."""

_FACTS_BYTES = 1024  # of a text line
_TEXT_HEAD_BYTES = 2048  # for the line before a traceback, which gets the other bytes
_JSON_LIMITS = (2000, 1000, 500, 250, 120, 60, 30)  # characters of a field; the first limit with which all fits is used
_PLAIN_VALUE = re.compile(r"[\w.:/@+-]+")  # anything else is quoted, so that no value looks like another fact
_OURS_WITH_FACTS = "mxworker.handler."
_WITHOUT_FACTS = frozenset({"mxworker", "asyncio"})
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName"}


def no_facts() -> Mapping[str, object]:
    """Return no facts, as in a process that handles no messages."""
    return {}


class FactsFormatter(logging.Formatter):
    """Knows the facts of the running message, which the two formats show in their way."""

    def __init__(self, facts: Facts = no_facts) -> None:
        """`facts` is called where a record is logged."""
        super().__init__()
        self._facts = facts

    def facts_for(self, record: logging.LogRecord) -> Mapping[str, object]:
        """Return the facts for a record of the application; nothing for records of mxworker and of asyncio.

        Code of ours also runs for other messages while a handler waits, and names its message itself. asyncio reports a
        forgotten task while the garbage collector runs, in the context of some other task.
        """
        name = str(record.name)  # None in one that `logging.makeLogRecord` made
        if name.partition(".")[0] in _WITHOUT_FACTS and not name.startswith(_OURS_WITH_FACTS):
            return {}
        return self._facts()


class TextFormatter(FactsFormatter):
    """`12:30:01.250 INFO  shop.orders  charged 12 EUR  [queue=orders message_id=m-7]`, and an indented traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and the traceback, if any. A long traceback keeps its end, which names the error."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {record.name}  {record.getMessage()}"
        line = printable(line)
        facts = _as_text(self.facts_for(record))
        trace = _trace(self, record)
        most_bytes = _TEXT_HEAD_BYTES if trace else LINE_BYTES - 1
        line = head(line, most_bytes - len(facts.encode())) + facts
        if not trace:
            return line
        indented = "\n".join("    " + printable(row) for row in trace.split("\n"))
        return f"{line}\n{tail(indented, LINE_BYTES - 2 - len(line.encode()))}"


class JsonFormatter(FactsFormatter):
    """One JSON object: time (RFC 3339, UTC), level, logger, pid, message, event, traceback, facts, and `extra`.

    The facts are those of the running message; fields of `extra` win over them. The fields of an object that would be
    longer than a line are shortened until it fits, so that it stays valid JSON.
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
        facts = dict(self.facts_for(record))
        whole = {key: _plain(value) for key, value in (facts | extra | entry).items()}  # our own fields win
        for limit in _JSON_LIMITS:
            line = _object(whole, limit)
            if len(line.encode()) < LINE_BYTES:
                return line
        return _object({key: whole[key] for key in entry | facts}, _JSON_LIMITS[-1])


def _as_text(facts: Mapping[str, object]) -> str:
    """Return `  [queue=orders attempt=1]` with the facts that are known, or nothing when there are none."""
    shown = " ".join(f"{name}={_as_value(value)}" for name, value in facts.items() if value is not None)
    return f"  [{head(printable(shown), _FACTS_BYTES)}]" if shown else ""


def _as_value(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


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
