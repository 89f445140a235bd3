"""The columns of the two tables: what each shows, how bad that is, and which columns go first when there is no room.

A row is one of `overview.overview`, which the status page shows, too. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

from mxworker.cli.top.figures import count, duration, rate, share, size
from mxworker.observer.overview.history import FAILED
from mxworker.system.printable import foreign

Row = Mapping[str, Any]

_LAG_S = 0.5
_GAP = 2
_NARROW_GAP = 1
_NARROW_BELOW = 100
_NAME_LEAST, _END_LEAST = 12, 26
_NAME_MOST = 40
_TEXT_MOST = 60
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class Tone(Enum):
    """How good what a cell says is."""

    PLAIN = "plain"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a row of a column."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `rank` is 0 when it always stays; otherwise columns with the highest rank go first."""

    heading: str
    rank: int
    cell: Callable[[Row], Cell]
    is_text: bool = False
    may_shrink_to: int | None = None
    only_when_said: bool = False
    """Whether the column is left out when it is empty in all rows."""


@dataclass(frozen=True, slots=True)
class Table:
    """The columns that fit, with their widths, and the cells of the rows."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]
    gap: int


def fitted(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> Table:
    """Return the columns that fit into `width` characters, or all of them when there is no limit."""
    gap = _NARROW_GAP if width is not None and width < _NARROW_BELOW else _GAP
    cells = {column.heading: [_printable(column.cell(row)) for row in rows] for column in columns}
    kept = [one for one in columns if not one.only_when_said or any(cell.text for cell in cells[one.heading])]
    widths = {column.heading: _width(column, cells[column.heading], width is None) for column in kept}
    least = {
        column.heading: min(widths[column.heading], column.may_shrink_to or widths[column.heading]) for column in kept
    }
    while width is not None and _total(kept, least, gap) > width and any(column.rank for column in kept):
        kept.remove(max(kept, key=lambda column: column.rank))
    if width is not None:
        widths = _spread(kept, widths, least, width, gap)
        for column in kept:
            if column.may_shrink_to == _NAME_LEAST:
                cells[column.heading] = [_short_name(cell, widths[column.heading]) for cell in cells[column.heading]]
    rows_of_cells = tuple(zip(*(cells[column.heading] for column in kept), strict=True)) if rows else ()
    return Table(tuple(kept), tuple(widths[column.heading] for column in kept), rows_of_cells, gap)


def _printable(cell: Cell) -> Cell:
    return Cell(foreign(cell.text), cell.tone)


def _short_name(cell: Cell, width: int) -> Cell:
    """Return a name that fits. Names that begin alike differ at their ends, so both stay."""
    text = cell.text
    if len(text) <= width:
        return cell
    begin = width // 3
    return Cell(f"{text[:begin]}{_ELLIPSIS}{text[len(text) - (width - begin - 1) :]}", cell.tone)


def _width(column: Column, cells: Sequence[Cell], is_unlimited: bool) -> int:
    most = max((len(cell.text) for cell in cells), default=0)
    if not is_unlimited and column.is_text:
        most = min(most, _NAME_MOST if column.may_shrink_to == _NAME_LEAST else _TEXT_MOST)
    return max(most, len(column.heading))


def _total(columns: Sequence[Column], widths: Mapping[str, int], gap: int) -> int:
    return sum(widths[column.heading] for column in columns) + gap * (len(columns) - 1)


def _spread(
    columns: Sequence[Column], widths: Mapping[str, int], least: Mapping[str, int], width: int, gap: int
) -> dict[str, int]:
    """Return the widths, where columns that may shrink share what is left."""
    given = {column.heading: least[column.heading] for column in columns}
    left = width - _total(columns, given, gap)
    for column in columns:
        if column.may_shrink_to is not None:
            more = max(0, min(left, widths[column.heading] - given[column.heading]))
            given[column.heading] += more
            left -= more
    return given


# ---- handlers

_STATE_TONES = {
    "paused": Tone.WARNING,
    "draining": Tone.WARNING,
    "partly consumed": Tone.WARNING,
    "waiting": Tone.BAD,
    "stopped": Tone.BAD,
    "not connected": Tone.BAD,
    "no worker": Tone.BAD,
}
_STATE_WORDS = {"consumed": "", "waiting": "not consumed", "stopped": "not consumed", "partly consumed": "partly"}


def _text(name: str, row: Row) -> Cell:
    return Cell(str(row[name]))


def _state(row: Row) -> Cell:
    state = str(row["state"])
    return Cell(_STATE_WORDS.get(state, state), _STATE_TONES.get(state, Tone.PLAIN))


def _figure(shown: Callable[[Any], str], name: str, row: Row) -> Cell:
    return Cell(shown(row[name]))


def _running(row: Row) -> Cell:
    is_batch = row["in_flight"] > row["slots"]  # deliveries, in so many places for batches
    text = f"{count(row['in_flight'])}{' in ' if is_batch else '/'}{count(row['slots'])}"
    if row["stuck"]:
        return Cell(f"{text} {count(row['stuck'])}!", Tone.BAD)
    is_full = row["utilisation"] is not None and row["utilisation"] > 0.95
    return Cell(text, Tone.WARNING if is_full else Tone.PLAIN)


def _age(row: Row) -> Cell:
    age_s, objective_s = row["age_p95_s"], row["objective_s"]
    is_late = age_s is not None and objective_s is not None and age_s > objective_s
    return Cell(duration(age_s), Tone.WARNING if is_late else Tone.PLAIN)


def _depth(name: str, row: Row) -> Cell:
    """Return how many messages a queue has; nothing when the broker could not be asked for a while."""
    return Cell(count(None if row["is_depth_old"] else row[name]))


def _dead_letters(row: Row) -> Cell:
    return replace(_depth("dead_letters", row), tone=Tone.WARNING if row["dead_letters"] else Tone.PLAIN)


def _failed(row: Row) -> Cell:
    failed = sum(row["outcomes"].get(name, 0) for name in FAILED)
    return Cell(count(failed), Tone.WARNING if row["failed_per_s"] else Tone.PLAIN)


def _outcome(name: str, row: Row) -> Cell:
    return Cell(count(row["outcomes"].get(name, 0)))


def _quarantined(row: Row) -> Cell:
    return Cell(count(row["quarantined"]) if row["quarantined"] else "", Tone.BAD)


HANDLERS = (
    Column("QUEUE", 0, partial(_text, "queue"), is_text=True, may_shrink_to=_NAME_LEAST),
    Column("HANDLER", 6, partial(_text, "handler"), is_text=True, may_shrink_to=_NAME_LEAST),
    Column("STATE", 0, _state, is_text=True, only_when_said=True),
    Column("5 s", 0, partial(_figure, rate, "ended_per_s")),
    Column("1 min", 4, partial(_figure, rate, "ended_per_s_1min")),
    Column("5 min", 8, partial(_figure, rate, "ended_per_s_5min")),
    Column("p50", 7, partial(_figure, duration, "duration_p50_s")),
    Column("p95", 2, partial(_figure, duration, "duration_p95_s")),
    Column("RUN", 0, _running),
    Column("WAIT", 10, partial(_figure, count, "prefetched")),
    Column("AGE", 1, _age),
    Column("READY", 1, partial(_depth, "ready")),
    Column("RETRY", 3, partial(_depth, "retry_waiting")),
    Column("DEAD", 2, _dead_letters),
    Column("QUARANT.", 5, _quarantined, only_when_said=True),
    Column("ACKED", 9, partial(_outcome, "ack")),
    Column("FAILED", 5, _failed),
    Column("RETRIED", 11, partial(_outcome, "retry")),
    Column("REJECTED", 11, partial(_outcome, "reject")),
    Column("REQUEUED", 13, partial(_outcome, "requeue")),
    Column("TIMEOUT", 12, partial(_outcome, "timeout")),
    Column("UNDECODABLE", 14, partial(_outcome, "decode_error")),
    Column("STALE", 14, partial(_outcome, "stale")),
)


# ---- workers

BAD_STATES = frozenset({"backoff", "aborting", "killing"})


def _worker_state(row: Row) -> Cell:
    state = row["state"]
    late_s = row["heartbeat_late_s"]
    if late_s:
        return Cell(f"late {duration(late_s)}", Tone.BAD)
    tone = Tone.GOOD if state == "ready" else Tone.BAD if state in BAD_STATES else Tone.WARNING
    return Cell(state, tone)


def _worker_running(row: Row) -> Cell:
    if row["stuck"]:
        return Cell(f"{count(row['in_flight'])} {count(row['stuck'])}!", Tone.BAD)
    return Cell(count(row["in_flight"]))


def _lag(row: Row) -> Cell:
    lag_s = row["loop_lag_s"]
    return Cell(duration(lag_s), Tone.WARNING if lag_s is not None and lag_s >= _LAG_S else Tone.PLAIN)


def _restarts(row: Row) -> Cell:
    return Cell(count(row["restarts"]), Tone.WARNING if row["restarts_recent"] else Tone.PLAIN)


def _pid(row: Row) -> Cell:
    return Cell("-" if row["pid"] is None else str(row["pid"]))


def _generation(row: Row) -> Cell:
    return Cell(str(row["generation"]))


WORKERS = (
    Column("WORKER", 0, partial(_text, "slot")),
    Column("PID", 5, _pid),
    Column("STATE", 0, _worker_state, is_text=True),
    Column("UP", 2, partial(_figure, duration, "uptime_s")),
    Column("RUN", 0, _worker_running),
    Column("WAIT", 7, partial(_figure, count, "prefetched")),
    Column("5 s", 1, partial(_figure, rate, "ended_per_s")),
    Column("CPU", 0, partial(_figure, share, "cpu")),
    Column("MEM", 0, partial(_figure, size, "rss_bytes")),
    Column("LAG", 1, _lag),
    Column("GEN", 6, _generation),
    Column("RESTARTS", 1, _restarts),
    Column("LAST END", 4, partial(_text, "last_exit"), is_text=True, may_shrink_to=_END_LEAST, only_when_said=True),
)
