"""The replies to probes. Pure."""

from __future__ import annotations

from http import HTTPStatus

from mxworker.control.status import ServiceStatus
from mxworker.observer.http.reply import Reply, text_reply

SILENT_S = 10.0
"""For how long the master may tell nothing, of which it tells something every second, before it counts as stuck."""


def livez(told_s_ago: float) -> Reply:
    """Reply 200 while the master's loop turns, whatever else fails: a restart would mend nothing else."""
    return _verdict("alive", _stuck(told_s_ago))


def readyz(service: ServiceStatus, told_s_ago: float) -> Reply:
    """Reply 200 while enough workers consume."""
    return _verdict("ready", _stuck(told_s_ago) or service.unready_because)


def _stuck(told_s_ago: float) -> str:
    return "" if told_s_ago <= SILENT_S else f"the master has not turned its loop for {told_s_ago:.0f} s"


def _verdict(good: str, why_not: str) -> Reply:
    return text_reply(why_not, HTTPStatus.SERVICE_UNAVAILABLE) if why_not else text_reply(good)
