"""What a service may use at most: in each worker, and in all of them, against the limits of the host. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mxworker.api.compilation import Handler, HandlerKind
from mxworker.cli.check.findings import Finding, warning
from mxworker.config.process import Consumption

# Files that a worker has open beside its connections: streams, the event loop, the wakeup pipe, the board, modules.
_OTHER_FILES = 40
_FILES_PER_CPU_PROCESS = 4
_WORKER_BYTES = 31 * 1024**2  # a worker with nothing in flight, before the modules of the application (`make bench`)


@dataclass(frozen=True, slots=True)
class Host:
    """The limits of this host, or of the container that it is."""

    open_files: int | None
    """For each process; None is no limit."""
    memory_bytes: int
    memory_origin: str


@dataclass(frozen=True, slots=True)
class Total:
    """One thing of which there is at most `per_worker` in each worker."""

    name: str
    what: str
    """What it is, for people."""
    per_worker: int
    workers: int
    is_bytes: bool = False

    @property
    def of_all(self) -> int:
        """How much all workers have together."""
        return self.per_worker * self.workers


def totals(handlers: Sequence[Handler], settings: Consumption, workers: int) -> list[Total]:
    """Return what a worker may use at most, with the number of workers."""
    pool, publisher, most = settings.pool, settings.publisher, settings.process_concurrency
    processes = _places(handlers, HandlerKind.PROCESS, most)
    borrowed = (pool.max_connections - 2) * pool.max_channels
    return [
        Total("connections", "connections", pool.max_connections, workers),
        Total("channels", "channels", len(handlers) + publisher.channels + borrowed, workers),
        Total("unsettled", "unsettled messages (prefetch)", sum(each.prefetch for each in handlers), workers),
        Total("running", "handlers at once", min(most, sum(each.concurrency for each in handlers)), workers),
        Total("threads", "threads of def handlers", _places(handlers, HandlerKind.THREAD, most), workers),
        Total("cpu_processes", "processes of cpu=True handlers", processes, workers),
        Total("publishes", "publishes without an outcome", publisher.max_in_flight, workers),
        Total("message_memory_bytes", "memory for messages", settings.prefetch_budget_bytes, workers, is_bytes=True),
        Total(
            "open_files",
            "open files, about",
            _OTHER_FILES + pool.max_connections + processes * _FILES_PER_CPU_PROCESS,
            workers,
        ),
    ]


def channels_of_a_connection(handlers: Sequence[Handler], settings: Consumption) -> int:
    """Return the most channels that one connection of a worker may need: it consumes, publishes, or is borrowed from.

    The one that consumes has one channel for each queue, and one each for looking after them and for their depths.
    """
    return max(len(handlers) + 2, settings.publisher.channels, 1)


def host_findings(every: Sequence[Total], host: Host) -> Iterator[Finding]:
    """Yield the limits of the host that the service may reach."""
    by_name = {total.name: total for total in every}
    files, memory = by_name["open_files"], by_name["message_memory_bytes"]
    if host.open_files is not None and files.per_worker > host.open_files:
        yield warning(
            "open-files-limit",
            "a worker",
            f"may need about {files.per_worker} open files, and this host allows a process {host.open_files}",
            "Raise the limit: ulimit -n, or LimitNOFILE= in a systemd unit; or lower pool.max-connections.",
        )
    needed = memory.of_all + memory.workers * _WORKER_BYTES
    if needed > host.memory_bytes:
        yield warning(
            "memory-limit",
            f"the service of {memory.workers} worker{'s' if memory.workers > 1 else ''}",
            f"may use {size(needed)}, most of it for messages, and there are {size(host.memory_bytes)} "
            f"({host.memory_origin})",
            f"Set --prefetch-budget to {_fitting(host, memory.workers)} or less, or run fewer workers.",
        )


def size(number: int) -> str:
    """Return bytes for people, such as 1.5 GiB."""
    for unit, bytes_per_unit in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if number >= bytes_per_unit:
            return f"{number / bytes_per_unit:.1f}".removesuffix(".0") + f" {unit}"
    return f"{number} bytes"


def _places(handlers: Sequence[Handler], kind: HandlerKind, most: int) -> int:
    return min(most, sum(handler.concurrency for handler in handlers if handler.kind is kind))


def _fitting(host: Host, workers: int) -> str:
    """Return a budget with which the workers fit into two thirds of the memory."""
    budget = (host.memory_bytes * 2 // 3) // workers - _WORKER_BYTES
    return f"{max(1, budget // 1024**2)}MiB"
