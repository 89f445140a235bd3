"""The metrics of a service in the answer to the request `metrics`: as JSON has them, and back.

Each value is an object with the names of its fields. A mapping by two names is a list of triples. A client ignores
fields that it does not know, which a later version of the service may send.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from mxworker.board.metric_values import (
    ConsumerMetrics,
    ExchangeMetrics,
    Histogram,
    ProcessMetrics,
    QueueFacts,
    ServiceMetrics,
)

Value = TypeVar("Value", ConsumerMetrics, ExchangeMetrics, ProcessMetrics, QueueFacts, Histogram)

_BY_ROLE = ("connections", "channels")
_HISTOGRAMS = frozenset({"duration", "wait", "age", "end_to_end", "pool_wait", "confirm_duration"})


def plain(metrics: ServiceMetrics) -> dict[str, Any]:
    """Return metrics as JSON has them."""
    return {
        "consumers": [asdict(consumer) for consumer in metrics.consumers],
        "exchanges": [asdict(exchange) for exchange in metrics.exchanges],
        "processes": [
            {**asdict(process), **{name: _triples(getattr(process, name)) for name in _BY_ROLE}}
            for process in metrics.processes
        ],
        "queues": [asdict(queue) for queue in metrics.queues],
    }


def metrics_of(answer: Mapping[str, Any]) -> ServiceMetrics:
    """Return the metrics that `plain` returned. Raises ValueError when it is none."""
    try:
        return ServiceMetrics(
            consumers=tuple(_value(ConsumerMetrics, each) for each in answer["consumers"]),
            exchanges=tuple(_value(ExchangeMetrics, each) for each in answer["exchanges"]),
            processes=tuple(_process(each) for each in answer["processes"]),
            queues=tuple(_value(QueueFacts, each) for each in answer["queues"]),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no answer to the request for metrics: {error!r}") from None


def _triples(by_role: Mapping[tuple[str, str], int]) -> list[tuple[str, str, int]]:
    return [(role, state, count) for (role, state), count in by_role.items()]


def _process(said: Mapping[str, Any]) -> ProcessMetrics:
    by_role = {name: {(role, state): count for role, state, count in said[name]} for name in _BY_ROLE}
    return _value(ProcessMetrics, {**said, **by_role})


def _value(kind: type[Value], said: Mapping[str, Any]) -> Value:
    """Return a value of a kind from the object that stands for it."""
    known = {field.name: said[field.name] for field in fields(kind)}
    for name in _HISTOGRAMS & known.keys():
        known[name] = Histogram(tuple(known[name]["counts"]), known[name]["sum_s"])
    return kind(**known)
