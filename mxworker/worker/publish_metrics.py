"""The metrics of the publishes of a process: how they ended, by exchange, and how long their confirms took.

A count that is as large as a word can be was overwritten, and stays. The master replaces such a process.
"""

from __future__ import annotations

from contextlib import suppress

from mxworker.board.metric_rows import MetricRows, observe
from mxworker.board.metrics_layout import ExchangeWord, ProcessSeconds, ProcessWord
from mxworker.errors import MessageTooLarge, PublishError, PublishNacked, PublishOverflow, Unroutable

# Plain numbers, since they are used for every publish: on Python 3.11 a member of an enum takes 0.3 us more.
_CONFIRMED, _BYTES_SENT = int(ExchangeWord.CONFIRMED), int(ExchangeWord.BYTES_SENT)
_CONFIRM, _CONFIRM_SUM = int(ProcessWord.CONFIRM), int(ProcessSeconds.CONFIRM)


class PublishMetrics:
    """Counts the publishes of one process; see `stats.PublishTally`."""

    def __init__(self, rows: MetricRows) -> None:
        """Count in `rows`."""
        self._rows = rows

    def confirmed(self, exchange: str, body_bytes: int, took_s: float) -> None:
        """Count a publish that the broker has confirmed."""
        rows = self._rows
        try:  # `suppress` would take as long as the rest
            words = rows.exchange(exchange)
            words[_CONFIRMED] += 1
            words[_BYTES_SENT] += body_bytes
            observe(rows.process, _CONFIRM, rows.process_seconds, _CONFIRM_SUM, took_s)
        except ValueError:
            pass

    def failed(self, exchange: str, error: PublishError) -> None:
        """Count a publish that ended in another way."""
        with suppress(ValueError):
            self._rows.exchange(exchange)[_outcome_of(error)] += 1

    def dropped(self, exchange: str) -> None:
        """Count a publish that was dropped at a full window."""
        with suppress(ValueError):
            self._rows.exchange(exchange)[ExchangeWord.DROPPED] += 1


def _outcome_of(error: PublishError) -> ExchangeWord:
    match error:
        case PublishNacked() | MessageTooLarge():
            return ExchangeWord.NACKED
        case Unroutable():
            return ExchangeWord.RETURNED
        case PublishOverflow():
            return ExchangeWord.OVERFLOW
        case _:
            return ExchangeWord.UNCONFIRMED
