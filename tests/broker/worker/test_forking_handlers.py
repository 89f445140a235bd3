"""Processes that handlers fork have nothing of the worker's: neither its signals, nor its sockets, nor its life."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from tests.harness.processes import Process
from tests.harness.scales import crossed
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

PATIENCE_S = 60.0

APP = """
    import asyncio
    import json
    import multiprocessing
    import os
    import signal
    import stat
    import sys
    import threading
    import time
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path

    from mxworker import Handlers

    handlers = Handlers()
    queue = os.environ["QUEUE"]
    path = os.environ["RECORDS"]


    def record(**facts):
        with open(path, "a") as file:
            file.write(json.dumps({"pid": os.getpid(), **facts}) + "\\n")


    def square(number):
        return number * number


    def exits(code):
        sys.exit(code)


    def starts_a_process(method):
        context = multiprocessing.get_context(method)
        process = context.Process(target=time.sleep, args=(3600,))
        process.start()
        process.terminate()
        process.join()
        leaving = context.Process(target=exits, args=(7,))
        leaving.start()
        leaving.join()
        done = context.Process(target=square, args=(7,))
        done.start()
        done.join()
        return [process.exitcode, leaving.exitcode, done.exitcode]


    def maps_over_a_pool(method):
        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map(square, range(4))


    def maps_over_an_executor(method):
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            return list(pool.map(square, range(4)))


    def kinds_of_descriptors():
        kinds = set()
        for fd in range(3, 256):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
                is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
            except OSError:
                continue
            if is_pipe:
                kinds.add("pipe")
            elif "tfd" in Path(f"/proc/self/fdinfo/{fd}").read_text():
                kinds.add("epoll that watches something")
            elif not os.readlink(f"/proc/self/fd/{fd}").endswith("[eventpoll]"):
                kinds.add(target)
        return sorted(kinds - {"/dev/urandom"})


    def shows_its_descriptors(method):
        record(seen=method, descriptors=kinds_of_descriptors())


    def shows_a_process(method):
        process = multiprocessing.get_context(method).Process(target=shows_its_descriptors, args=(method,))
        process.start()
        process.join()
        return process.exitcode


    def shows_a_child(_):
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            ours = {s.name for s in signal.valid_signals() if isinstance(s, signal.Signals)
                    and callable(signal.getsignal(s))}
            record(
                seen="child",
                handled=sorted(ours),
                blocked=[int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
                wakeup=signal.set_wakeup_fd(-1),
                title=Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0").decode(),
                descriptors=kinds_of_descriptors(),
                loop=asyncio.run(asyncio.sleep(0.01, "its own")),
            )
        except BaseException as error:
            record(seen=repr(error))
        os._exit(5)


    def comes_back(how):
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if how == "raises":
            raise ValueError("in the child")
        if how == "exits":
            sys.exit(9)
        return None


    def forks_in_a_thread_that_ends(_):
        pids = []

        def fork():
            pid = os.fork()
            if not pid:
                time.sleep(3600)
            pids.append(pid)

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        time.sleep(0.2)
        is_alive = os.waitpid(pids[0], os.WNOHANG)[0] == 0
        os.kill(pids[0], signal.SIGTERM)
        return [is_alive, os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])]


    def waits_for_a_child(how):
        pid = os.fork()
        if not pid:
            if how == "grandchild":
                if os.fork():
                    time.sleep(3600)
            record(seen="sleeping")
            if how == "exec":
                os.execvp("sleep", ["sleep", "3600"])
            time.sleep(3600)
        time.sleep(3600)


    TASKS = {task.__name__: task for task in (
        starts_a_process, maps_over_a_pool, maps_over_an_executor, shows_a_process, shows_a_child, comes_back,
        forks_in_a_thread_that_ends, waits_for_a_child
    )}


    def perform(order):
        pid = os.getpid()
        result = TASKS[order["task"]](order["how"])
        if os.getpid() == pid:
            record(order=order, result=result)
        return os.getpid() == pid


    @handlers.consume(queue + ".async", retry=None, timeout=300)
    async def in_the_loop(order: dict) -> None:
        if order["task"] == "comes_back" and order["how"] == "awaits":
            pid = os.fork()
            if not pid:
                await asyncio.sleep(0)  # other handlers' turn
                await asyncio.sleep(0)
                record(seen="the child went on")
            record(order=order, result=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        else:
            perform(order)


    @handlers.consume(queue + ".def", retry=None, timeout=300)
    def in_a_thread(order: dict) -> None:
        perform(order)


    @handlers.consume(queue + ".cpu", cpu=True, retry=None, timeout=300)
    def in_a_process(order: dict) -> None:
        perform(order)


    @handlers.consume_batch(queue + ".batch", size=2, retry=None, timeout=300)
    async def in_a_batch(orders: list[dict]) -> None:
        for order in orders:
            if not perform(order):
                return
"""

KINDS = ("async", "def", "cpu", "batch")
METHODS = ("fork", "spawn", "forkserver")


class Forking:
    """The service, and what its handlers have recorded."""

    def __init__(self, service: Service, queue: str, path: Path) -> None:
        self.service = service
        self._queue = queue
        self._path = path

    def order(self, admin: Client, kind: str, task: str, how: str | None = None, count: int = 1) -> None:
        body = json.dumps({"task": task, "how": how}).encode()
        admin.publish(f"{self._queue}.{kind}", [body] * count)

    def records(self) -> list[dict[str, Any]]:
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def results(self, count: int) -> list[Any]:
        def found() -> list[Any]:
            results = [record["result"] for record in self.records() if "result" in record]
            return results if len(results) >= count else []

        return wait_until(found, PATIENCE_S, f"{count} results")

    def seen(self, what: str) -> dict[str, Any]:
        return wait_until(
            lambda: next((record for record in self.records() if record.get("seen") == what), {}), PATIENCE_S, what
        )


def kinds_of(pid: int) -> set[str]:
    return {str(fd.readlink()).partition(":")[0] for fd in Path(f"/proc/{pid}/fd").iterdir()}


@contextmanager
def forking(url: str, folder: Path, queue: str) -> Iterator[Forking]:
    path = folder / "records"
    env = {"MXWORKER_BROKER_URL": url, "RECORDS": str(path), "QUEUE": queue}
    command = mxworker_run(write_app(folder, APP), "--workers=1", app_dir=folder)
    with Service(command, folder, env=env) as service:
        service.wait_ready()
        yield Forking(service, queue, path)
        service.stop()
        assert service.exit_code in (0, -SIGKILL), service.log_text()


@pytest.mark.parametrize(("kind", "method"), crossed(KINDS[:3], METHODS))
def test_multiprocessing_works_in_handlers_and_leaves_the_worker_alone(
    kind: str, method: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    """`terminate` ends the child, exit codes are right, and pools cost no restart.

    Exit codes are asked for alone: each `start()` polls the processes of other threads too, and when two threads poll
    one process at once, `multiprocessing` may report 255 or None.
    """
    count = 20 if method == "fork" else 3
    with forking(broker_url, tmp_path, queues) as run:
        before = run.service.worker_pids()
        run.order(admin, kind, "starts_a_process", method)
        assert run.results(1) == [[-15, 7, 0]]
        run.order(admin, kind, "maps_over_a_pool", method, count)
        run.order(admin, kind, "maps_over_an_executor", method)
        results = run.results(count + 2)
        assert run.service.worker_pids() == before
    assert results[1:] == [[0, 1, 4, 9]] * (count + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_forked_child_has_nothing_of_the_workers(
    kind: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with forking(broker_url, tmp_path, queues) as run:
        run.order(admin, kind, "shows_a_child")
        child = run.seen("child")
        assert run.results(1) == [5]
    assert child["handled"] == ["SIGINT"], "as in any Python program"
    assert (child["blocked"], child["wakeup"]) == ([], -1)
    assert child["title"] == "mxworker: child of worker 1" + (" cpu" if kind == "cpu" else "")
    assert set(child["descriptors"]) <= {"/dev/null", "pipe"}
    assert child["loop"] == "its own"


@pytest.mark.parametrize("kind", KINDS)
def test_process_of_multiprocessing_has_no_socket_of_the_workers(
    kind: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    """One method after another: while a fork server starts, `multiprocessing` has a socket of its own in the worker."""
    with forking(broker_url, tmp_path, queues) as run:
        for done, method in enumerate(METHODS, 1):
            run.order(admin, kind, "shows_a_process", method)
            assert run.results(done) == [0] * done
            assert set(run.seen(method)["descriptors"]) <= {"/dev/null", "pipe"}, method
        assert "socket" in kinds_of(run.service.worker_pids()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_child_that_comes_back_from_the_handler_ends(
    kind: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    """It settles nothing, and runs no other handler. Exit codes are those of any Python program."""
    ways = {"returns": 0, "raises": 1, "exits": 9}
    with forking(broker_url, tmp_path, queues) as run:
        for how in ways:
            run.order(admin, kind, "comes_back", how)
        if kind == "async":
            run.order(admin, kind, "comes_back", "awaits")
        expected = [*ways.values(), *[1] * (kind == "async")]
        assert sorted(run.results(len(expected))) == sorted(expected)
        wait_until(lambda: admin.counts(f"{queues}.{kind}").messages == 0, PATIENCE_S, "the acks")
        assert admin.counts(f"{queues}.{kind}.dlq").messages == 0
        assert run.service.log_text().count("ValueError: in the child") >= 1
    pids = {record["pid"] for record in run.records()}
    assert len(pids) == 1, "the worker's, or that of its process for cpu handlers"


@pytest.mark.parametrize("kind", KINDS[:3])
def test_child_outlives_the_thread_that_forked_it(
    kind: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with forking(broker_url, tmp_path, queues) as run:
        run.order(admin, kind, "forks_in_a_thread_that_ends")
        assert run.results(1) == [[True, -15]]


@pytest.mark.parametrize(("kind", "how"), crossed(KINDS[:3], ["child", "grandchild", "exec"]))
def test_children_of_a_killed_worker_die_with_it_and_its_messages_come_back(
    kind: str, how: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with forking(broker_url, tmp_path, queues) as run:
        run.order(admin, kind, "waits_for_a_child", how)
        first = Process.find(run.seen("sleeping")["pid"])
        assert first is not None
        os.kill(run.service.worker_pids()[0], SIGKILL)
        wait_until(lambda: not first.is_alive, PATIENCE_S, "the end of the child")
        wait_until(lambda: len(run.records()) >= 2, PATIENCE_S, "the second execution")
        os.kill(run.service.pid, SIGKILL)
        children = [Process.find(record["pid"]) for record in run.records()]
        wait_until(lambda: not any(child and child.is_alive for child in children), PATIENCE_S, "the end of all")
