"""No process of a service leaves a core: messages and the broker's password would be in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.harness.processes import in_session
from tests.harness.service import Service, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

APP = """
    import multiprocessing
    import os
    import subprocess
    import time
    from pathlib import Path

    from mxworker import Handlers
    from tests.harness.saving import save_by_rename

    handlers = Handlers()
    running = []


    def start_children(kind):
        for method in ("fork", "spawn", "forkserver"):
            child = multiprocessing.get_context(method).Process(target=time.sleep, args=(3600,), daemon=True)
            child.start()
            running.append(child)
        running.append(subprocess.Popen(["sleep", "3600"]))
        pids = [os.getpid(), os.getppid(), *(child.pid for child in running)]
        save_by_rename(Path(kind), " ".join(map(str, pids)))


    @handlers.consume("QUEUE")
    async def order(payload: str) -> None:
        start_children("worker")


    @handlers.consume("QUEUE.cpu", cpu=True)
    def compute(payload: str) -> None:
        start_children("cpu")
"""
WITH_CORES = ("sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh")


def core_limits(pid: int) -> list[str]:
    """Return the soft and the hard limit of the size of a core, as proc(5) shows them."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("Max core file size"))
    return found.split()[4:6]


@pytest.mark.parametrize("name", ["run", "dev"])
def test_no_process_of_a_service_leaves_a_core(
    name: str, broker_url: str, queue_name: str, admin: Client, tmp_path: Path
) -> None:
    """Master, worker, the process for cpu handlers, what each of them starts, and the process that watches files."""
    app = write_app(tmp_path, APP.replace("QUEUE", queue_name))
    command = [*WITH_CORES, sys.executable, "-P", "-m", "mxworker", name, app, "--workers=1"]
    with Service(command, tmp_path, env={"MXWORKER_BROKER_URL": broker_url}) as service:
        service.wait_ready()
        noted: set[int] = {service.pid}
        for kind, queue in (("worker", queue_name), ("cpu", f"{queue_name}.cpu")):
            admin.publish(queue, [b"go"])
            wait_until((tmp_path / kind).exists, 60, f"the children of the {kind}")
            noted |= {int(pid) for pid in (tmp_path / kind).read_text().split()}
        processes = {process.pid for process in in_session(service.pid)}
        assert noted <= processes
        limits = {pid: core_limits(pid) for pid in processes}
        assert set(map(tuple, limits.values())) == {("0", "0")}, limits
    for queue in (f"{queue_name}.cpu", f"{queue_name}.cpu.dlq"):
        admin.delete(queue)
