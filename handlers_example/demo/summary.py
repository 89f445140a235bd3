"""The summary of a run for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handlers_example.demo.accounts import DeadLetter, Ends
from handlers_example.demo.times import Execution, Times

_HOW = {
    "orders": "typed, async",
    "payments": "retries",
    "stock": "batches",
    "invoices": "sync, in threads",
    "labels": "cpu=True",
}
_HEAD = f"  {'queue':<10}{'how':<18}{'handled':>9}{'retried':>9}{'dead':>6}{'p50 ms':>9}{'p95 ms':>9}{'per s':>8}"
_COLUMNS = 80
_NAME_COLUMNS = 23


@dataclass(frozen=True, slots=True)
class Summary:
    """The ends that all orders have met, and the measured times."""

    ends: Ends
    took_s: float
    executions: Sequence[Execution]
    dead_letters: Sequence[DeadLetter]

    def __str__(self) -> str:
        return "\n".join([_HEAD, *self._queues(), "", *self._accounts(), "", *_facts(self._example())])

    def _queues(self) -> Iterator[str]:
        dead = Counter(letter.queue for letter in self.dead_letters)
        for queue, how in _HOW.items():
            times = Times.of(execution for execution in self.executions if execution.queue == queue)
            yield (
                f"  {queue:<10}{how:<18}{times.handled:>9,}{times.retried:>9,}{dead[queue]:>6,}"
                f"{times.median_ms:>9.2f}{times.p95_ms:>9.2f}{times.rate:>8,.0f}"
            )

    def _accounts(self) -> Iterator[str]:
        ends = self.ends
        orders = len(ends.invoiced) + len(ends.unpaid) + len(ends.refused)
        yield f"  {orders:>7,}  orders in {self.took_s:.1f} s, {orders / self.took_s:,.0f} per second"
        yield f"  {len(ends.invoiced):>7,}  paid, each with one invoice and one label"
        yield f"  {len(ends.refused):>7,}  refused, because no second attempt would help: in orders.dlq"
        yield f"  {len(ends.unpaid):>7,}  not paid after 4 attempts: in payments.dlq"
        yield f"  {len(ends.booked):>7,}  booked in stock, but {len(ends.by_truck):,} too large for it: in stock.dlq"

    def _example(self) -> DeadLetter:
        """Return the dead letter with the most attempts."""
        return max(self.dead_letters, key=lambda letter: letter.headers["mx-attempts"])


def _facts(letter: DeadLetter) -> Iterator[str]:
    yield f"  One of the dead letters in {letter.queue}.dlq:"
    body = letter.body.decode("utf-8", "backslashreplace")
    for name, value in [("message id", letter.id), ("body", body), *sorted(letter.headers.items())]:
        line = f"    {name:<{_NAME_COLUMNS}}{value}"
        yield line if len(line) <= _COLUMNS else f"{line[: _COLUMNS - 3]}..."
