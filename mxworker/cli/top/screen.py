"""Draws a frame with rich, which no other module imports."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from mxworker.cli.top.columns import Cell, Column, Tone
from mxworker.cli.top.frame import Frame, Line, Part

_STYLES = {
    Tone.PLAIN: Style(),
    Tone.GOOD: Style(color="green"),
    Tone.WARNING: Style(color="yellow"),
    Tone.BAD: Style(color="red", bold=True),
}
_STRONG, _FAINT = Style(bold=True), Style(dim=True)


def drawn(frame: Frame) -> RenderableType:
    """Return the frame for rich to print."""
    pieces: list[RenderableType] = [_line(line) for line in frame.head]
    for part in frame.parts:
        pieces += [Text(), _table(part, frame.is_old)]
        if part.rest:
            pieces.append(_line(Line(part.rest, is_faint=True)))
    if frame.foot is not None:
        pieces.append(_line(frame.foot))
    return Group(*pieces)


def plain(frame: Frame) -> str:
    """Return the frame as text without any control sequence."""
    console = Console(width=_widest(frame), color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(drawn(frame))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _widest(frame: Frame) -> int:
    tables = [sum(part.table.widths) + part.table.gap * len(part.table.widths) for part in frame.parts]
    return max([*tables, *(len(line.text) for line in frame.head), *(len(part.rest) for part in frame.parts), 1])


def _line(line: Line) -> Text:
    style = _STYLES[line.tone]
    if line.is_strong:
        style += _STRONG
    if line.is_faint:
        style += _FAINT
    return Text(line.text, style, no_wrap=True, overflow="ellipsis")


def _table(part: Part, is_old: bool) -> RichTable:
    shown = part.table
    table = RichTable(
        box=None,
        pad_edge=False,
        padding=(0, shown.gap, 0, 0),
        header_style=_STRONG,
        style=_FAINT if is_old else Style(),
        collapse_padding=True,
    )
    for column, width in zip(shown.columns, shown.widths, strict=True):
        table.add_column(
            column.heading,
            width=width,
            no_wrap=True,
            overflow="ellipsis",
            justify="left" if column.is_text else "right",
        )
    for cells in shown.rows:
        table.add_row(*(_cell(cell, column, is_old) for cell, column in zip(cells, shown.columns, strict=True)))
    return table


def _cell(cell: Cell, column: Column, is_old: bool) -> Text:
    style = Style(dim=True) if is_old else _STYLES[cell.tone]
    return Text(cell.text, style, justify="left" if column.is_text else "right", no_wrap=True, overflow="ellipsis")
