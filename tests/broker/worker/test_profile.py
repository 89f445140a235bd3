"""`mxworker ctl profile` on a service that works: what it names, and that it stops nothing."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP
from typing import Any

import pytest

from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

APP = """
    import asyncio
    import time
    from pathlib import Path

    from mxworker import Handlers, Queue

    handlers = Handlers()
    kept = []
    release = Path("release")


    def crunch(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(200))


    @handlers.consume(Queue("QUEUE", type="classic"), timeout=300)
    async def work(message_id: str) -> None:
        while not release.exists():
            crunch(0.03)
            kept.append(bytearray(100_000))  # it leaks
            await asyncio.sleep(0.005)


    @handlers.consume(Queue("QUEUE.def", type="classic"), timeout=300)
    def work_in_thread(message_id: str) -> None:
        while not release.exists():
            crunch(0.03)


    @handlers.consume(Queue("QUEUE.cpu", type="classic"), cpu=True, timeout=300)
    def work_in_process(message_id: str) -> None:
        Path("computes").touch()
        while not release.exists():
            crunch(0.03)
            kept.append(bytearray(100_000))


    @handlers.consume(Queue("QUEUE.block", type="classic"))
    async def block(message_id: str) -> None:
        Path("blocks").touch()
        while not release.exists():
            crunch(0.05)


    @handlers.consume(Queue("QUEUE.quick", type="classic"))
    async def count(message_id: str) -> None:
        pass
"""


QUEUE = f"profiled-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[Service]:
    """The service that all tests here share; one more profile does it no harm."""
    folder = tmp_path_factory.mktemp("profiled")
    app = write_app(folder, APP.replace("QUEUE", QUEUE))
    command = mxworker_run(app, "--workers=1", "--log-format=json", app_dir=folder)
    with Service(command, folder, env={"MXWORKER_BROKER_URL": broker_url}) as started:
        started.wait_ready()
        yield started
    with Client(broker_url) as client:
        for name in ("", ".def", ".cpu", ".block", ".quick"):
            for side in ("", ".dlq"):
                client.delete(f"{QUEUE}{name}{side}")


@pytest.fixture
def service(running: Service, folder: Path) -> Iterator[Service]:
    """That service, whose handlers work until `release` is there, and end with the test."""
    (folder / "release").unlink(missing_ok=True)
    yield running
    (folder / "release").touch()
    wait_until(lambda: in_flight(running) == 0, 60, "the handlers to see it")


def in_flight(service: Service) -> int:
    status = json.loads(done(service.mxworker("status", "--json")))
    return sum(worker["in_flight"] for worker in status["workers"])


@pytest.fixture
def folder(running: Service) -> Path:
    """Where the service and the commands run."""
    return running.directory


def publish(admin: Client, queue: str, count: int) -> None:
    admin.publish(queue, (json.dumps(str(number)).encode() for number in range(count)))


def done(ended: subprocess.CompletedProcess[str]) -> str:
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_profiles_of_a_busy_worker_name_what_is_hot_and_what_leaks(
    service: Service, admin: Client, folder: Path
) -> None:
    pids = service.worker_pids()
    publish(admin, QUEUE, 1)
    publish(admin, f"{QUEUE}.def", 1)
    shown = done(service.mxworker("ctl", "profile", "--cpu", "2s", "--output", "cpu.json"))
    assert shown.splitlines()[0] == "CPU profile of worker 1: cpu.json"
    assert "crunch" in shown
    document = json.loads((folder / "cpu.json").read_bytes())
    for thread, caller in (("MainThread (event loop)", "work"), ("mxworker-handler_0", "work_in_thread")):
        assert spent_in("crunch", caller, document, thread) > 0.3, "on a busy machine, much is spent in sampling"
    assert stat.S_IMODE((folder / "cpu.json").stat().st_mode) == 0o600

    publish(admin, f"{QUEUE}.quick", 100)
    shown = done(service.mxworker("ctl", "profile", "--memory", "2s", "--output", "leak.txt"))
    assert shown == "Memory profile of worker 1: leak.txt\n"
    first = re.findall(r"^ *[\d,.]+ KiB .*", (folder / "leak.txt").read_text(), re.MULTILINE)[0]
    assert "kept.append(bytearray(100_000))" in first
    wait_until(lambda: admin.counts(f"{QUEUE}.quick").messages == 0, 90, "the handling of other messages")
    (folder / "release").touch()
    status = json.loads(done(service.mxworker("status", "--json")))
    assert [worker["pid"] for worker in status["workers"]] == service.worker_pids() == pids


def spent_in(function: str, caller: str, document: dict[str, Any], thread: str) -> float:
    """Return the share of a thread's CPU time that it spent in a function, called by another at any distance."""
    frames = [frame["name"] for frame in document["shared"]["frames"]]
    [profile] = [profile for profile in document["profiles"] if profile["name"] == thread]
    stacks = [[frames[number] for number in sample] for sample in profile["samples"]]  # outermost first
    spent = {True: 0, False: 0}
    for stack, weight in zip(stacks, profile["weights"], strict=True):
        spent[function in stack and caller in stack[: stack.index(function)]] += weight
    assert sum(spent.values()) == profile["endValue"] > 0
    return spent[True] / profile["endValue"]


def test_processes_of_cpu_handlers_are_profiled_with_their_worker(
    service: Service, admin: Client, folder: Path, scale: Callable[[int, int], int]
) -> None:
    (folder / "computes").unlink(missing_ok=True)
    publish(admin, f"{QUEUE}.cpu", 1)
    wait_until((folder / "computes").exists, 60, "the handler in a process")
    shown = done(service.mxworker("ctl", "profile", "--cpu", "3s", "--output", "processes.json"))
    assert "crunch" in shown.splitlines()[2]
    document = json.loads((folder / "processes.json").read_bytes())
    [ready] = service.events("cpu_process_ready")
    assert "without" not in document["name"]
    thread = f"process {ready['member_pid']} for cpu handlers: MainThread (event loop)"
    assert spent_in("crunch", "handler work_in_process", document, thread) > 0.3
    done(service.mxworker("ctl", "profile", "--memory", "3s", "--output", "leaks.txt"))
    (folder / "release").touch()
    of_worker, of_process = re.split(r"^Memory of ", (folder / "leaks.txt").read_text(), flags=re.MULTILINE)[1:]
    assert "kept.append(bytearray(100_000))" not in of_worker
    assert "kept.append(bytearray(100_000))" in of_process
    if not scale(0, 1):
        return  # the rest takes 5 s; see --full
    os.kill(ready["member_pid"], SIGSTOP)
    done(service.mxworker("ctl", "profile", "--cpu", "0.2s", "--output", "without.json"))
    os.kill(ready["member_pid"], SIGCONT)
    missing = f"without process {ready['member_pid']} for cpu handlers, which gave no profile"
    assert missing in json.loads((folder / "without.json").read_bytes())["name"]


def test_blocked_worker_is_profiled(service: Service, admin: Client, folder: Path) -> None:
    publish(admin, f"{QUEUE}.block", 1)
    wait_until((folder / "blocks").exists, 60, "the handler that blocks")
    done(service.mxworker("ctl", "profile", "--cpu", "3s", "--output", "blocked.json"))
    (folder / "release").touch()
    document = json.loads((folder / "blocked.json").read_bytes())
    names = {document["shared"]["frames"][number]["name"] for number in document["profiles"][0]["samples"][0]}
    assert {"handler block", "block"} <= names


def test_second_profile_and_a_file_that_exists_are_refused_and_ctrl_c_ends_a_profile(
    service: Service, folder: Path
) -> None:
    with profiling(service, folder, "--memory", "60s") as first:
        refused = service.mxworker("ctl", "profile", "--cpu", "1s", "--output", "second.json")
        assert refused.returncode == 1
        assert "a memory profile of worker 1 is being taken" in refused.stderr
        first.send_signal(SIGINT)
        _, errors = first.communicate(timeout=60)
        assert (first.returncode, errors) == (130, "Error: the profile was ended, and nothing was written.\n")
    done(service.mxworker("ctl", "profile", "--cpu", "0.2s", "--output", "third.json"))
    assert (folder / "third.json").exists()
    assert not (folder / "second.json").exists()
    assert not (folder / "first").exists()

    for name, content in (("link", None), ("old", "mine")):
        (folder / name).symlink_to(folder / "elsewhere") if content is None else (folder / name).write_text(content)
        refused = service.mxworker("ctl", "profile", "--cpu", "1s", "--output", name)
        assert (refused.returncode, refused.stderr) == (
            1,
            f"Error: {name} cannot be made: File exists. Name another file with --output.\n",
        )
    assert (folder / "old").read_text() == "mine"
    assert not (folder / "elsewhere").exists()


def test_worker_that_ends_or_stands_still_ends_its_profile_with_an_error(service: Service, folder: Path) -> None:
    [worker] = service.workers()
    with profiling(service, folder, "--cpu", "60s") as first:
        worker.signal(SIGKILL)
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 1
        assert f"worker 1 (process {worker.pid}) ended before its profile was complete" in errors
    assert not (folder / "first").exists()
    [worker] = service.wait_workers(1)
    worker.signal(SIGSTOP)
    refused = service.mxworker("ctl", "profile", "--cpu", "1s")
    worker.signal(SIGKILL)
    assert refused.returncode == 1
    assert f"worker 1 (process {worker.pid}) does not begin the profile" in refused.stderr


class profiling:  # noqa: N801 - used as a function
    """Run `ctl profile`, and wait until the worker has begun, in a thread of its own. It has no cpu process."""

    def __init__(self, service: Service, directory: Path, *options: str) -> None:
        command = [sys.executable, "-m", "mxworker", "ctl", "profile", *options, "--output", "first"]
        env = {**os.environ, "XDG_RUNTIME_DIR": str(service.runtime_directory)}
        [worker] = service.workers()
        self._threads = Path(f"/proc/{worker.pid}/task")
        self._before = self._ids()
        self._popen = subprocess.Popen(command, cwd=directory, env=env, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> subprocess.Popen[str]:
        wait_until(lambda: self._ids() - self._before, 60, "the worker to begin the profile")
        return self._popen

    def _ids(self) -> set[str]:
        return {thread.name for thread in self._threads.iterdir()}

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.wait()
