"""What a service may use at most, against the limits of its host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mxworker import Handlers
from mxworker.api.handlers import compile_handlers
from mxworker.brokers import Brokers
from mxworker.cli.check.host import memory
from mxworker.cli.check.totals import Host, Total, channels_of_a_connection, host_findings, size, totals
from mxworker.config.pool import PoolSettings
from mxworker.config.process import Consumption
from mxworker.config.publisher import PublisherSettings

GIB = 1024**3


def application() -> Any:
    handlers = Handlers()

    @handlers.consume("orders", concurrency=10, prefetch=30)
    async def order(payload: dict[str, Any]) -> None: ...

    @handlers.consume("mails", concurrency=4)
    def mail(payload: dict[str, Any]) -> None: ...

    @handlers.consume("labels", cpu=True, concurrency=2)
    def label(payload: bytes) -> None: ...

    return compile_handlers(handlers)


SETTINGS = Consumption(
    app="app",
    brokers=Brokers(()),
    process_concurrency=12,
    prefetch_budget_bytes=GIB,
    pool=PoolSettings(max_connections=5, max_channels=7),
    publisher=PublisherSettings(channels=3, max_in_flight=50),
)


def test_each_maximum_is_given_for_one_worker_and_for_all() -> None:
    found = {each.name: (each.per_worker, each.of_all) for each in totals(application(), SETTINGS, 4)}
    assert found == {
        "connections": (5, 20),
        "channels": (3 + 3 + 3 * 7, 108),
        "unsettled": (30 + 8 + 4, 168),
        "running": (12, 48),  # bounded for the process
        "threads": (4, 16),
        "cpu_processes": (2, 8),
        "publishes": (50, 200),
        "message_memory_bytes": (GIB, 4 * GIB),
        "open_files": (40 + 5 + 8, 212),
    }
    assert channels_of_a_connection(application(), SETTINGS) == 5


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (Host(1024, 16 * GIB, ""), []),
        (Host(None, 16 * GIB, ""), []),
        (Host(52, 16 * GIB, ""), ["open-files-limit"]),
        (Host(1024, 4 * GIB, ""), ["memory-limit"]),
    ],
)
def test_limits_of_the_host(host: Host, names: list[str]) -> None:
    assert [each.name for each in host_findings(totals(application(), SETTINGS, 4), host)] == names


def test_advised_budget_fits() -> None:
    every, host = totals(application(), SETTINGS, 4), Host(1024, 2 * GIB, "")
    (finding,) = host_findings(every, host)
    budget = int(finding.remedy.partition("--prefetch-budget to ")[2].partition("MiB")[0]) * 1024**2
    fitting = [each for each in every if each.name != "message_memory_bytes"]
    fitting.append(Total("message_memory_bytes", "", budget, 4, is_bytes=True))
    assert list(host_findings(fitting, host)) == []


@pytest.mark.parametrize(
    ("number", "text"), [(5, "5 bytes"), (1536, "1.5 KiB"), (256 * 1024**2, "256 MiB"), (GIB, "1 GiB")]
)
def test_sizes_read_as_people_write_them(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("limit", "expected"), [("1073741824", GIB), ("max", None)])
def test_memory_limit_of_a_cgroup_counts(tmp_path: Path, limit: str, expected: int | None) -> None:
    group = tmp_path / "cgroup" / "service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit}\n")
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mountinfo").write_text(f"30 23 0:26 / {tmp_path / 'cgroup'} rw - cgroup2 cgroup2 rw\n")
    (proc / "cgroup").write_text("0::/service\n")
    found, origin = memory(proc)
    assert (found if expected is not None else None) == expected
    assert origin == ("cgroup limit" if expected is not None else "memory of this machine")
