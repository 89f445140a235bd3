"""The progress of the demo on stderr: one changing line on a terminal, elsewhere one line for each quarter."""

from __future__ import annotations

import sys

from handlers_example.demo.accounts import Count

_BAR_CELLS = 10  # with the counts of 10,000 orders the line stays below 80 columns
_CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Shows counts as they grow toward `goal`."""

    def __init__(self, goal: Count) -> None:
        self._goal = goal
        self._is_terminal = sys.stderr.isatty()
        self._quarters_shown = 0

    def show(self, count: Count) -> None:
        """Show `count` if the line would be a new one."""
        share = min(1.0, sum(count) / sum(self._goal))
        line = (
            f"sent {count.sent:,}  invoices {count.invoiced:,}  labels {count.labelled:,}  "
            f"booked {count.booked:,}  dead {count.dead_letters:,}"
        )
        if self._is_terminal:
            cells = int(_BAR_CELLS * share)
            bar = "#" * cells + "." * (_BAR_CELLS - cells)
            print(f"{_CLEAR_LINE}[{bar}] {line}", end="", file=sys.stderr, flush=True)
        elif int(4 * share) > self._quarters_shown:
            print(line, file=sys.stderr)
        self._quarters_shown = int(4 * share)

    def close(self) -> None:
        """End the changing line."""
        if self._is_terminal:
            print(file=sys.stderr)
