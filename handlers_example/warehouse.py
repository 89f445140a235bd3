"""The articles that leave the shelves, in an SQLite file that all worker processes share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from handlers_example.pricing import Order

MAX_PIECES = 500
"""The most pieces that one person can carry to the ramp."""

# A message can come twice; the key makes the second booking of a line do nothing.
_TABLE = """CREATE TABLE IF NOT EXISTS booking
    (order_id TEXT, line INTEGER, article TEXT, quantity INTEGER, PRIMARY KEY (order_id, line)) WITHOUT ROWID"""
_BOOK = "INSERT OR IGNORE INTO booking VALUES (?, ?, ?, ?)"
_WAIT_S = 10  # how long to wait for another process's transaction


def needs_a_truck(order: Order) -> bool:
    """Tell whether an order is too large to be booked automatically."""
    return sum(line.quantity for line in order.lines) > MAX_PIECES


class Warehouse:
    """The bookings. Its methods block; only one thread at a time may use it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def book(self, orders: Iterable[Order]) -> None:
        """Book all lines of all orders in one transaction, which takes a disk no longer than one order."""
        rows = [
            (order.id, number, line.article, line.quantity)
            for order in orders
            for number, line in enumerate(order.lines)
        ]
        with self._connection:
            self._connection.executemany(_BOOK, rows)

    def booked(self) -> set[str]:
        """Return the ids of the orders that were booked."""
        return {order_id for (order_id,) in self._connection.execute("SELECT DISTINCT order_id FROM booking")}


@contextmanager
def opened(path: Path) -> Iterator[Warehouse]:
    """Open the warehouse in the file at `path`, which is created when it is missing."""
    # IMMEDIATE, because a transaction that starts as a reader can fail at its first write, however long it would wait.
    connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level="IMMEDIATE", check_same_thread=False)
    with closing(connection):
        connection.execute(_TABLE)
        yield Warehouse(connection)
