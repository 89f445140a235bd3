"""Views that tests make: a service with two workers that has done a little of everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mxworker.board.metric_values import (
    ConsumerMetrics,
    ExchangeMetrics,
    Histogram,
    ProcessMetrics,
    QueueFacts,
    ServiceMetrics,
)
from mxworker.board.metrics_layout import OUTCOMES, PUBLISH_OUTCOMES
from mxworker.control.status import ServiceStatus, WorkerStatus
from mxworker.observer.overview.view import View
from tests.harness import service_facts


def worker(slot: int = 1, **changed: Any) -> WorkerStatus:
    facts = {"pid": 1000 + slot, "uptime_s": 60.0, "rss_bytes": 50_000_000, "heartbeat_age_s": 0.25}
    return service_facts.worker(slot, **{**facts, **changed})


def service(**changed: Any) -> ServiceStatus:
    facts = {
        "name": "shop",
        "version": "1.2.3",
        "pid": 1000,
        "started_at_unix_s": 1_700_000_000.0,
        "uptime_s": 60.0,
        "log_level": "info",
        "links": (),
        "restarts": {"crash": 3, "reload": 0},
        "reloads": {"done": 1, "refused": 0},
    }
    return service_facts.service(worker(1), worker(2), **{**facts, **changed})


def consumer(queue: str = "orders", handler: str = "order", **changed: Any) -> ConsumerMetrics:
    facts = ConsumerMetrics(
        queue=queue,
        handler=handler,
        outcomes={name: number for number, name in enumerate(OUTCOMES, 1)},
        failures={"ValueError": 4, "other": 1},
        failed_at={"ValueError": 1_700_000_000.0},
        redelivered=6,
        bytes_received=700,
        duration=Histogram.of(0.001, 0.3, 1000),
        wait=Histogram.of(0.002),
        age=Histogram.of(0.2),
        end_to_end=Histogram.of(0.4),
        busy_s=12.5,
        slots=32,
        in_flight=3,
        prefetched=2,
        stuck=1,
        paused=0,
        is_paused=False,
        last_delivery_unix_s=1_700_000_001.5,
        objective_s=60.0,
        consuming=2,
    )
    return replace(facts, **changed)


def process(slot: int = 1, **changed: Any) -> ProcessMetrics:
    facts = ProcessMetrics(
        slot=slot,
        outcomes=dict.fromkeys(OUTCOMES, 0),
        busy_s=0.0,
        slots=32,
        in_flight=0,
        prefetched=0,
        stuck=0,
        loop_lag_s=0.01,
        rss_bytes=50_000_000,
        cpu_s=1.5,
        log_lines_dropped=2,
        publish_in_flight=5,
        publish_waiting_for={"window": 1, "same id": 2},
        is_publish_blocked=slot == 1,
        connections={("consume", "active"): 1, ("publish", "idle"): 1},
        channels={("consume", "active"): 2},
        borrowed_channels=1,
        reconnects={"lost": 1, "closed by broker": 0},
        pool_wait=Histogram.of(0.01),
        confirm_duration=Histogram.of(0.004),
    )
    return replace(facts, **changed)


def metrics(**changed: Any) -> ServiceMetrics:
    facts = ServiceMetrics(
        consumers=(consumer(), consumer("mail", "send")),
        exchanges=(ExchangeMetrics("shop", dict.fromkeys(PUBLISH_OUTCOMES, 9), 900),),
        processes=(process(1), process(2)),
        queues=(QueueFacts("orders", 10, 2, 3, 4, None, 1_700_000_000.0),),
    )
    return replace(facts, **changed)


def view(**changed: Any) -> View:
    facts = View(now_unix_s=1_700_000_060.0, now_s=60.0, metrics=metrics(), service=service(), told_s_ago=0.5)
    return replace(facts, **changed)
