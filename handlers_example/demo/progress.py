"""How far the demo is, on stderr: one line that changes on a terminal, a line per quarter elsewhere."""

from __future__ import annotations

import sys
from typing import NamedTuple

_BAR_CELLS = 24
_CLEAR_LINE = "\r\x1b[K"


class Count(NamedTuple):
    """Orders sent, handled and refused so far."""

    sent: int
    handled: int
    refused: int

    @property
    def done(self) -> int:
        """How many orders have met their end."""
        return self.handled + self.refused


class Progress:
    """Shows counts as they grow towards `orders`."""

    def __init__(self, orders: int) -> None:
        self._orders = orders
        self._is_terminal = sys.stderr.isatty()
        self._quarters_shown = 0

    def show(self, count: Count) -> None:
        """Show `count`, where there is something new to say."""
        quarters = 4 * count.done // self._orders
        line = f"sent {count.sent:,}   handled {count.handled:,}   refused {count.refused:,}"
        if self._is_terminal:
            cells = _BAR_CELLS * min(count.done, self._orders) // self._orders
            bar = "#" * cells + "." * (_BAR_CELLS - cells)
            print(f"{_CLEAR_LINE}[{bar}] {line}", end="", file=sys.stderr, flush=True)
        elif quarters > self._quarters_shown:
            print(line, file=sys.stderr)
        self._quarters_shown = quarters

    def close(self) -> None:
        """Leave the changing line as it stands."""
        if self._is_terminal:
            print(file=sys.stderr)
