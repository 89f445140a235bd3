"""What an application does at the end of its processes is done, once, and by the drain's deadline."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

from tests.harness.processes import Process
from tests.harness.repository import REPOSITORY
from tests.harness.scales import crossed
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

PATIENCE_S = 60.0
TRIES = 3

APP = """
    import atexit
    import gzip
    import io
    import json
    import multiprocessing
    import os
    import threading
    import time
    import weakref
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from pathlib import Path

    from mxworker import Handlers

    handlers = Handlers()
    queue = os.environ["QUEUE"]
    folder = Path(os.environ["FOLDER"])
    what_hangs = os.environ.get("HANGS", "")
    pid = os.getpid()


    def record(what):
        with open(folder / "records", "a") as file:
            file.write(f"{os.getpid()} {what}\\n")


    class Resource:
        pass


    resource = Resource()
    weakref.finalize(resource, record, "finalized")
    atexit.register(record, "atexit")
    text = open(folder / f"{pid}.txt", "w")
    compressed = io.TextIOWrapper(gzip.open(folder / f"{pid}.gz", "wb"))
    executor = ThreadPoolExecutor(1)
    threading.Thread(target=time.sleep, args=(3600,)).start()


    def leave_things(_):
        record("used")
        text.write("written")
        compressed.write("compressed")
        executor.submit(lambda: (time.sleep(0.3), record("executor")))
        if what_hangs == "an executor":
            executor.submit(time.sleep, 3600)
        if what_hangs == "a child of multiprocessing":
            child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(3600,))
            child.start()
            record(f"child {child.pid}")
        if what_hangs == "a callback":
            atexit.register(time.sleep, 3600)
        if what_hangs == "a lock":
            lock = threading.Lock()
            lock.acquire()
            atexit.register(lock.acquire)
        if what_hangs == "nothing, but it fails":
            atexit.register(lambda: 1 / 0)
        if what_hangs == "nothing, but there is a pool":
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            record(f"child {pool.submit(os.getpid).result()}")
            handlers.pool = pool
        if what_hangs == "nothing, but it forks":
            if os.fork() == 0:
                raise SystemExit(0)
            os.wait()


    @handlers.consume(queue + ".def")
    def in_a_thread(body: bytes) -> None:
        leave_things(body)


    @handlers.consume(queue + ".async")
    async def in_the_loop(body: bytes) -> None:
        leave_things(body)


    @handlers.consume(queue + ".cpu", cpu=True)
    def in_a_process(body: bytes) -> None:
        leave_things(body)
"""

KINDS = ("def", "async", "cpu")


class Ending:
    """A service, and what its processes did at their end."""

    def __init__(self, service: Service, queue: str, folder: Path) -> None:
        self.service = service
        self.folder = folder
        self._queue = queue

    def records(self) -> Counter[tuple[int, str]]:
        path = self.folder / "records"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter((int(line.split()[0]), line.partition(" ")[2]) for line in lines)

    def use(self, admin: Client, kind: str) -> int:
        """Have a message handled; return the pid of the process that did it."""
        before = self.records()
        admin.publish(f"{self._queue}.{kind}", [b""])
        wait_until(lambda: admin.counts(f"{self._queue}.{kind}").messages == 0, PATIENCE_S, "the ack")
        used = wait_until(lambda: [key for key in self.records() - before if key[1] == "used"], PATIENCE_S, "a use")
        return used[0][0]

    def assert_all_done(self, pid: int, *left_out: str) -> None:
        done = {what: count for (by, what), count in self.records().items() if by == pid and what != "used"}
        expected = {"executor", "atexit", "finalized"} - set(left_out)
        assert {what: done.get(what) for what in expected} == dict.fromkeys(expected, 1)
        assert (self.folder / f"{pid}.txt").read_text() == "written"
        assert gzip.decompress((self.folder / f"{pid}.gz").read_bytes()) == b"compressed"


@contextmanager
def ending(url: str, folder: Path, queue: str, *flags: str, hangs: str = "") -> Iterator[Ending]:
    env = {"MXWORKER_BROKER_URL": url, "FOLDER": str(folder), "QUEUE": queue, "HANGS": hangs}
    command = mxworker_run(write_app(folder, APP), "--workers=1", *flags, app_dir=folder)
    with Service(command, folder, env=env) as service:
        service.wait_ready()
        yield Ending(service, queue, folder)


def term(run: Ending) -> None:
    run.service.signal(SIGTERM)
    assert run.service.wait_exit(PATIENCE_S) == 0


def cut(run: Ending) -> None:
    run.service.signal(SIGINT)
    run.service.signal(SIGINT)
    assert run.service.wait_exit(PATIENCE_S) in (0, 130)  # 0 when both came as one, or the drain was done by then


def reload(run: Ending) -> None:
    run.service.signal(SIGHUP)


@pytest.mark.parametrize(("end", "kind"), crossed([term, reload], KINDS))
def test_what_the_application_does_at_the_end_is_done_once(
    end: Callable[[Ending], None], kind: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with ending(broker_url, tmp_path, queues) as run:
        worker = Process.find(run.service.worker_pids()[0])
        pid = run.use(admin, kind)
        end(run)
        wait_until(lambda: worker and not worker.is_alive, PATIENCE_S, "the end of the worker")
        run.assert_all_done(pid)
        assert "did not" not in run.service.log_text()


def test_recycled_worker_does_it_too(broker_url: str, queues: str, admin: Client, tmp_path: Path) -> None:
    with ending(broker_url, tmp_path, queues, "--max-messages=1") as run:
        pid = run.use(admin, "async")
        wait_until(lambda: run.service.worker_pids() not in ([pid], []), PATIENCE_S, "the next worker")
        wait_until(lambda: not Process.find(pid), PATIENCE_S, "the end of the first")
        run.assert_all_done(pid)


def test_worker_of_a_burst_does_it_too(broker_url: str, queues: str, admin: Client, tmp_path: Path) -> None:
    with ending(broker_url, tmp_path, queues) as run:  # declares the queue
        run.service.stop()
    admin.publish(f"{queues}.cpu", [b""])
    (tmp_path / "records").unlink(missing_ok=True)
    with ending(broker_url, tmp_path, queues, "--burst") as run:
        assert run.service.wait_exit(PATIENCE_S) == 0
        (member,) = [pid for pid, what in run.records() if what == "used"]
        run.assert_all_done(member)


def test_second_ctrl_c_leaves_time_for_it(broker_url: str, queues: str, admin: Client, tmp_path: Path) -> None:
    with ending(broker_url, tmp_path, queues) as run:
        pid = run.use(admin, "def")
        wait_until(lambda: run.records()[pid, "executor"], PATIENCE_S, "the executor")
        cut(run)
        run.assert_all_done(pid)


@pytest.mark.parametrize(("hangs", "kind"), crossed(["a callback", "a lock", "a child of multiprocessing"], KINDS))
def test_what_hangs_is_cut_off_at_the_deadline(
    hangs: str, kind: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    for number in range(TRIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        with ending(broker_url, folder, queues, "--drain-timeout=2s", hangs=hangs) as run:
            run.use(admin, kind)
            run.service.signal(SIGTERM)
            code = run.service.wait_exit(PATIENCE_S)
            log = run.service.log_text()
            if code == 6 and number < TRIES - 1:  # it came too late to do it itself, as on a busy machine
                assert "has not left by the deadline of its drain" in log
                continue
            assert code == 0
            told = "has not left by the deadline of the drain" if kind == "cpu" else "were not done in time"
            assert told in log
            children = [Process.find(int(what.split()[1])) for _, what in run.records() if what.startswith("child")]
            assert kind == "cpu" or not any(children)
            break


@pytest.mark.parametrize(("how", "kind"), crossed(["fails", "forks", "there is a pool"], KINDS))
def test_what_does_not_hang_does_not_keep_the_rest_from_being_done(
    how: str, kind: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    """A callback raises; a child that was forked before runs none of its parent's; a pool's processes end."""
    hangs = f"nothing, but {'' if how.startswith('there') else 'it '}{how}"
    with ending(broker_url, tmp_path, queues, hangs=hangs) as run:
        worker = run.service.worker_pids()[0]
        pid = run.use(admin, kind)
        term(run)
        run.assert_all_done(pid)
        assert {by for by, _ in run.records()} <= {pid, worker}
        assert not any(Process.find(int(what.split()[1])) for _, what in run.records() if what.startswith("child"))


def test_executor_that_never_ends_does_not_keep_callbacks_from_being_run(
    broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with ending(broker_url, tmp_path, queues, hangs="an executor") as run:
        pid = run.use(admin, "async")
        term(run)
        run.assert_all_done(pid)
        assert "an executor has not finished" in run.service.log_text()


def test_callbacks_of_the_master_are_run_by_the_master_alone(broker_url: str, queues: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import atexit, os, weakref\n"
        "class Thing: pass\n"
        "thing = Thing()\n"
        "def record(what):\n"
        f"    with open({str(tmp_path / 'by')!r}, 'a') as file: print(os.getpid(), what, file=file)\n"
        "atexit.register(record, 'atexit')\n"
        "weakref.finalize(thing, record, 'finalized')\n"
    )
    env = {
        "MXWORKER_BROKER_URL": broker_url,
        "FOLDER": str(tmp_path),
        "QUEUE": queues,
        "PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}",
    }
    command = mxworker_run(write_app(tmp_path, APP), "--workers=2", app_dir=tmp_path)
    with Service(command, tmp_path, env=env) as service:
        service.wait_ready()
        workers = service.worker_pids()
        service.signal(SIGTERM)
        assert service.wait_exit(PATIENCE_S) == 0
        done = Counter((tmp_path / "by").read_text().splitlines())
    assert done == {f"{service.pid} atexit": 1, f"{service.pid} finalized": 1}
    finalized = [line for line in (tmp_path / "records").read_text().splitlines() if "finalized" in line]
    assert sorted(finalized) == sorted(f"{pid} finalized" for pid in workers), "their own, in spite of the master's"


def test_start_that_fails_leaves_time_for_it(broker_url: str, tmp_path: Path) -> None:
    app = """
        import atexit, time
        from pathlib import Path

        atexit.register(Path("done").touch)
        atexit.register(time.sleep, 0.5)
        handlers = None
    """
    command = mxworker_run(write_app(tmp_path, app), "--workers=1", app_dir=tmp_path)
    with Service(command, tmp_path, env={"MXWORKER_BROKER_URL": broker_url}) as service:
        assert service.wait_exit(PATIENCE_S) == 3
        assert "were not done in time" not in service.log_text()
    assert (tmp_path / "done").exists()
