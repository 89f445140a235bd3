"""What the observer knows at an instant; every page, probe and scrape is made of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mxworker.board.metric_values import ServiceMetrics
from mxworker.control.status import ServiceStatus


@dataclass(frozen=True, slots=True)
class View:
    """The service at an instant."""

    now_unix_s: float
    now_s: float
    """The same instant on the monotonic clock."""
    metrics: ServiceMetrics
    service: ServiceStatus
    """What the master told last."""
    told_s_ago: float
    """How long ago that was. The master tells something every second: more than a few seconds mean that it is stuck."""
