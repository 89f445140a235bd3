"""How a log line looks: text on a terminal, one JSON object a line elsewhere, always to stderr.

Every record becomes one line (on a terminal a traceback follows, indented) of at most 4096 bytes, handed to the kernel
in one `write`, so that the lines of several processes never tear each other (pipe(7), PIPE_BUF). Control characters are
escaped: what a publisher put into a message cannot start a line of its own. So it is in JSON, where a reader gets them
back: what was said, not what a terminal would do with it. What is too long is shortened, visibly.
Nobody waits for a reader: what stderr does not take at once is dropped and counted, and the count is told later.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping

import orjson

from mxworker.system.foreign_errors import traceback_of
from mxworker.system.printable import CUT, by_line, escaped, head, printable, tail, well_formed
from mxworker.system.stderr import LINE_BYTES, make_room, pieces, put

_TEXT_HEAD_BYTES = 2048  # of a text line that has a traceback: the rest is for the traceback
_JSON_LIMITS = (2000, 1000, 500, 250, 120, 60, 30)  # characters a field may have; the first that fits is taken
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """`12:30:01.250 INFO  mxworker.master  slot 1 EMPTY -> STARTING (start)`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback when there is one; of that the end is kept, where the error is named."""
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
    """One JSON object: time (RFC 3339, UTC), level, logger, pid, message, whatever `extra` held, and the traceback.

    An object that would be longer than a line gets its fields shortened until it fits, so that it still is JSON.
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
        if trace := _trace(self, record):
            entry["traceback"] = by_line(trace)  # of an error that quotes what a publisher sent
        extra = {str(key): value for key, value in record.__dict__.items() if key not in _STANDARD}
        whole = {key: _plain(value) for key, value in (extra | entry).items()}  # our own fields win
        for limit in _JSON_LIMITS:
            line = _object(whole, limit)
            if len(line.encode()) < LINE_BYTES:
                return line
        return _object({key: whole[key] for key in entry}, _JSON_LIMITS[-1])


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the traceback of a record, as who made the record has written it, if so."""
    return record.exc_text or (formatter.formatException(record.exc_info) if record.exc_info else "")


def _plain(value: object) -> object:
    """Return what JSON can hold: a scalar, or as bytes the JSON of anything else."""
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
    """Return the escape of a character in JSON, which knows units of UTF-16; those below 32 it escapes by itself."""
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


class LineHandler(logging.Handler):
    """Write each record as one line to a file descriptor, with one `write` call, or drop it rather than wait."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lost_lines = 0
        self._lost_by = 0  # the process that lost them: a child of a fork must not tell of them as well

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record. Never raises: neither a reader that went away nor a bad log call may end the work."""
        self._write(self._line(record))

    def say(self, text: str) -> None:
        """Write a finished text, line by line as it is, but for what no terminal should get."""
        self.acquire()
        try:
            for piece in pieces(by_line(text.expandtabs())):
                self._write(piece)
        finally:
            self.release()

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
        except BaseException as error:  # arguments that do not fit the message, a `__repr__` that raises SystemExit
            line = self.format(_apology(record, error))
        return line.encode() + b"\n"

    def _write(self, raw: bytes) -> None:
        pid = os.getpid()
        lost_lines = self._lost_lines if self._lost_by == pid else 0
        if lost_lines and put(self._fd, self._line(_confession(lost_lines))):
            lost_lines = 0
        if lost_lines or not put(self._fd, raw):
            lost_lines += raw.count(b"\n")
        self._lost_lines, self._lost_by = lost_lines, pid


def _apology(record: logging.LogRecord, error: BaseException) -> logging.LogRecord:
    text = f"a log call at {record.pathname}:{record.lineno} cannot be formatted: {type(error).__name__}"
    return logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, text, None, None)


def _confession(lost_lines: int) -> logging.LogRecord:
    text = f"lost {lost_lines} lines of this process before this one: the reader of this log did not keep up"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)


def is_text(style: str) -> bool:
    """Whether `style` (auto, text or json) means text here: auto does on a terminal."""
    return style == "text" or (style == "auto" and sys.stderr.isatty())


def set_up(level: str, style: str = "auto") -> None:
    """Send all logging to stderr. `level` is a name of the logging module in lower case, `style` auto, text or json.

    The AMQP libraries log message bodies at DEBUG and every connection loss with a traceback; mxworker reports a loss
    itself, once, so they are kept to what mxworker cannot know.
    """
    fd = sys.stderr.fileno()
    make_room(fd)
    handler = LineHandler(fd)
    handler.setFormatter(TextFormatter() if is_text(style) else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.lastResort = handler  # for the root logger left without any, see keep_telling
    logging.captureWarnings(not is_text(style))  # they are records of a JSON log, too
    for library in ("aio_pika", "aiormq"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    for chatty in ("asyncio", "watchfiles"):  # below they tell of themselves, not of what happened
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


class _KeptLogger(logging.Logger):
    """A logger of ours, which nobody disables, and which raises nothing of what the application adds to logging."""

    @property
    def disabled(self) -> bool:
        """Return what `disable_existing_loggers`, the default of an application's `dictConfig`, does not change."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def handle(self, record: logging.LogRecord) -> None:
        """Hand a record on; when a filter or handler of the application raises, write it where the log went before."""
        try:
            super().handle(record)
        except Exception:
            _past_the_application(record)


def keep_telling() -> None:
    """Have this process tell what it does, however the application configures logging, now or later.

    Our loggers stay enabled. Where the application gives the root logger handlers, our lines go to them, too; where it
    takes all away, or one of them raises, they go where they went. Its levels count for ours as well. Call it when our
    modules are imported.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "mxworker":
            kept(name)


def kept(name: str) -> logging.Logger:
    """Return a logger of ours that no configuration disables; see `keep_telling`."""
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:  # else the application has a class of its own for loggers
        logger.__class__ = _KeptLogger
    return logger


def say(text: str) -> None:
    """Write a finished text for people to where the log goes, stderr, in its order and with its care."""
    _last_resort().say(text)


def tell_error(text: str, **fields: object) -> None:
    """Tell people an error whose text has several lines: as it is in a text log, as one record in a JSON log."""
    if is_json():
        logging.getLogger("mxworker").error("%s", text.removeprefix("Error: "), extra=fields)
    else:
        say(text)


def say_safely(
    logger: logging.Logger,
    level: int,
    text: str,
    *values: object,
    error: BaseException | None = None,
    trace: str = "",
    fields: Mapping[str, object] | None = None,
) -> None:
    """Log a line, from where nothing may be raised: the filters and handlers of an application may raise anything.

    Then it goes to stderr, past them. `error` is for who wants the exception itself, `trace` what is shown of it, by
    default its whole traceback; `fields` are those of the JSON line.
    """
    if not logger.isEnabledFor(level):
        return
    raised = None if error is None else (type(error), error, traceback_of(error))
    record = logger.makeRecord(logger.name, level, __file__, 0, text, values, raised, extra=fields)
    record.exc_text = trace or None
    try:
        logger.handle(record)
    except BaseException:
        _past_the_application(record)


def _past_the_application(record: logging.LogRecord) -> None:
    """Write a record to where the log went before the application configured it."""
    _last_resort().emit(record)


def _last_resort() -> LineHandler:
    handler = logging.lastResort
    return handler if isinstance(handler, LineHandler) else LineHandler(2)


def set_level(name: str) -> None:
    """Log from a level on, which is a name of the logging module in lower case."""
    logging.getLogger().setLevel(name.upper())


def level() -> str:
    """Return the level from which on this process logs, by its name in lower case."""
    return logging.getLevelName(logging.getLogger().level).lower()


def as_set_up() -> tuple[str, str]:
    """Return the level and the style of this process's log, for a process that is to log as this one does."""
    return level(), "json" if is_json() else "text"


def is_json() -> bool:
    """Return whether this process logs JSON."""
    return logging.lastResort is not None and isinstance(logging.lastResort.formatter, JsonFormatter)


class LineBudget:
    """A rate limit for one kind of log line: at most `lines` in each window of `window_s` seconds."""

    def __init__(self, lines: int = 10, window_s: float = 10.0) -> None:
        self._lines = lines
        self._window_s = window_s
        self._window_ends_at = 0.0
        self._used = 0
        self._suppressed = 0

    def spend(self, now: float) -> str | None:
        """Return what to add to the line, often nothing; None when it must not be written. `now` is monotonic."""
        if now >= self._window_ends_at:
            self._window_ends_at = now + self._window_s
            self._used = 0
        if self._used >= self._lines:
            self._suppressed += 1
            return None
        self._used += 1
        suppressed, self._suppressed = self._suppressed, 0
        return f" (and {suppressed} more like this before)" if suppressed else ""
