"""How a service is, as it tells it itself: the answer to `status`, and what is read from it.

Pure. The fields are a public interface: they go out as JSON under these names, and later versions only add to them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One slot. What a process has is None while there is none; counts are the slot's, over all its processes."""

    slot: int
    pid: int | None
    state: str
    """The slot's: empty, starting, running, stopping, aborting, killing, backoff."""
    consuming: str
    """The worker's: vacant, booting, connecting, ready, degraded, draining, stopped."""
    reason: str
    """Why the slot is in its state."""
    generation: int
    uptime_s: float | None
    heartbeat_late_s: float | None
    """How long ago the worker should have given a sign of life; 0 when it is in time."""
    rss_bytes: int | None
    in_flight: int
    acked: int
    requeued: int
    retried: int
    rejected: int
    stale: int
    restarts: int
    last_exit: str
    """How the last process here ended, and why; empty when none did."""


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """The last reload. `state` is none, rolling, done or refused.

    `why` tells why it was refused, `note` what the worker said that could not start; both are empty otherwise.
    """

    state: str
    generation: int
    why: str
    note: str


@dataclass(frozen=True, slots=True)
class PausedStatus:
    """What the operator has paused."""

    all: bool
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The whole service."""

    name: str
    version: str
    pid: int
    state: str
    """starting (nothing ever consumed yet), running, or stopping."""
    started_at_unix_s: float
    uptime_s: float
    generation: int
    workers_wanted: int
    workers_ready: int
    unhealthy_because: str
    """Empty when the service is healthy."""
    unready_because: str
    """Empty when the service is ready."""
    reload: ReloadStatus
    paused: PausedStatus
    run_alone: tuple[str, ...]
    """The queues whose messages run alone, because they kill workers."""
    log_level: str
    workers: tuple[WorkerStatus, ...]


def why_unhealthy(is_beyond_repair: bool) -> str:
    """Return why the service needs a restart; empty when it does not: what hangs is replaced, as long as it can be."""
    return "a worker that hangs was killed, and does not end" if is_beyond_repair else ""


def why_unready(state: str, wanted: int, ready: int, all_paused: bool) -> str:
    """Return why no work should be expected of the service; empty when it is ready: all its workers but one consume."""
    if state != "running":
        return f"the service is {state}"
    if all_paused:
        return "all queues are paused"
    needed = max(1, wanted - 1)
    return f"{ready} of {wanted} workers consume" if ready < needed else ""
