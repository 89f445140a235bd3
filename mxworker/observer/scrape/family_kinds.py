"""Families of metrics of each kind, made of values. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from mxworker.board.metric_values import Histogram
from mxworker.board.metrics_layout import BOUNDS_S

_LE = (*(str(float(bound)) for bound in BOUNDS_S), "+Inf")

Kind = type[CounterMetricFamily] | type[GaugeMetricFamily] | type[HistogramMetricFamily] | type[InfoMetricFamily]
Labels = tuple[str, ...]
"""The values of labels, in the order of their names."""
Value = float | Histogram


@dataclass(frozen=True, slots=True)
class Family:
    """A family of metrics, with its values by the values of its labels. `labels` has their names, separated by spaces.

    No two values have the same labels.
    """

    kind: Kind
    name: str
    text: str
    labels: str
    values: Sequence[tuple[Labels, Value]]

    def metric(self) -> Metric:
        """Return the family as prometheus_client knows it."""
        family = self.kind(self.name, self.text, labels=self.labels.split())
        for labels, value in self.values:
            match family:
                case HistogramMetricFamily():
                    assert isinstance(value, Histogram)
                    family.add_metric(labels, list(zip(_LE, accumulate(value.counts), strict=True)), value.sum_s)
                case InfoMetricFamily():
                    family.add_metric(labels, {})
                case _:
                    assert not isinstance(value, Histogram)
                    family.add_metric(labels, value)
        return family


def numbers(value: Value) -> Sequence[float]:
    """Return the numbers of the samples that `Family.metric` has for a value."""
    if isinstance(value, Histogram):
        counts = list(accumulate(value.counts))
        return (*counts, counts[-1], value.sum_s)
    return (value,)


def sums(counts: Iterable[tuple[Labels, int]]) -> Iterable[tuple[Labels, float]]:
    """Return the sums of counts with the same labels."""
    found: defaultdict[Labels, int] = defaultdict(int)
    for labels, count in counts:
        found[labels] += count
    return found.items()


def sum_of(histograms: Iterable[Histogram]) -> Histogram:
    """Return one histogram of the values of all."""
    return sum(histograms, Histogram())


def counter(name: str, text: str, labels: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """Return a counter with its values by the values of its labels; its name gets `_total`."""
    return Family(CounterMetricFamily, name, text, labels, list(values))


def gauge(name: str, text: str, labels: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """Return a gauge with its values by the values of its labels."""
    return Family(GaugeMetricFamily, name, text, labels, list(values))


def total(name: str, text: str, values: Iterable[float]) -> Family:
    """Return a gauge without labels that is the sum of these values."""
    return Family(GaugeMetricFamily, name, text, "", [((), sum(values))])


def histogram(name: str, text: str, labels: str, values: Iterable[tuple[Labels, Histogram]]) -> Family:
    """Return a histogram with its values by the values of its labels."""
    return Family(HistogramMetricFamily, name, text, labels, list(values))


def info(name: str, text: str, label: str, fact: str) -> Family:
    """Return a series that is 1 and has a fact as its label; its name gets `_info`."""
    return Family(InfoMetricFamily, name, text, label, [((fact,), 1)])
