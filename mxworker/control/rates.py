"""Rates and distributions over the last seconds and minutes, from looks at counters that only grow.

A counter goes down, or starts anew, only when its service was restarted. So a value below the one before counts in
full, and so does each value of another service process. Nothing is subtracted across a restart.

Pure: each look brings its time. Invariants:
- `Rates` keeps about a hundred looks at most: their distance grows with their age, to a twelfth of it.
- A rate is taken over the time between the two looks that it compares, not over the window that was asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from operator import gt, sub

WINDOWS_S = (5.0, 60.0, 300.0)
"""The windows that people are shown: 5 seconds, 1 minute, 5 minutes."""

_LOOKS_PER_AGE = 12  # the distance of two looks of the age of a minute is about 5 s

Histogram = tuple[float, ...]
"""The numbers of a histogram, each of which only grows: a count for each bucket, and possibly the sum of the values."""


@dataclass(frozen=True, slots=True)
class Look:
    """The counters and histograms of a service at one time.

    `at` is the time in monotonic seconds. `service` differs when the counters have started anew: the pid and the start
    of the service's master.
    """

    at: float
    service: Hashable
    counters: Mapping[Hashable, float]
    histograms: Mapping[Hashable, Histogram] = field(default_factory=dict)


class Rates:
    """What has happened in the last seconds and minutes, by the looks that were added."""

    def __init__(self, longest_s: float = WINDOWS_S[-1]) -> None:
        """`longest_s` is the longest window that will be asked for."""
        self._longest_s = longest_s
        self._latest: Look | None = None
        self._sums: list[Look] = []  # the newest last; their numbers are sums over all restarts so far

    def add(self, look: Look) -> None:
        """Take the next look. Its time must be later than that of the look before."""
        if self._latest is None:
            self._sums.append(look)
        else:
            self._sums.append(_summed(self._sums[-1], self._latest, look))
        self._latest = look
        self._sums = _thinned(self._sums, look.at, self._longest_s)

    def span_s(self, window_s: float) -> float:
        """Return the time over which figures for this window are taken; 0 as long as there is only one look.

        It is shorter than the window as long as the looks do not reach back that far.
        """
        return self._sums[-1].at - self._base(window_s).at if self._sums else 0.0

    def per_s(self, counter: Hashable, window_s: float) -> float | None:
        """Return the growth of a counter in one second; None when it is unknown, or there is only one look."""
        span_s = self.span_s(window_s)
        if not span_s or counter not in self._sums[-1].counters:
            return None
        return (self._sums[-1].counters[counter] - self._base(window_s).counters.get(counter, 0)) / span_s

    def grown(self, histogram: Hashable, window_s: float) -> Histogram | None:
        """Return what was added to a histogram; None when it is unknown, or there is only one look."""
        if not self.span_s(window_s) or histogram not in self._sums[-1].histograms:
            return None
        latest = self._sums[-1].histograms[histogram]
        return _difference(latest, self._base(window_s).histograms.get(histogram, ()))

    def _base(self, window_s: float) -> Look:
        """Return the newest look that is as old as the window, or else the oldest one."""
        latest_at = self._sums[-1].at
        return next((look for look in reversed(self._sums) if latest_at - look.at >= window_s), self._sums[0])


def _summed(sums: Look, before: Look, look: Look) -> Look:
    """Return the sums at `look`. A number that was unknown at the look before was 0 then."""
    is_same = look.service == before.service
    counters = dict(sums.counters)
    for name, value in look.counters.items():
        earlier = before.counters.get(name, 0) if is_same else 0
        counters[name] = counters.get(name, 0) + value - (earlier if value >= earlier else 0)
    histograms = dict(sums.histograms)
    for name, values in look.histograms.items():
        growth = _difference(values, before.histograms.get(name, ()) if is_same else ())
        histograms[name] = tuple(total + more for total, more in zip(_filled(sums, name, values), growth, strict=True))
    return Look(look.at, look.service, counters, histograms)


def _filled(sums: Look, name: Hashable, values: Histogram) -> Histogram:
    """Return the sums of a histogram, or zeros for a new one. Another version of the service may have other buckets."""
    total = sums.histograms.get(name, ())
    return total if len(total) == len(values) else (0,) * len(values)


def _difference(values: Histogram, earlier: Histogram) -> Histogram:
    """Return the growth from `earlier` to `values`. When any number went down, all started anew."""
    if len(earlier) != len(values) or any(map(gt, earlier, values)):
        return values
    return tuple(map(sub, values, earlier))


def _thinned(looks: list[Look], now: float, longest_s: float) -> list[Look]:
    """Return the looks that are kept: of those closer to each other than a twelfth of their age, only the older one.

    One look that is older than the longest window is kept as its beginning.
    """
    kept: list[Look] = []
    for look, following in zip(looks, [*looks[1:], None], strict=True):
        if following is not None and now - following.at >= longest_s:
            continue
        is_close = kept and look.at - kept[-1].at < (now - look.at) / _LOOKS_PER_AGE
        if following is None or not is_close:
            kept.append(look)
    return kept
