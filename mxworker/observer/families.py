"""The families of metrics: names, labels and help texts, and their values in a `View`. Pure.

All names begin with `mxworker_`, values are in base units. Labels are the queue, handler, exchange, outcome, slot of a
worker, reason and class of an error, and never anything of a message.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from mxworker.observer.view import View


def families(view: View) -> Iterator[Metric]:
    """Yield all families."""
    yield from _of_service(view)


def _of_service(view: View) -> Iterator[Metric]:
    service = view.service
    build = InfoMetricFamily("mxworker_build", "The version of mxworker.")
    build.add_metric([], {"version": service.version})
    yield build
    up = GaugeMetricFamily("mxworker_worker_up", "Whether the worker in this slot consumes.", labels=["worker"])
    for worker in service.workers:
        up.add_metric([str(worker.slot)], worker.consuming == "ready")
    yield up
