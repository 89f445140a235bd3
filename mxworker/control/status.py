"""The status of a service: the answer to the request `status`, and whether the service is healthy and ready.

Pure. The fields are a public interface: they appear in JSON under these names, and later versions only add fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One slot. Values of a process are None while the slot has none; counts cover all processes of the slot."""

    slot: int
    pid: int | None
    state: str
    """The state of the slot: empty, starting, running, stopping, aborting, killing or backoff."""
    consuming: str
    """The state of the worker: vacant, booting, connecting, ready, degraded, draining or stopped."""
    reason: str
    """Why the slot is in its state."""
    generation: int
    uptime_s: float | None
    heartbeat_late_s: float | None
    """The seconds by which the worker's heartbeat is late; 0 when it is not late."""
    rss_bytes: int | None
    in_flight: int
    acked: int
    requeued: int
    retried: int
    rejected: int
    undecodable: int
    timed_out: int
    """Deliveries whose handler ran out of time, whatever became of them. They are in no other count."""
    quarantined: int
    stale: int
    restarts: int
    last_exit: str
    """How and why the last process of the slot ended; empty when none has ended."""
    heartbeat_age_s: float | None = None
    """How long ago the event loop of the worker beat; it beats once a second. None while the worker starts."""


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """The last reload. `state` is none, rolling, done or refused.

    For a refused reload, `why` is the reason and `note` the error of the worker that could not start; otherwise both
    are empty.
    """

    state: str
    generation: int
    why: str
    note: str


@dataclass(frozen=True, slots=True)
class PausedStatus:
    """The queues that the operator has paused."""

    all: bool
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The connections of one role that are in the same state for the same reason, each of another worker."""

    role: str
    """consume or publish."""
    state: str
    """up, down, or blocked (the broker takes no publishes)."""
    why: str
    """The broker of a connection that is up, otherwise the reason."""
    workers: int
    since_unix_s: float
    """When the first of them came into this state."""


@dataclass(frozen=True, slots=True)
class UnconsumedStatus:
    """A queue that some workers do not consume although they are connected."""

    queue: str
    state: str
    """paused, waiting (the workers try again by themselves), or stopped (until somebody acts)."""
    why: str
    workers: int
    since_unix_s: float
    """When the first of them came into this state."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The whole service."""

    name: str
    version: str
    pid: int
    state: str
    """starting (no worker has consumed yet), running, or stopping."""
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
    """The queues whose messages run alone, because those messages kill workers."""
    log_level: str
    workers: tuple[WorkerStatus, ...]
    links: tuple[LinkStatus, ...] = ()
    """The connections of the workers to their brokers; at most 32 entries."""
    unconsumed: tuple[UnconsumedStatus, ...] = ()
    """The queues that are not consumed, also those that somebody has paused; at most 64 entries."""
    drain_left_s: float | None = None
    """The seconds that handlers have left in a drain of the whole service; None when there is no such drain."""
    http: str = ""
    """The URL of the status page; empty when no HTTP is served."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """How many workers were followed by another one, by why they ended."""
    reloads: Mapping[str, int] = field(default_factory=dict)
    """How many reloads were done, and how many refused."""


def why_unhealthy(is_beyond_repair: bool) -> str:
    """Return why the service must be restarted; empty as long as the master can replace the workers that hang."""
    return "a hung worker was killed, but its process does not end" if is_beyond_repair else ""


def why_unready(state: str, wanted: int, ready: int, all_paused: bool, cause: str = "") -> str:
    """Return why the service is not ready, empty when it is ready: at most one of its workers does not consume.

    `cause` is what keeps workers from consuming, as far as it is known.
    """
    if state == "stopping":
        return "the service is stopping"
    because = f": {cause}" if cause else ""
    if state != "running":
        return f"the service is {state}{because}"
    if all_paused:
        return "all queues are paused"
    needed = max(1, wanted - 1)
    return f"{ready} of {wanted} workers consume{because}" if ready < needed else ""


def cause_of(links: Sequence[LinkStatus], unconsumed: Sequence[UnconsumedStatus]) -> str:
    """Return what keeps most workers from consuming: no connection, or else a queue; empty when nothing does."""
    down = [link for link in links if link.role == "consume" and link.state == "down"]
    if down:
        return max(down, key=lambda link: link.workers).why
    failed = [queue for queue in unconsumed if queue.state != "paused"]
    return max(failed, key=lambda queue: queue.workers).why if failed else ""
