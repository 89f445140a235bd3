"""What fits on a screen: the lines above the tables, the rows of each table, and what is said of the rest. Pure."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mxworker.cli.top.columns import BAD_STATES, HANDLERS, WORKERS, Column, Row, Table, Tone, fitted
from mxworker.cli.top.figures import count, duration, rate
from mxworker.control.rates import WINDOWS_S
from mxworker.system.printable import foreign

_TALL = 40  # lines; from here on each problem has its remedy
_LEAST_ROWS = 3  # of the table of workers
_PART_LINES = 5  # of a table: a blank line, the headings, and rows
_SMALL = 14  # lines; below that there is no room for the table of workers
_MOST_PROBLEMS_SHARE = 4  # a quarter of the lines
_TONES = {
    "working": Tone.GOOD,
    "paused": Tone.WARNING,
    "draining": Tone.WARNING,
    "starting": Tone.WARNING,
    "degraded": Tone.WARNING,
}
_SEVERITIES = {"note": Tone.PLAIN, "warning": Tone.WARNING, "critical": Tone.BAD}
_MARKS = {Tone.PLAIN: "-", Tone.GOOD: "-", Tone.WARNING: "!", Tone.BAD: "!!"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line outside of the tables."""

    text: str
    tone: Tone = Tone.PLAIN
    is_strong: bool = False
    is_faint: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A table, with what is said of the rows that have no room."""

    table: Table
    rest: str


@dataclass(frozen=True, slots=True)
class Silence:
    """The service does not answer: for how long, and why."""

    for_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything on the screen, from top to bottom."""

    head: tuple[Line, ...]
    parts: tuple[Part, ...]
    foot: Line | None
    is_old: bool
    """Whether the figures are those of the last answer of a service that does not answer now."""


def frame(
    view: Mapping[str, Any],
    width: int | None,
    height: int | None,
    silence: Silence | None = None,
    seen_s: float = 0.0,
    foot: str = "",
) -> Frame:
    """Return what fits; None is no limit.

    `view` is the last one that there was, and `seen_s` is for how long the service was looked at.
    """
    head = _head(view, width, height, silence)
    is_small = height is not None and height < _SMALL
    if height is not None:
        head = head[: max(2, height - (1 if is_small else 2) * _PART_LINES)]
    handlers, workers = _by_importance(view["queues"]), _workers_by_importance(view["workers"])
    shown = [len(handlers), len(workers)]
    if height is not None:
        fixed = len(head) + (2 if is_small else 4) + bool(foot)  # with headings and the blank lines above them
        room = max(0, height - fixed)
        shown = [room, 0] if is_small else _shares(room, *shown)
    parts: tuple[Part, ...] = (
        _part(HANDLERS, handlers, shown[0], view["queues"], width, _rest_of_handlers),
        _part(WORKERS, workers, shown[1], view["workers"], width, _rest_of_workers),
    )
    parts = parts[:1] if is_small else parts
    last = Line(_foot(foot, seen_s, width), is_faint=True) if foot else None
    return Frame(tuple(head), parts, last, silence is not None)


# ---- above the tables


def _head(view: Mapping[str, Any], width: int | None, height: int | None, silence: Silence | None) -> list[Line]:
    service, state = view["service"], view["state"]
    at = time.strftime("%H:%M:%S", time.localtime(view["at_unix_s"]))
    who = f"{foreign(service['name'])}  up {duration(service['uptime_s'])}"
    lines = [Line(_both_ends(who, at, width), is_strong=True)]
    if silence is not None:
        text = f"NO ANSWER for {duration(silence.for_s)}: {silence.why} The figures below are from {at}. Trying again."
        return lines + [Line(text, Tone.BAD, is_strong=True) for text in _wrapped(text, width, 3)]
    tone = _TONES.get(state["state"], Tone.BAD)
    lines += [Line(text, tone, is_strong=True) for text in _wrapped(foreign(state["text"]), width, 2)]
    lines += [Line(text) for text in _wrapped(foreign(state["detail"]), width, 2)]
    lines.append(Line(_joined(_totals(view), width)))
    return lines + _problems(view["problems"], width, height)


def _totals(view: Mapping[str, Any]) -> list[str]:
    """Return the sums over all handlers, the most important first."""
    totals, publishing = view["totals"], view["publishing"]
    blocked = ["publishing is blocked"] if publishing["is_blocked"] else []
    return [
        *blocked,
        f"ready {count(totals['ready'])}",
        f"retry {count(totals['retry_waiting'])}",
        f"dead {count(totals['dead_letters'])}",
        f"acked {count(totals['acked'])}",
        f"failed {count(totals['failed'])}",
        f"published {rate(totals['published_per_s'])}/s",
        f"confirm p95 {duration(publishing['confirm_p95_s'])}",
    ]


def _problems(problems: Sequence[Mapping[str, Any]], width: int | None, height: int | None) -> list[Line]:
    """Return a line for each problem, with its reason and, where there is room, what to do."""
    most = len(problems) if height is None else max(1, height // _MOST_PROBLEMS_SHARE - 2)
    has_room = height is None or height >= _TALL
    lines = []
    for problem in problems[:most]:
        tone = _SEVERITIES.get(problem["severity"], Tone.BAD)
        text = f"{_MARKS[tone]} {problem['what']}{problem['extent']}: {problem['why']}"
        lines.append(Line(_cut(foreign(text), width), tone))
        if has_room:
            lines.append(Line(_cut(f"  {foreign(problem['remedy'])}", width), is_faint=True))
    if len(problems) > most:
        lines.append(Line(f"  and {len(problems) - most} more problems", is_faint=True))
    return lines


def _both_ends(left: str, right: str, width: int | None) -> str:
    if width is None or len(left) + len(right) + 2 > width:
        return left if width is not None else f"{left}  {right}"
    return left.ljust(width - len(right)) + right


def _wrapped(text: str, width: int | None, most: int) -> list[str]:
    if width is None:
        return [text]
    return textwrap.wrap(text, max(width, 10), max_lines=most, placeholder=" ...") or [""]


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: max(0, width - 3)] + "..."


def _joined(pieces: Sequence[str], width: int | None) -> str:
    """Return the first of the pieces that fit on a line."""
    text = ""
    for piece in pieces:
        longer = f"{text}  {piece}" if text else piece
        if width is not None and len(longer) > width:
            break
        text = longer
    return text


def _foot(foot: str, seen_s: float, width: int | None) -> str:
    so_far = f" (of {duration(seen_s)} so far)" if seen_s < WINDOWS_S[-1] else ""
    rates = f"5 s, 1 min, 5 min: messages a second{so_far}"
    return _joined([foot, rates, "p50, p95: duration", "AGE: p95", "RUN: running/places", "WAIT: in the worker"], width)


# ---- the tables


def _shares(room: int, handlers: int, workers: int) -> list[int]:
    """Return how many lines each table gets for its rows: all of them, or a third for workers when room is short."""
    if handlers + workers <= room:
        return [handlers, workers]
    for_workers = min(workers, max(min(room, _LEAST_ROWS), room // 3, room - handlers))
    return [room - for_workers, for_workers]


def _by_importance(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of handlers: those with something wrong first, then the busiest."""
    return sorted(
        rows,
        key=lambda row: (row["state"] == "consumed" and not row["stuck"], -(row["ended_per_s_5min"] or 0)),
    )


def _workers_by_importance(rows: Sequence[Row]) -> list[Row]:
    def rank(row: Row) -> int:
        if row["state"] in BAD_STATES or row["heartbeat_late_s"]:
            return 0
        return 2 if row["state"] == "ready" and not row["restarts_recent"] else 1

    return sorted(rows, key=rank)


def _part(
    columns: Sequence[Column],
    rows: Sequence[Row],
    lines: int,
    in_order: Sequence[Row],
    width: int | None,
    rest_of: Any,
) -> Part:
    """Return a table of at most `lines` rows. The last line then tells of the rows that have none."""
    if not rows:
        return Part(fitted(columns, (), width), "none yet")
    if len(rows) <= lines:
        return Part(fitted(columns, in_order, width), "")
    shown = rows[: max(0, lines - 1)]
    rest = rows[len(shown) :]
    return Part(fitted(columns, shown, width), f"and {len(rest)} more: {rest_of(rest)}")


def _rest_of_handlers(rows: Sequence[Row]) -> str:
    per_s = sum(row["ended_per_s"] or 0.0 for row in rows)
    in_flight = sum(row["in_flight"] for row in rows)
    dead = sum(row["dead_letters"] or 0 for row in rows)
    return f"{rate(per_s)} messages a second, {count(in_flight)} running, {count(dead)} dead letters"


def _rest_of_workers(rows: Sequence[Row]) -> str:
    ready = sum(row["state"] == "ready" for row in rows)
    cpu = sum(row["cpu"] or 0.0 for row in rows)
    return f"{ready} ready, {count(sum(row['in_flight'] for row in rows))} messages running, {cpu:.0%} CPU"
