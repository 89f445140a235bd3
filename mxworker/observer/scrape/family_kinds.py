"""Families of metrics of each kind, made of values. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mxworker.board.metric_values import Histogram
from mxworker.board.metrics_layout import BOUNDS_S

_LE = (*(str(float(bound)) for bound in BOUNDS_S), "+Inf")

Labels = tuple[str, ...]
"""The values of labels, in the order of their names."""


def sums(counts: Iterable[tuple[Labels, int]]) -> Iterable[tuple[Labels, float]]:
    """Return the sums of counts with the same labels."""
    found: defaultdict[Labels, int] = defaultdict(int)
    for labels, count in counts:
        found[labels] += count
    return found.items()


def sum_of(histograms: Iterable[Histogram]) -> Histogram:
    """Return one histogram of the values of all."""
    return sum(histograms, Histogram())


def counter(name: str, text: str, labels: str, values: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a counter with its values by the values of its labels; its name gets `_total`."""
    family = CounterMetricFamily(name, text, labels=labels.split())
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def gauge(name: str, text: str, labels: str, values: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a gauge with its values by the values of its labels."""
    family = GaugeMetricFamily(name, text, labels=labels.split())
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def total(name: str, text: str, values: Iterable[float]) -> Metric:
    """Return a gauge without labels that is the sum of these values."""
    return GaugeMetricFamily(name, text, sum(values))


def histogram(name: str, text: str, labels: str, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """Return a histogram with its values by the values of its labels."""
    family = HistogramMetricFamily(name, text, labels=labels.split())
    for label_values, value in values:
        family.add_metric(label_values, list(zip(_LE, accumulate(value.counts), strict=True)), value.sum_s)
    return family
