"""The log of every process: text on a terminal, elsewhere one JSON object a line, always on stderr.

Every record becomes one line of at most 4096 bytes; in text form an indented traceback may follow: see `log_formats`.
The line is written by one `write`, so that lines of several processes never mix (pipe(7), PIPE_BUF). No process waits
for the reader of its log: lines that stderr does not take at once are dropped and counted, and a later line tells how
many.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from mxworker.system.foreign_errors import error_in_words, traceback_of
from mxworker.system.log_events import LogEvent, log_event
from mxworker.system.log_formats import Facts, FactsFormatter, JsonFormatter, TextFormatter
from mxworker.system.printable import by_line
from mxworker.system.stderr import make_room, pieces, put

_OURS = "mxworker."
_ABOUT_DELIVERIES = ("mxworker.worker.handling.", "mxworker.handler.")
_FIGURES = ("mxworker.worker.performance", "mxworker.amqp.connecting.pool")
"""The loggers of figures that are logged again and again."""
_RESERVED = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime"}
"""The attributes of records that logging sets itself."""


class LineHandler(logging.Handler):
    """Write each record as one line to a file descriptor by one `write` call; drop the line rather than wait."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lost_lines = 0
        self._dropped_lines = 0
        self._lost_by = 0  # the pid of the process that lost them: a forked child must not report them again

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record. Never raises, neither for a reader that has gone nor for a bad log call."""
        self._write(self._line(record))

    def say(self, text: str) -> None:
        """Write a finished text line by line, made printable."""
        self.acquire()
        try:
            for piece in pieces(by_line(text.expandtabs())):
                self._write(piece)
        finally:
            self.release()

    @property
    def dropped_lines(self) -> int:
        """The number of lines that this process has dropped so far."""
        return self._dropped_lines if self._lost_by == os.getpid() else 0

    def count_dropped(self, lines: int) -> None:
        """Count lines that another process has dropped, for which this one keeps the count."""
        self.acquire()
        self._dropped_lines = self.dropped_lines + lines
        if self._lost_by != os.getpid():
            self._lost_lines, self._lost_by = 0, os.getpid()
        self.release()

    def tell_lost(self) -> None:
        """Report lines that were lost since the last report, if the reader takes a line again."""
        self.acquire()
        try:
            if self._lost_by == os.getpid() and self._lost_lines and self._confess(self._lost_lines):
                self._lost_lines = 0
        finally:
            self.release()

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
        except BaseException as error:  # the arguments do not fit the message, or a `__repr__` raises SystemExit
            line = self.format(_apology(record, error))
        return line.encode() + b"\n"

    def _write(self, raw: bytes) -> None:
        pid = os.getpid()
        if self._lost_by != pid:
            self._lost_lines, self._dropped_lines, self._lost_by = 0, 0, pid
        if self._lost_lines and self._confess(self._lost_lines):
            self._lost_lines = 0
        if self._lost_lines or not put(self._fd, raw):
            lines = raw.count(b"\n")
            self._lost_lines += lines
            self._dropped_lines += lines

    def _confess(self, lost_lines: int) -> bool:
        return put(self._fd, self._line(_confession(lost_lines)))


def _apology(record: logging.LogRecord, error: BaseException) -> logging.LogRecord:
    text = f"a log call at {record.pathname}:{record.lineno} cannot be formatted: {type(error).__name__}"
    return logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, text, None, None)


def _confession(lost_lines: int) -> logging.LogRecord:
    text = f"lost {lost_lines} lines of this process before this one: the reader of this log did not keep up"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
    record.__dict__.update(log_event("log_lines_lost", lines=lost_lines))
    return record


def is_text(style: str) -> bool:
    """Tell whether `style` (auto, text or json) means text here; auto means text on a terminal."""
    return style == "text" or (style == "auto" and sys.stderr.isatty())


def set_up(level: str, style: str = "auto", hides_workings: bool = False) -> None:
    """Send all logging to stderr. `level` is a name of the logging module in lower case, `style` auto, text or json.

    With `hides_workings`, mxworker's own lines below INFO are left out, but for those about deliveries, and so are
    figures that are logged again and again.

    The AMQP libraries are limited to CRITICAL: they log message bodies at DEBUG, and every connection loss with a
    traceback, which mxworker itself reports once.
    """
    fd = sys.stderr.fileno()
    make_room(fd)
    handler = LineHandler(fd)
    handler.setFormatter(TextFormatter() if is_text(style) else JsonFormatter())
    if hides_workings:
        handler.addFilter(_is_no_working)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.lastResort = handler  # for a root logger without handlers, see keep_telling
    logging.captureWarnings(not is_text(style))  # a JSON log holds warnings as records, too
    for library in ("aio_pika", "aiormq"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    for chatty in ("asyncio", "watchfiles"):  # below WARNING they log only their own internals
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def _is_no_working(record: logging.LogRecord) -> bool:
    """Tell whether a record is more than a detail of how mxworker works."""
    if not record.name.startswith(_OURS) or record.name.startswith(_ABOUT_DELIVERIES):
        return True
    return record.levelno >= (logging.WARNING if record.name in _FIGURES else logging.INFO)


def add_facts(facts: Facts) -> None:
    """Give each line of the application that is logged from now on the facts that `facts` returns then and there."""
    _last_resort().setFormatter(JsonFormatter(facts) if is_json() else TextFormatter(facts))


def lines_dropped() -> int:
    """Return how many lines of its log this process has dropped so far, since stderr did not take them at once."""
    return _last_resort().dropped_lines


def count_dropped(lines: int) -> None:
    """Count lines that a process for `cpu=True` handlers has dropped, as if this process had dropped them."""
    _last_resort().count_dropped(lines)


def tell_lost_lines() -> None:
    """Report dropped lines, if their reader is back. Call now and then: otherwise the next line brings the report."""
    _last_resort().tell_lost()


def facts_for_line(record: logging.LogRecord) -> Mapping[str, object]:
    """Return the facts that a record logged here and now has."""
    formatter = _last_resort().formatter
    return formatter.facts_for(record) if isinstance(formatter, FactsFormatter) else {}


class _SafeLogger(logging.Logger):
    """A logger that raises no error of the application's record factory, filters and handlers."""

    _has_told_of_factory = False  # of the class: one line in a process

    def makeRecord(  # noqa: N802 - the name of logging
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        """Return a record of the application's factory, or of logging itself when the factory raises.

        The fields in `extra` win over attributes that the factory has set. Raises KeyError, as logging does, for fields
        with names of its own.
        """
        if extra is not None and (taken := _RESERVED.intersection(extra)):
            raise KeyError(f"Attempt to overwrite {', '.join(sorted(taken))} in LogRecord")
        try:
            record = logging.getLogRecordFactory()(name, level, fn, lno, msg, args, exc_info, func, sinfo)
            attributes = record.__dict__
        except BaseException as error:
            self._tell_of_factory(error)
            record = logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
            attributes = record.__dict__
        attributes.update(extra or {})
        return record

    def handle(self, record: logging.LogRecord) -> None:
        """Handle a record. When a filter or handler of the application raises, write the record to stderr."""
        try:
            super().handle(record)
        except BaseException:
            _past_the_application(record)

    def _tell_of_factory(self, error: BaseException) -> None:
        if _SafeLogger._has_told_of_factory:
            return
        _SafeLogger._has_told_of_factory = True
        text = f"the log record factory of the application failed: {error_in_words(error)}; lines are logged without it"
        raised = (type(error), error, traceback_of(error))
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "%s", (text,), raised)
        record.__dict__.update(log_event("log_factory_failed", error=error_in_words(error)))
        self.handle(record)


class _KeptLogger(_SafeLogger):
    """A logger of ours, which is safe, and which an application cannot disable."""

    _cache: dict[int, bool]  # logging's, which clears it when a level changes

    @property
    def disabled(self) -> bool:
        """False always: `dictConfig` of an application disables existing loggers by default."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - as above
        """Tell whether the levels let a line pass: `logging.disable` is not asked."""
        try:
            return self._cache[level]
        except KeyError:
            is_enabled = self._cache[level] = level >= self.getEffectiveLevel()
            return is_enabled


def keep_telling() -> None:
    """Keep our loggers working, however the application configures logging, now or later.

    Our loggers stay enabled. When the application gives the root logger handlers, our lines go to those too. When it
    removes all handlers, or one of them raises, our lines go to stderr as before. When its record factory raises, our
    lines are logged without it. The application's levels apply to our loggers too. Call this after our modules were
    imported.

    The logger of asyncio is made safe, too: an event loop that cannot log ends.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "mxworker":
            kept(name)
    _become(logging.getLogger("asyncio"), _SafeLogger)


def kept(name: str) -> logging.Logger:
    """Return a logger of ours that no configuration disables; see `keep_telling`."""
    logger = logging.getLogger(name)
    _become(logger, _KeptLogger)
    return logger


def _become(logger: logging.Logger, kind: type[_SafeLogger]) -> None:
    if type(logger) is logging.Logger:  # else the application has its own class for loggers
        logger.__class__ = kind


def say(text: str) -> None:
    """Write a finished text for people to stderr, in order with the log lines and as safely."""
    _last_resort().say(text)


def tell_error(text: str, event: LogEvent) -> None:
    """Report an error whose text has several lines: unchanged in a text log, as one record in a JSON log."""
    if is_json():
        logging.getLogger("mxworker").error("%s", text.removeprefix("Error: "), extra=event)
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
    """Log a line where nothing may be raised, although what an application adds to logging may raise anything.

    When it raises, the line goes to stderr. `error` is the exception of the record; `trace` is the text shown for it,
    by default its whole traceback; `fields` are fields of the JSON line.
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
    """Write a record to stderr, past the application's logging configuration."""
    _last_resort().emit(record)


def _last_resort() -> LineHandler:
    handler = logging.lastResort
    return handler if isinstance(handler, LineHandler) else LineHandler(2)


def set_level(name: str) -> None:
    """Set the level of the log: a name of the logging module in lower case."""
    logging.getLogger().setLevel(name.upper())


def level() -> str:
    """Return the log level of this process, a name in lower case."""
    return logging.getLevelName(logging.getLogger().level).lower()


def as_set_up() -> tuple[str, str]:
    """Return the level and the style of this process's log, for a process that has to log in the same way."""
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

    def spend(self, now: float, count: int = 1) -> str | None:
        """Return the suffix of the line, often ""; None when the line must not be written. `now` is monotonic.

        `count` is how many things the line tells of.
        """
        if now >= self._window_ends_at:
            self._window_ends_at = now + self._window_s
            self._used = 0
        if self._used >= self._lines:
            self._suppressed += count
            return None
        self._used += 1
        suppressed, self._suppressed = self._suppressed, 0
        return f" (and {suppressed} more like this before)" if suppressed else ""

    def rest(self, now: float) -> int:
        """Return how many were held back in a window that is over, and that no line has told of; each only once."""
        if now < self._window_ends_at:
            return 0
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
