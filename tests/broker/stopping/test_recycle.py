"""Workers that are replaced because they have lived long enough: nothing is lost or done twice, and nothing leaks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.broker.apps import Recorded
from tests.broker.load import counted_consumers, publishing
from tests.harness.processes import Process, children, zombies
from tests.harness.service import Service
from tests.harness.waiting import wait_until

WORKERS = 4
MESSAGES = 20  # that a worker settles, up to a tenth more or less
RESPAWNED = "EMPTY -> STARTING (recycle)"
AS_PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
ORPHANS = 3  # that a handler leaves, each fiftieth time
MORE_RSS_KB = 4096  # what the allocator may take for itself; a kilobyte for each of 2,000 workers would be less

LEAVING_ORPHANS = """
    import os
    import subprocess

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(Queue(os.environ["QUEUE"], type="quorum"), concurrency=int(os.environ["CONCURRENCY"]))
    async def record(message_id: str) -> None:
        ledger.start(message_id)
        if os.environ["ORPHANS"] == "yes" and message_id.endswith(("00", "50")):
            subprocess.run(["sh", "-c", "sleep 0.2 & sleep 0.1 & sleep 0.1 &"], check=True)
        ledger.finish(message_id)
"""

HOARDING = """
    import os

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    hoard = []


    @handlers.consume(Queue(os.environ["QUEUE"], type="quorum"))
    async def record(message_id: str) -> None:
        ledger.start(message_id)
        hoard.append(b"x" * 40_000_000)
        ledger.finish(message_id)
"""


def unshared() -> tuple[str, ...]:
    """Return the command that runs another one as PID 1 of a namespace of its own; skip where that is forbidden."""
    tried = subprocess.run([*AS_PID_1, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"NOT run as PID 1: {tried.stderr.strip()}")
    return AS_PID_1


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def status(pid: int, field: str) -> int:
    """Return a number from proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


@pytest.mark.parametrize("as_pid_1", [False, True], ids=["child", "pid-1"])
def test_replacements_under_load_cost_neither_a_message_nor_capacity_and_leave_nothing_behind(
    as_pid_1: bool, recorded: Recorded, broker_url: str, scale: Callable[[int, int], int]
) -> None:
    respawns = scale(100 if as_pid_1 else 200, 2_000)
    prefix = unshared() if as_pid_1 else ()
    flags = (f"--workers={WORKERS}", f"--max-messages={MESSAGES}", "--log-level=debug")
    env = {"ORPHANS": "yes" if as_pid_1 else "no"}
    with recorded.service(*flags, concurrency=8, source=LEAVING_ORPHANS, env=env, prefix=prefix) as service:
        service.wait_ready()
        master = children(service.pid)[0] if as_pid_1 else Process.find(service.pid)
        assert master is not None
        with counted_consumers(broker_url, recorded.queue) as counts, publishing(broker_url, recorded, 20, 0.05):
            wait_until(lambda: respawned(service) > respawns // 10, 300, "the first replacements")
            files, rss_kb = open_files(master.pid), status(master.pid, "VmRSS")
            while respawned(service) < respawns:
                assert status(master.pid, "Threads") == 1
                assert service.exit_code is None
                counted = len(counts)
                wait_until(lambda counted=counted: len(counts) > counted + 10, 10, "time to go by")
            assert min(counts) >= WORKERS
            assert open_files(master.pid) == files
            assert status(master.pid, "VmRSS") < rss_kb + MORE_RSS_KB
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 300, "every id")
        wait_until(lambda: not zombies(master.pid), 10, "the reaping of all that ended")
        wait_until(lambda: len(children(master.pid)) == WORKERS, 10, "the end of all but the workers")
        master.signal(SIGTERM)
        assert service.wait_exit() == 0
    report = recorded.judge()
    orphans = ORPHANS * sum(id_.endswith(("00", "50")) for id_ in recorded.ids) if as_pid_1 else 0
    print(f"{respawned(service)} replaced, {orphans} orphans: {report}")
    assert orphans >= (scale(100, 1_000) if as_pid_1 else 0)
    assert report.exactly_once, report


def respawned(service: Service) -> int:
    return service.log_text().count(RESPAWNED)


def test_worker_that_takes_too_much_memory_is_replaced_once(recorded: Recorded) -> None:
    with recorded.service("--workers=1", "--max-rss=180MB", "--log-level=debug", source=HOARDING) as service:
        service.wait_ready()
        before = set(service.worker_pids())
        recorded.publish(8)
        wait_until(lambda: len(recorded.finished_ids) == 8, 10, "all to be handled")
        service.wait_for_event("recycle_wished", 10, why="rss")
        wait_until(lambda: not before & set(service.worker_pids()), 30, "a new worker")
        assert respawned(service) == 1
        service.stop()
        assert service.exit_code == 0
    assert recorded.judge().exactly_once


def test_worker_that_is_old_is_replaced_by_one_that_is_ready(recorded: Recorded, broker_url: str) -> None:
    with recorded.service("--workers=2", "--max-age=2s", "--log-level=debug", work_s=0.01) as service:
        service.wait_ready()
        before = set(service.worker_pids())
        with counted_consumers(broker_url, recorded.queue) as counts, publishing(broker_url, recorded, 20, 0.05):
            wait_until(lambda: not before & set(service.worker_pids()), 10, "two new workers")
        assert min(counts) >= 2
        assert service.events("recycle_wished", why="age")
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 10, "every id")
        service.stop()
        assert service.exit_code == 0
    assert recorded.judge().exactly_once
