"""The settings of one process: of the master, and of a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from mxworker.brokers import Brokers
from mxworker.config.bounds import DEFAULT_MAX_BODY_BYTES, DEFAULT_PROCESS_CONCURRENCY, DEFAULT_QUARANTINE_AFTER
from mxworker.config.limits import Limits
from mxworker.config.overrides import AS_IN_CODE, Overrides
from mxworker.config.pool import PoolSettings
from mxworker.config.publisher import PublisherSettings
from mxworker.config.tree import DEFAULTS


@dataclass(frozen=True, slots=True)
class Supervision:
    """The settings of the master. Durations are in seconds. For the values see the leaves of the same names."""

    name: str
    workers: int
    drain_timeout_s: float = DEFAULTS.limits.drain_timeout_s
    heartbeat_timeout_s: float = DEFAULTS.supervision.heartbeat_timeout_s
    boot_timeout_s: float = DEFAULTS.supervision.boot_timeout_s
    burst: bool = False
    quarantine_after: int = DEFAULT_QUARANTINE_AFTER


@dataclass(frozen=True, slots=True)
class Consumption:
    """The settings of a worker. Durations are in seconds. For the values see the leaves of the same names.

    `overrides` replace the values of the handlers in the code, and for a queue in `queue_overrides` its own do.
    `queues` limits the worker to the handlers of those queues; empty means all. With `may_be_insecure`, code that other
    users could change is loaded too.
    """

    app: str
    brokers: Brokers
    app_dir: str | None = None
    may_be_insecure: bool = False
    queues: tuple[str, ...] = ()
    exclude_queues: tuple[str, ...] = ()
    overrides: Overrides = AS_IN_CODE
    queue_overrides: Mapping[str, Overrides] = field(default_factory=dict)
    prefetch_budget_bytes: int = DEFAULTS.concurrency.prefetch_budget_bytes
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    process_concurrency: int = DEFAULT_PROCESS_CONCURRENCY
    drain_timeout_s: float = DEFAULTS.limits.drain_timeout_s
    heartbeat_timeout_s: float = DEFAULTS.supervision.heartbeat_timeout_s
    boot_timeout_s: float = DEFAULTS.supervision.boot_timeout_s
    connect_wait_s: float = DEFAULTS.broker.connect_wait_s
    burst: bool = False
    limits: Limits = field(default_factory=Limits)
    quarantine_after: int = DEFAULT_QUARANTINE_AFTER
    metrics_directory: str | None = None
    """Where the application's own metrics are kept; None when nobody asks for them."""
    pool: PoolSettings = DEFAULTS.pool
    publisher: PublisherSettings = DEFAULTS.publisher
    given: frozenset[tuple[str, ...]] = frozenset()
    """The paths of the leaves that a flag, a variable or a file has given. They count more than the code."""

    def with_code(self, publisher: PublisherSettings | None, pool: PoolSettings | None) -> Consumption:
        """Return the settings with those of the code, where they differ from its defaults and nothing else was given.

        Raises ConfigError when the values do not go together.
        """
        return replace(
            self,
            publisher=self._merged("publisher", publisher, PublisherSettings()),
            pool=self._merged("pool", pool, PoolSettings()),
        )

    def _merged(self, group: Literal["publisher", "pool"], in_code: Any, default: Any) -> Any:
        ours = getattr(self, group)
        if in_code is None:
            return ours
        names = [each.name for each in fields(in_code) if (group, each.name) not in self.given]
        said = {name: getattr(in_code, name) for name in names if getattr(in_code, name) != getattr(default, name)}
        return replace(ours, **said)
