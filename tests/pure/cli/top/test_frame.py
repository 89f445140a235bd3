"""What `mxworker top` shows where there is little room: the most important first, and nothing that does not fit."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from mxworker.cli.top.columns import HANDLERS, WORKERS, fitted
from mxworker.cli.top.figures import count, duration, rate, size
from mxworker.cli.top.frame import Frame, Silence, frame
from mxworker.cli.top.screen import drawn, plain
from mxworker.observer.overview.overview import overview
from tests.harness.hostile_text import HOSTILE, hidden_in
from tests.harness.service_facts import STATES, consumer, later, load, renamed, service, worker

SIZES = [(80, 24), (160, 50), (60, 15), (40, 10)]


def many() -> dict[str, Any]:
    """Return a view of 120 handlers and 64 workers; handler 77 is the busiest, and worker 9 is dying."""
    busy = load()

    def metrics_at(second: int) -> Any:
        rows = [consumer(f"queue-{n:03}", f"handle_{n}", {"ack": second * (900 if n == 77 else 5)}) for n in range(120)]
        return replace(busy.metrics, consumers=tuple(rows))

    workers = [worker(slot) for slot in range(1, 65)]
    workers[8] = worker(9, state="killing", consuming="vacant")
    return overview(later(busy, service(*workers), metrics_at, 20))


VIEWS = {name: lambda facts=facts: overview(facts()) for name, facts in STATES.items()} | {"many": many}


def on_screen(shown: Frame, width: int, height: int, **how: Any) -> list[str]:
    """Return the lines that a terminal would show."""
    written = io.StringIO()
    Console(file=written, width=width, height=height, color_system=None, **how).print(drawn(shown))
    return written.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_everything_fits_and_the_most_important_is_there(name: str, width: int, height: int) -> None:
    view = VIEWS[name]()
    lines = on_screen(frame(view, width, height, foot="q quits."), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert view["service"]["name"] in lines[0]
    assert " ".join(text.split()).find(view["state"]["text"][: width // 2]) > 0
    headings = next(line for line in lines if line.startswith("QUEUE")).split()
    assert {"QUEUE", "RUN"} <= set(headings)
    assert any(line.startswith("WORKER") for line in lines) == (height >= 14)


def test_at_80_columns_the_columns_are_those_that_matter() -> None:
    lines = on_screen(frame(overview(load()), 80, 24), 80, 24)
    headings = " ".join(next(line for line in lines if line.startswith("QUEUE")).split())
    for heading in ("5 s", "1 min", "p50", "p95", "RUN", "AGE", "READY", "RETRY", "DEAD", "FAILED"):
        assert heading in headings
    headings = " ".join(next(line for line in lines if line.startswith("WORKER")).split())
    for heading in ("PID", "STATE", "UP", "RUN", "5 s", "CPU", "MEM", "LAG", "RESTARTS"):
        assert heading in headings


def test_at_200_columns_all_are_there() -> None:
    lines = on_screen(frame(overview(load()), 200, 50), 200, 50)
    headings = next(line for line in lines if line.startswith("QUEUE"))
    assert [column.heading for column in HANDLERS if not column.only_when_said and column.heading not in headings] == []


def test_depths_that_are_old_are_not_shown_as_the_present_ones() -> None:
    busy = load()
    view = overview(replace(busy, now_unix_s=busy.now_unix_s + 120))
    for heading in ("READY", "RETRY", "DEAD"):
        (column,) = (column for column in HANDLERS if column.heading == heading)
        assert {column.cell(row).text for row in view["queues"]} == {"-"}


@pytest.mark.parametrize("width", range(20, 200, 7))
def test_columns_go_by_their_rank(width: int) -> None:
    view = overview(load())
    for columns, rows in ((HANDLERS, view["queues"]), (WORKERS, view["workers"])):
        all_of_them = [column for column in columns if not column.only_when_said]
        kept = fitted(columns, rows, width).columns
        worst_kept = max(column.rank for column in kept)
        dropped = [column for column in all_of_them if column not in kept]
        assert all(column.rank >= worst_kept for column in dropped)
        assert [column for column in all_of_them if column in kept] == list(kept)


def test_handlers_that_do_not_fit_are_counted_and_the_busiest_are_shown() -> None:
    lines = on_screen(frame(many(), 80, 24), 80, 24)
    assert sum(line.startswith("queue-") for line in lines) < 20
    assert any(line.startswith("queue-077") for line in lines)
    shown = sum(line.startswith("queue-") for line in lines)
    (rest,) = [line for line in lines if "messages a second" in line and line.startswith("and ")]
    assert rest.startswith(f"and {120 - shown} more: {(119 - (shown - 1)) * 5} messages a second")


def test_long_names_are_cut_in_the_middle() -> None:
    names = [f"warehouse.events.of.the.north.number.{number}" for number in range(10, 14)]
    view = overview(load())
    view["queues"] = [{**view["queues"][0], "queue": name} for name in names]
    lines = on_screen(frame(view, 80, 24), 80, 24)
    rows = [line.split()[0] for line in lines if line.startswith("ware")]
    assert len(rows) == 4
    assert [row[-2:] for row in rows] == ["10", "11", "12", "13"]
    assert all(len(row) <= 20 for row in rows)


def test_workers_in_trouble_are_shown_before_the_others() -> None:
    lines = on_screen(frame(many(), 80, 24), 80, 24)
    first = lines[next(number for number, line in enumerate(lines) if line.startswith("WORKER")) + 1]
    assert first.split()[:1] == ["9"]
    assert "killing" in first
    assert any(line.startswith("and ") and line.endswith("CPU") for line in lines)


def test_no_row_is_left_out_where_all_fit() -> None:
    view = many()
    lines = on_screen(frame(view, 160, 250), 160, 250)
    assert sum(line.startswith("queue-") for line in lines) == 120
    assert not any(line.startswith("and ") for line in lines)


def test_silence_is_said_first_and_the_old_figures_stay() -> None:
    silence = Silence(75, "no service answers at /run/shop.sock: Connection refused.")
    lines = on_screen(frame(overview(load()), 80, 24, silence), 80, 24)
    assert lines[1].startswith("NO ANSWER for 1m15s: no service answers at /run/shop.sock: Connection")
    assert any(line.startswith("orders") for line in lines)
    assert not any(line.startswith("Working") for line in lines)


@pytest.mark.parametrize("name", VIEWS)
def test_plain_text_has_all_rows_and_no_control_characters(name: str) -> None:
    view = VIEWS[name]()
    text = plain(frame(view, None, None))
    assert text.replace("\n", "").isprintable()
    for row in view["queues"]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"{row['queue']} ")]
        cells = line.split()
        assert count(row["outcomes"]["ack"]) in cells
        assert f"{count(row['in_flight'])}/{count(row['slots'])}" in cells
    workers = text[text.index("WORKER") :].splitlines()[1:]
    assert sorted(int(line.split()[0]) for line in workers) == [row["slot"] for row in view["workers"]]


def test_names_of_others_cannot_move_the_cursor() -> None:
    view = overview(renamed(load(), HOSTILE))
    for width, height in SIZES:
        lines = on_screen(frame(view, width, height), width, height)
        assert hidden_in("".join(lines)) == set()
        assert len(lines) <= height


def test_colors_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    written = io.StringIO()
    Console(file=written, width=80, height=24, force_terminal=True).print(
        drawn(frame(overview(STATES["degraded"]()), 80, 24))
    )
    assert "\x1b[31m" not in written.getvalue()
    assert "\x1b[33m" not in written.getvalue()
    assert ";31m" not in written.getvalue()


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (count(None), "-"),
        (count(99_999), "99,999"),
        (count(100_000), "100k"),
        (count(1_250_000), "1.2M"),
        (count(250_000_000), "250M"),
        (rate(0.0), "0"),
        (rate(0.01), "<0.1"),
        (rate(3.14), "3.1"),
        (rate(1234.5), "1,234"),
        (duration(None), "-"),
        (duration(0), "0ms"),
        (duration(0.0012), "1.2ms"),
        (duration(0.5), "500ms"),
        (duration(1.5), "1.5s"),
        (duration(59.7), "1m00s"),
        (duration(3_599.9), "1h00m"),
        (duration(400_000), "4d15h"),
        (size(None), "-"),
        (size(58_300_000), "58MB"),
        (size(1_250_000_000), "1.2GB"),
    ],
)
def test_figures_are_short(shown: str, text: str) -> None:
    assert shown == text
