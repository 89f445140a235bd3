"""The metrics of one handler in this process, as they are counted while its deliveries run.

What is counted for each delivery is on the board at once: how many there were, and how many run. The sums of their
times, and bytes, are written at each heartbeat, so that the death of a process costs a second of them. Together this
takes less than 1 us for a delivery, which is why each count is kept here too: to add to a number in shared memory
takes twice as long as to store one. `settling` counts the outcomes.
"""

from __future__ import annotations

import time
from bisect import bisect_left

from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery
from mxworker.board.metric_rows import ConsumerRow
from mxworker.board.metrics_layout import BOUNDS_S, BUCKETS, RowSeconds, RowWord
from mxworker.wire.properties import published_at

# Plain numbers, since they are used for every delivery: on Python 3.11 a member of an enum takes 0.3 us more.
_WAIT, _DURATION, _IN_FLIGHT = int(RowWord.WAIT), int(RowWord.DURATION), int(RowWord.IN_FLIGHT)
_FIRST_BOUND_S = BOUNDS_S[0]
_FLAGS_BYTES = 2
_HAS_HEADERS, _HAS_TIMESTAMP = 0x20, 0x40  # in the first and in the second byte of the flags


class _Times:
    """One histogram: its counts as they are on the board, and the sum of its values, which is written later."""

    __slots__ = ("_added", "_at", "_words", "counts", "sum_s")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at
        self.counts: list[int] = words[at : at + BUCKETS].tolist()
        self.sum_s = 0.0
        """The sum of the values that is not written yet."""
        self._added = self.counts.copy()

    def add(self, value_s: float) -> None:
        """Count a value. A value below 0, from clocks that disagree, counts as 0."""
        bucket = bisect_left(BOUNDS_S, value_s)
        counts = self.counts
        counts[bucket] = count = counts[bucket] + 1
        self._words[self._at + bucket] = count
        if value_s > 0.0:
            self.sum_s += value_s

    def add_to(self, words: memoryview) -> None:
        """Add the counts since the last call to the same histogram in other words."""
        for bucket, (count, added) in enumerate(zip(self.counts, self._added, strict=True)):
            if count != added:
                words[self._at + bucket] += count - added
        self._added = self.counts.copy()


class HandlerMetrics:
    """Counts the deliveries of one handler while they come, start and end."""

    def __init__(self, handler: Handler, row: ConsumerRow) -> None:
        """Count in `row`."""
        self.handler = handler
        self.row = row
        self.received_bytes = 0
        """The bytes of the bodies of all deliveries that came since the last `write`."""
        # Handlers that share the row for all others would overwrite each other's numbers. So they count elsewhere.
        self._is_alone = row.is_own
        words = row.words if self._is_alone else memoryview(bytearray(row.words.nbytes)).cast("Q")
        self.words = words
        """See `RowWord`. Only the histograms and `IN_FLIGHT` are written here."""
        self._waits = _Times(words, _WAIT)
        self._durations = _Times(words, _DURATION)
        self._ages = _Times(words, RowWord.AGE)
        self._ends_to_ends = _Times(words, RowWord.END_TO_END)
        self._wait_counts = self._waits.counts
        self._duration_counts = self._durations.counts
        self._unix_offset_s = time.time() - time.monotonic()
        self._redelivered = 0  # since the last `write`
        self._waited_s = 0.0  # sums that are not written yet
        self._took_s = 0.0
        self._ran_s = 0.0  # of all runs that have ended
        self._busy_s = 0.0  # as it is written

    # ---- called for each delivery

    def begin(self, delivery: Delivery, now: float, in_flight: int) -> None:
        """Count the start of a delivery at the monotonic time `now`; `in_flight` is the number of those that run."""
        words = self.words
        words[_IN_FLIGHT] = in_flight
        waited_s = now - (delivery.received_at or now)
        bucket = 0 if waited_s <= _FIRST_BOUND_S else bisect_left(BOUNDS_S, waited_s)
        counts = self._wait_counts
        counts[bucket] = count = counts[bucket] + 1
        words[_WAIT + bucket] = count
        self._waited_s += waited_s
        raw = delivery.raw_properties
        if len(raw) > _FLAGS_BYTES and (raw[0] & _HAS_HEADERS or raw[1] & _HAS_TIMESTAMP):
            unix_now = now + self._unix_offset_s
            delivery.published_at = published = published_at(raw, unix_now)
            if published:
                self._ages.add(unix_now - published)

    def end_run(self, started_at: float) -> None:
        """Count the run of a handler for a delivery or batch, which began at a monotonic time."""
        took_s = time.monotonic() - started_at
        bucket = 0 if took_s <= _FIRST_BOUND_S else bisect_left(BOUNDS_S, took_s)
        counts = self._duration_counts
        counts[bucket] = count = counts[bucket] + 1
        self.words[_DURATION + bucket] = count
        self._took_s += took_s

    def show_in_flight(self, in_flight: int) -> None:
        """Show how many deliveries run, after one has ended."""
        self.words[_IN_FLIGHT] = in_flight

    def note_success(self, published: float) -> None:
        """Count the ack of a message that was published at a time in seconds since 1970."""
        self._ends_to_ends.add(time.monotonic() + self._unix_offset_s - published)

    def note_redelivered(self) -> None:
        """Count a delivery that the broker may have delivered before."""
        self._redelivered += 1

    # ---- called once a second

    def write(self, running_s: float, has_received: bool) -> None:
        """Write what is not written for each delivery.

        `running_s` is the time that the present runs have taken; `has_received` whether a delivery came since the last
        call.
        """
        words, seconds = self.row.words, self.row.seconds
        self._waits.sum_s, self._durations.sum_s = self._waited_s, self._took_s
        self._waited_s = self._took_s = 0.0
        histograms = (self._waits, self._durations, self._ages, self._ends_to_ends)
        for sum_at, times in enumerate(histograms, RowSeconds.WAIT):
            seconds[sum_at] += times.sum_s
            if times is self._durations:
                self._ran_s += times.sum_s
            times.sum_s = 0.0
            if not self._is_alone:
                times.add_to(words)
        busy_s = max(self._busy_s, self._ran_s + running_s)
        seconds[RowSeconds.BUSY] += busy_s - self._busy_s
        self._busy_s = busy_s
        if has_received:
            words[RowWord.REDELIVERED] += self._redelivered
            self._redelivered = 0
            words[RowWord.BYTES_RECEIVED] += self.received_bytes
            seconds[RowSeconds.LAST_DELIVERY_AT] = time.time()
            self.received_bytes = 0
        self._unix_offset_s = time.time() - time.monotonic()
