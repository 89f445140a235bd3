"""What handlers in processes of their own do to their worker: nothing, whatever they do to themselves."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import cast

import pytest

from mxworker import Ack, Delivery, Publisher, Reject, Retry
from mxworker.api.context import HandlerScope
from mxworker.api.failures import FailureKind
from mxworker.api.message import Content
from mxworker.api.receipts import Confirmed
from mxworker.api.settlement import Settlement
from mxworker.board.layout import ProfileKind
from mxworker.errors import Unroutable
from mxworker.payloads.compression import Compression
from mxworker.worker.cpu import pool as cpu_pool
from mxworker.worker.handling.execution import pipeline
from mxworker.worker.handling.report import Report
from tests.harness.cpu import Cpu, cpu, is_there, recorded
from tests.harness.nowhere import Nowhere
from tests.harness.processes import Process, children
from tests.harness.runners import Channel, at_work, deliveries
from tests.harness.waiting import until, wait_until

SOON_S = 60.0

ENDINGS = """
    import asyncio
    import ctypes
    import os
    import sys

    from mxworker import Ack, Context, Handlers, Reject, Requeue, Retry

    handlers = Handlers()


    @handlers.middleware
    async def refusing(payload, ctx, call_next):
        if payload == "middleware":
            raise Reject("the middleware said so")
        return await call_next(payload, ctx)


    def end(what: str) -> object:
        match what:
            case "None": return None
            case "Ack": return Ack
            case "Requeue": return Requeue()
            case "Retry": return Retry(after=2.5, reason="later")
            case "raised Retry": raise Retry
            case "Reject": raise Reject("never \\ud800")
            case "a number": return 5
            case "ValueError": raise ValueError("no \\udcff good")
            case "KeyError": raise KeyError("refused")
            case "SystemExit": sys.exit("out")
            case "StopIteration": raise StopIteration
            case "CancelledError": raise asyncio.CancelledError


    @handlers.consume("cpu", cpu=True, reject_on=[LookupError], on_error="retry")
    def in_a_process(what: str) -> object:
        return end(what)


    @handlers.consume("async", reject_on=[LookupError], on_error="retry")
    async def in_the_worker(what: str) -> object:
        return end(what)
"""

DYING = """
    import ctypes
    import os
    import threading
    import time

    from mxworker import Handlers, Reject

    handlers = Handlers()


    @handlers.consume("die", cpu=True)
    def die(how: str) -> None:
        if how == "exit":
            os._exit(3)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "leaves a child":
            if os.fork() == 0:
                time.sleep(60)
            os._exit(4)
        if how == "closes all":
            os.closerange(3, 1000)
            time.sleep(60)
        if how == "writes into every socket":
            for fd in range(3, 100):
                try:
                    os.write(fd, b"x" * 20)
                except OSError:
                    pass
        if how.startswith("says "):
            for fd in range(3, 100):
                try:
                    os.write(fd, bytes.fromhex(how[5:]))
                except OSError:
                    pass
            time.sleep(60)


    @handlers.consume("answer and die", cpu=True)
    def answer_and_die(seconds: str) -> None:
        threading.Timer(float(seconds), os._exit, (6,)).start()


    @handlers.consume("pid", cpu=True, concurrency=8, timeout=20)
    def pid(seconds: str) -> None:
        time.sleep(float(seconds))
        raise Reject(str(os.getpid()))


    @handlers.consume("stay", cpu=True)
    def stay(path: str) -> None:
        with open(path, "a") as file:
            print(os.getpid(), file=file)
        time.sleep(60)


    @handlers.consume("loop", cpu=True, concurrency=3, timeout=6, on_error="reject")
    def loop(path: str) -> None:
        with open(path, "a") as file:
            print(os.getpid(), file=file)
        while True:
            pass
"""


async def test_deliveries_end_as_in_the_worker(tmp_path: Path) -> None:
    ways = [
        *("None", "Ack", "Requeue", "Retry", "raised Retry", "Reject", "a number", "ValueError", "KeyError"),
        *("SystemExit", "StopIteration", "CancelledError", "middleware"),
    ]
    async with cpu(tmp_path, ENDINGS, size=1) as app:
        for body in (*map(str.encode, ways), b"\xff"):
            there = await app.execute("cpu", body)
            here = await in_the_worker(app, body)
            assert type(there) is type(here), body
            assert there.failure == here.failure, body
            for name in ("after_s", "reason"):
                assert getattr(there, name, None) == getattr(here, name, None), body


async def in_the_worker(app: Cpu, body: bytes) -> Settlement:
    """Return the settlement that reaches the wire for an `async def` handler."""
    handler = app.handler("async")
    delivery = Delivery(body, b"\0\0", b"\0\0", False, 1, Nowhere())
    report = Report(handler)
    try:
        return await pipeline(handler, report, HandlerScope("async", handler.name))(delivery)
    except asyncio.CancelledError:
        return report.cancelled(timed_out=False)


# ---- what dies


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (b"exit", "its process ended with exit code 3"),
        (b"segfault", "its process ended with SIGSEGV"),
        (b"leaves a child", "its process ended with exit code 4"),
        (b"closes all", "its process ended with SIGKILL"),
    ],
)
async def test_dead_process_costs_its_delivery_and_says_how_it_died(how: bytes, why: str, tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        settlement = await asyncio.wait_for(app.execute("die", how), SOON_S)
        assert isinstance(settlement, Retry)
        assert settlement.failure is not None
        assert (settlement.failure.kind, settlement.failure.text) == (FailureKind.LOST, why)
        assert isinstance(await app.execute("die", b"not"), Ack)


async def test_process_that_writes_into_the_pipe_costs_its_delivery(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        settlement = await asyncio.wait_for(app.execute("die", b"writes into every socket"), SOON_S)
        assert settlement.failure is not None
        assert "wrote into the pipe" in settlement.failure.text
        assert isinstance(await app.execute("die", b"not"), Ack)


def framed(head: bytes, parts: bytes) -> bytes:
    """Return the bytes of a frame whose head may be anything."""
    return struct.pack(">IQ", len(head), len(parts)) + head + parts


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">IQ", 2**31, 0),
        struct.pack(">IQ", 20, 2**62),
        framed(b'["settlement",{},[2]]', b"x"),
        framed(b'["settlement",{},[-1,2]]', b"x"),
        framed(b"[" * 30_000, b""),
        framed(b'["settlement",{"kind":"Reject","reason":5},[]]', b""),
    ],
    ids=["head", "parts", "too few", "negative", "deep", "no text"],
)
async def test_process_that_breaks_the_rules_is_killed_at_once_and_replaced(said: bytes, tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        settlement = await asyncio.wait_for(app.execute("die", b"says " + said.hex().encode()), SOON_S)
        assert settlement.failure is not None
        assert settlement.failure.kind is FailureKind.LOST
        assert "wrote into the pipe to its worker, and was killed" in settlement.failure.text
        assert isinstance(await app.execute("die", b"not"), Ack)


async def test_process_whose_publish_makes_the_publisher_fail_gives_its_place_back(tmp_path: Path) -> None:
    class Failing:
        async def publish(self, body: Content, **route: object) -> Confirmed:
            raise IndexError("of properties that are none")

    async with cpu(tmp_path, PUBLISHING, size=1, publisher=cast("Publisher", Failing())) as app:
        for _ in range(2):
            with pytest.raises(IndexError):
                await asyncio.wait_for(app.execute("refused"), SOON_S)


async def test_member_ends_when_its_worker_breaks_the_rules(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        pid = int(await app.tell("pid", b"0"))
        (member,) = app.pool._idle
        member.pipe._socket.send(struct.pack(">IQ", 1, 2**62))
        await until(lambda: not is_there(pid), SOON_S)
        assert int(await app.tell("pid", b"0")) != pid


async def test_death_of_one_does_not_touch_the_others(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=3) as app:
        others = [asyncio.create_task(app.execute("pid", b"0.5")) for _ in range(2)]
        await until(lambda: len(app.processes()) == 2, SOON_S)
        lost = await app.execute("die", b"exit")
        assert lost.failure is not None
        assert all(isinstance(settlement, Reject) for settlement in await asyncio.gather(*others))


async def test_processes_that_died_idle_cost_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with cpu(tmp_path, DYING, size=2) as app:
        async with asyncio.timeout(SOON_S):
            while len(set(await asyncio.gather(*(app.tell("pid", b"0.2") for _ in range(2))))) < 2:
                pass  # one has answered both while the other one was starting
        idle = app.processes()
        for process in idle:
            process.signal(signal.SIGKILL)
        wait_until(lambda: not any(process.is_alive for process in idle))  # so that the loop has not heard of it
        assert int(await app.tell("pid", b"0")) not in [process.pid for process in idle]
        await until(lambda: caplog.text.count("ended while idle: its process ended with SIGKILL") == 2)


async def test_process_that_dies_before_it_reads_costs_nothing(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        pid = int(await app.tell("pid", b"0"))
        os.kill(pid, signal.SIGSTOP)
        telling = asyncio.create_task(app.tell("pid", b"0"))
        await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        second = await telling
        assert second.isdigit()
        assert int(second) != pid


async def test_process_killed_from_outside_costs_its_delivery(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    async with cpu(tmp_path, DYING, size=1) as app:
        lost = asyncio.create_task(app.execute("stay", str(path).encode()))
        await until(lambda: recorded(path), SOON_S)
        app.processes()[0].signal(signal.SIGKILL)
        settlement = await asyncio.wait_for(lost, SOON_S)
        assert settlement.failure is not None
        assert "SIGKILL" in settlement.failure.text


async def test_process_that_dies_after_its_answer_costs_nothing(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        for _ in range(2):
            assert isinstance(await app.execute("answer and die", b"3"), Ack)  # long enough to send the answer
            (pid,) = app.pool.pids
            wait_until(lambda pid=pid: Process.find(pid) is None, SOON_S, "its death, of which the loop cannot hear")
            assert isinstance(await app.execute("die", b"not"), Ack)


# ---- what does not end


async def test_stuck_handler_is_killed_when_its_time_is_up_and_its_place_is_free(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    async with cpu(tmp_path, DYING, size=10) as app:
        bench = at_work(app.handlers, cpu=app.pool, grace_s=30.0)
        runner = next(runner for runner in bench.runners if runner.handler.name == "loop")
        channel = Channel()
        for delivery in deliveries(channel, 3, str(path).encode()):
            runner.admit(delivery)
        await asyncio.wait_for(runner.finished(), SOON_S)
        pids = recorded(path)
        assert len(set(pids)) == len(pids) == 3
        assert not any(is_there(pid) for pid in pids)
        assert sorted(channel.rejected) == [1, 2, 3]
        assert bench.stuck_reports == 0
        assert isinstance(await app.execute("die", b"not"), Ack)


async def test_place_is_free_only_when_the_killed_process_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    async with cpu(tmp_path, DYING, size=1) as app:
        running = asyncio.create_task(app.execute("loop", str(path).encode()))
        await until(lambda: recorded(path), SOON_S)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not is_there(recorded(path)[0])
        assert app.pool.pids == []
        assert isinstance(await app.execute("die", b"not"), Ack)


async def test_waiting_for_a_free_process_gives_up_when_cancelled(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        running = asyncio.create_task(app.tell("pid", b"4"))
        await until(app.processes, SOON_S)
        waiting = asyncio.create_task(app.execute("pid", b"0"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await running == await app.tell("pid", b"0"), "the process was kept"


async def test_there_are_never_more_processes_than_places(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=2) as app:
        async with asyncio.timeout(SOON_S):
            while len(set(await asyncio.gather(*(app.tell("pid", b"0.2") for _ in range(2))))) < 2:
                pass  # until both have started
        pids = await asyncio.gather(*(app.tell("pid", b"0.02") for _ in range(40)))
        assert len(set(pids)) == 2
        assert len(app.seen) == 2


async def test_handlers_of_several_queues_share_the_processes(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=2) as app:
        pid = await app.tell("pid", b"0")
        assert isinstance(await app.execute("die", b"not"), Ack)
        assert await app.tell("pid", b"0") == pid
        assert len(app.processes()) == 1


# ---- starting

CONDITIONAL = """
    import os
    import time
    from pathlib import Path

    from mxworker import Handlers, Reject

    handlers = Handlers()
    folder = Path(__file__).parent
    worker = {worker}

    if os.getpid() != worker:
        time.sleep({import_s})
        if (folder / "broken").exists():
            raise RuntimeError("not here")


    @handlers.lifespan
    async def lifespan():
        if (folder / "unlivable").exists():
            raise OSError("no such database")
        yield {{"pid": os.getpid()}}
        (folder / f"left-{{os.getpid()}}").touch()


    @handlers.consume("pid", cpu=True)
    def pid(payload: bytes) -> None:
        raise Reject(str(os.getpid()))


    @handlers.consume("quick", cpu=True, concurrency=2, timeout=4, on_error="reject")
    def quick(payload: bytes) -> None:
        while payload == b"stuck":
            pass
"""


def conditional(import_s: float = 0.0) -> str:
    return CONDITIONAL.format(worker=os.getpid(), import_s=import_s)


@pytest.mark.parametrize(
    ("fault", "why"), [("broken", "RuntimeError: not here"), ("unlivable", "OSError: no such database")]
)
async def test_process_that_cannot_start_is_reported_and_tried_again_later(
    fault: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / fault).touch()
    async with cpu(tmp_path, conditional()) as app:
        begin = time.monotonic()
        for _ in range(2):
            settlement = await app.execute("pid")
            assert settlement.failure is not None
            assert settlement.failure.kind is FailureKind.LOST
            assert why in settlement.failure.text
        assert time.monotonic() - begin > 0.5, "there was a pause before the second start"
        assert f"cannot start: {'lifespan' if fault == 'unlivable' else ''}" in caplog.text
        (tmp_path / fault).unlink()
        assert (await app.tell("pid")).isdigit()


async def test_start_that_takes_longer_than_a_handler_may_comes_to_its_end(tmp_path: Path) -> None:
    async with cpu(tmp_path, conditional(import_s=4.0), size=1) as app:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(app.execute("pid"), 0.1)
        await until(app.processes, SOON_S)
        (process,) = app.processes()
        assert await app.tell("pid") == str(process.pid)


async def test_start_takes_nothing_from_the_time_of_a_handler(tmp_path: Path) -> None:
    async with cpu(tmp_path, conditional(import_s=5.0), size=2) as app:
        bench = at_work(app.handlers, cpu=app.pool)
        runner = next(runner for runner in bench.runners if runner.handler.name == "quick")
        channel = Channel()
        first, second = deliveries(channel, 2)
        second.body = b"stuck"
        for delivery in (first, second):
            runner.admit(delivery)
        await asyncio.wait_for(runner.finished(), SOON_S)
        assert channel.acked == [1]
        assert channel.rejected == [2], "it has its time, and no more, once it runs"


async def test_process_that_hangs_at_its_start_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_pool, "_START_PATIENCE_S", 0.3)
    async with cpu(tmp_path, conditional(import_s=60), size=1) as app:
        settlement = await app.execute("pid")
        assert settlement.failure is not None
        assert "it was not ready after 0.3 s" in settlement.failure.text


HANGING = """
    import asyncio

    from mxworker import Handlers

    handlers = Handlers()


    @handlers.lifespan
    async def shop():
        await asyncio.Event().wait()  # for ever
        yield


    @handlers.consume("order", cpu=True)
    def order(body: bytes) -> None: ...
"""


async def test_lifespan_that_hangs_is_told_with_the_line_where_it_waits(tmp_path: Path) -> None:
    async with cpu(tmp_path, HANGING, size=1, boot_timeout_s=0.2) as app:
        settlement = await app.execute("order")
        assert settlement.failure is not None
        assert "lifespan 'shop' of 'app_" in settlement.failure.text
        assert " is not entered after 200ms, the time that --boot-timeout gives it: " in settlement.failure.text
        assert settlement.failure.text.endswith("await asyncio.Event().wait()  # for ever".replace("  ", " "))


@pytest.mark.alone
async def test_start_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        while True:
            begin = time.monotonic()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.monotonic() - begin)

    async with cpu(tmp_path, conditional(import_s=2), size=1) as app:
        gc.collect()
        watching = asyncio.create_task(watch())
        await app.execute("pid")
        watching.cancel()
    assert longest_s < 1.0


async def test_lifespan_is_left_at_the_end(tmp_path: Path) -> None:
    async with cpu(tmp_path, conditional(), size=1) as app:
        pid = await app.tell("pid")
    assert (tmp_path / f"left-{pid}").exists()


BREAKING = """
    import asyncio
    import os
    from pathlib import Path

    from mxworker import Handlers, Reject

    handlers = Handlers()
    folder = Path(__file__).parent


    async def poller():
        while not (folder / "fault").exists():
            await asyncio.sleep(0.01)
        (folder / "fault").unlink()
        raise ValueError("poller broke")


    @handlers.lifespan
    async def lifespan():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(poller())
            yield
            task.cancel()


    @handlers.middleware
    async def breaking(payload, ctx, call_next):
        if payload == b"break":
            (folder / "fault").touch()
            while (folder / "fault").exists():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        return await call_next(payload, ctx)


    @handlers.consume("pid", cpu=True)
    def pid(payload: bytes) -> None:
        raise Reject(str(os.getpid()))
"""


@pytest.mark.parametrize("payload", [b"", b"break"], ids=["idle", "busy"])
async def test_process_whose_lifespan_is_cancelled_finishes_its_delivery_and_is_replaced(
    payload: bytes, tmp_path: Path
) -> None:
    async with cpu(tmp_path, BREAKING, size=1) as app:
        first = int(await app.tell("pid", payload))
        if not payload:
            (tmp_path / "fault").touch()
        assert (await app.tell("pid")).isdigit(), "no delivery is lost"
        await until(lambda: not is_there(first), SOON_S)
        assert int(await app.tell("pid")) != first


async def test_close_ends_what_starts(tmp_path: Path) -> None:
    async with cpu(tmp_path, conditional(import_s=60), size=1) as app:
        begin = time.monotonic()
        starting = asyncio.create_task(app.execute("pid"))
        await until(app_children, SOON_S)
        members = app_children()
        starting.cancel()
        await app.pool.close(0.0)
        assert time.monotonic() - begin < SOON_S
        assert not any(member.is_alive for member in members)


def app_children() -> list[Process]:
    """Return the members among our children, before and after they have set their title."""
    marks = ("mxworker.worker.cpu", "mxworker: worker")  # a RabbitMQ among our children has `cpu` in its options, too
    return [child for child in children(os.getpid()) if any(mark in " ".join(child.arguments) for mark in marks)]


# ---- what a handler finds there

ENVIRONMENT = """
    import hashlib
    import logging
    import os
    import subprocess
    import sys
    from contextvars import ContextVar
    from pathlib import Path

    from mxworker import Context, Handlers, Reject

    handlers = Handlers()
    mine = ContextVar("mine", default="unset")


    @handlers.lifespan
    async def lifespan():
        yield {"where": os.getpid()}


    @handlers.consume("ctx", cpu=True)
    def ctx(payload: bytes, ctx: Context) -> None:
        found = [ctx.queue, ctx.handler, ctx.attempt, ctx.is_stale, ctx.delivery.delivery_tag, ctx.delivery.message_id]
        assert ctx.state == {"where": os.getpid()}
        ctx.log.info("the log line of %s", ctx.handler)
        raise Reject(repr(found))


    @handlers.consume("variable", cpu=True)
    def variable(payload: bytes) -> None:
        before = mine.get()
        mine.set("set")
        raise Reject(before)


    @handlers.consume("print", cpu=True)
    def say(payload: str) -> None:
        print(payload * 1000, flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        os.write(1, b"raw\\n")
        assert sys.stdin.read() == ""
        subprocess.run(["true"], check=True)


    @handlers.consume("digest", cpu=True)
    def digest(body: bytes) -> None:
        raise Reject(hashlib.sha256(body).hexdigest())


    @handlers.consume("process", cpu=True)
    def process(payload: str) -> None:
        found = {
            "argv": sys.argv[1:],
            "level": logging.getLogger().level,
            "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE),
            "title": Path("/proc/self/cmdline").read_text().strip("\\0"),
            "path": sys.path,
            "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        }
        raise Reject(repr(found[payload]))
"""


async def test_context_is_that_of_the_delivery(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with cpu(tmp_path, ENVIRONMENT, size=1) as app:
        assert await app.tell("ctx") == repr(["ctx", "ctx", 1, False, 1, None])
    assert "INFO    mxworker.handler.ctx  the log line of ctx" in capfd.readouterr().err


async def test_context_variables_of_one_delivery_are_not_seen_by_the_next(tmp_path: Path) -> None:
    async with cpu(tmp_path, ENVIRONMENT, size=1) as app:
        assert [await app.tell("variable") for _ in range(2)] == ["unset", "unset"]


async def test_prints_go_where_those_of_the_worker_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with cpu(tmp_path, ENVIRONMENT, size=1) as app:
        for _ in range(2):
            assert isinstance(await app.execute("print", b"hello"), Ack)
    shown = capfd.readouterr()
    assert shown.out == 2 * (1000 * "hello" + "\nraw\n")
    assert "to stderr" in shown.err


async def test_bodies_of_all_sizes_arrive_whole(tmp_path: Path) -> None:
    async with cpu(tmp_path, ENVIRONMENT, size=1) as app:
        for size_bytes in (0, 1, 131_072, 8_000_000, 64 * 1024 * 1024):
            body = os.urandom(size_bytes)
            assert await app.tell("digest", body) == hashlib.sha256(body).hexdigest(), size_bytes


async def test_process_is_set_up_like_a_worker(tmp_path: Path) -> None:
    async with cpu(tmp_path, ENVIRONMENT, size=1) as app:
        assert await app.tell("process", b"argv") == "[]"
        assert await app.tell("process", b"level") == "20"
        assert await app.tell("process", b"core") == "(0, 0)"
        assert await app.tell("process", b"title") == repr("mxworker: worker 7 cpu")


async def test_current_directory_takes_the_place_of_no_module(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "colorsys.py").write_text("raise ImportError('not this one')")
    (elsewhere / "mxworker.py").write_text("raise ImportError('nor this one')")
    monkeypatch.chdir(elsewhere)
    async with cpu(tmp_path, "import colorsys\n" + ENVIRONMENT.replace("\n    ", "\n"), size=1) as app:
        assert str(elsewhere) not in sys.path
        assert isinstance(await app.execute("print", b""), Ack)


async def test_signals_to_the_whole_group_do_nothing(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        pid = await app.tell("pid", b"0")
        (process,) = app.processes()
        for name in ("INT", "TERM", "HUP", "USR1", "USR2", "TTIN", "TTOU"):
            running = asyncio.create_task(app.tell("pid", b"0.2"))
            await asyncio.sleep(0)  # in which the process is asked
            assert process.signal(signal.Signals[f"SIG{name}"])
            assert await running == pid, name
            assert await app.tell("pid", b"0") == pid, name


async def test_process_that_is_idle_or_works_is_profiled_and_goes_on(tmp_path: Path) -> None:
    async with cpu(tmp_path, DYING, size=1) as app:
        assert await app.tell("pid", b"0")
        for number, work_s in ((1, b"0"), (2, b"1")):
            running = asyncio.create_task(app.tell("pid", work_s))
            (member,) = app.pool.members
            member.profile.begin(number, ProfileKind.CPU, 0.1)
            result = await until(member.profile.result, SOON_S, "the profile")
            assert b"process %d" % member.pid in (result or b"")
            assert await running == str(member.pid)
        member.profile.begin(3, ProfileKind.CPU, 60)
        await member.kill()
        with pytest.raises(EOFError):
            member.profile.result()


async def test_signals_at_the_start_do_nothing_either(tmp_path: Path) -> None:
    async with cpu(tmp_path, conditional(import_s=0.3), size=1) as app:
        telling = asyncio.create_task(app.tell("pid"))
        await until(app_children, SOON_S)
        (process,) = app_children()
        while not telling.done():
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGINT)
            await asyncio.sleep(0.001)
        assert await telling == str(process.pid)


# ---- publishing

PUBLISHING = """
    import asyncio
    import multiprocessing
    import threading
    from pathlib import Path

    from mxworker import Context, Handlers, Reject
    from mxworker.errors import EncodeError, PublishError
    from tests.harness.saving import save_by_rename

    handlers = Handlers()
    left = []


    @handlers.middleware
    async def announcing(payload, ctx, call_next):
        if payload == b"middleware":
            await ctx.publisher.publish(b"by a middleware", routing_key="audit")
        return await call_next(payload, ctx)


    @handlers.consume("publish", cpu=True, concurrency=8)
    def publish(payload: bytes, ctx: Context) -> None:
        def one(number: int) -> None:
            ctx.publisher.publish_sync(payload, routing_key=f"out-{number}", exchange="x", timeout_s=2.5)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


    @handlers.consume("refused", cpu=True)
    def refused(payload: bytes, ctx: Context) -> None:
        try:
            ctx.publisher.publish_sync(payload, routing_key="nowhere")
        except PublishError as error:
            raise Reject(f"{type(error).__name__}: {error}")


    @handlers.consume("wrong", cpu=True)
    def wrong(payload: bytes, ctx: Context) -> None:
        try:
            ctx.publisher.publish_sync(payload, routing_key=payload)
        except EncodeError as error:
            raise Reject(str(error))


    handlers.codec("application/reversed", lambda body: body[::-1], encode=lambda value: value.encode()[::-1])


    @handlers.consume("encoded", cpu=True)
    def encoded(payload: bytes, ctx: Context) -> None:
        ctx.publisher.publish_sync("abc", routing_key="out", content_type="application/reversed")


    @handlers.consume("fork", cpu=True)
    def fork(payload: bytes, ctx: Context) -> None:
        def publish(end):
            try:
                ctx.publisher.publish_sync(payload, routing_key="out")
            except BaseException as error:
                end.send(f"{type(error).__name__}: {error}")

        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        child = context.Process(target=publish, args=(there,))
        child.start()
        child.join()
        raise Reject(here.recv() if here.poll() else "published")


    @handlers.consume("leave", cpu=True)
    def leave(path: str, ctx: Context) -> None:
        left.extend([path, ctx.publisher])


    @handlers.lifespan
    async def lifespan():
        async def late():
            while not left or left[1]._is_open:
                await asyncio.sleep(0.01)
            try:
                await left[1].publish(b"late", routing_key="late")
                outcome = "published"
            except PublishError as error:
                outcome = str(error)
            save_by_rename(Path(left[0]), outcome)

        task = asyncio.create_task(late())
        yield left
        await task
"""


class Published:
    """Stands for a worker's publisher: confirms all but what goes nowhere."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, str, str, float | None]] = []

    async def publish(
        self, body: Content, *, routing_key: str, exchange: str, mandatory: bool, timeout_s: float | None
    ) -> Confirmed:
        assert mandatory
        await asyncio.sleep(0.001)
        if routing_key == "nowhere":
            raise Unroutable("the broker returned it")
        self.messages.append((body.body, exchange, routing_key, timeout_s))
        return Confirmed("id")


@pytest.fixture
def out() -> Published:
    return Published()


async def test_threads_and_middleware_publish_by_way_of_the_worker(tmp_path: Path, out: Published) -> None:
    large = b"large" * 1000
    async with cpu(tmp_path, PUBLISHING, size=2, publisher=cast("Publisher", out), compression="gzip") as app:
        bodies = [b"one", b"two", b"middleware", large]
        settlements = await asyncio.gather(*(app.execute("publish", body) for body in bodies))
    assert {type(settlement) for settlement in settlements} == {Ack}
    audit = (b"by a middleware", "", "audit", None)
    sent = [*bodies[:-1], Compression().compress(large)]
    expected = [(body, "x", f"out-{number}", 2.5) for body in sent for number in range(8)]
    assert Counter(out.messages) == Counter([audit, *expected])


async def test_what_a_publish_ended_in_is_raised_where_it_was_asked_for(tmp_path: Path, out: Published) -> None:
    async with cpu(tmp_path, PUBLISHING, size=1, publisher=cast("Publisher", out)) as app:
        assert await app.tell("refused") == "Unroutable: the broker returned it"
        assert await app.tell("wrong", b"x") == "routing_key must be text, not b'x'"
    async with cpu(tmp_path, PUBLISHING, size=1) as app:
        assert await app.tell("refused") == "PublishOverflow: not sent: there is no publisher"


async def test_registered_codec_makes_the_bodies_there_too(tmp_path: Path, out: Published) -> None:
    async with cpu(tmp_path, PUBLISHING, size=1, publisher=cast("Publisher", out)) as app:
        assert isinstance(await app.execute("encoded"), Ack)
    assert out.messages == [(b"cba", "", "out", None)]


async def test_publish_in_a_process_that_the_handler_has_forked_is_refused(tmp_path: Path, out: Published) -> None:
    async with cpu(tmp_path, PUBLISHING, size=1, publisher=cast("Publisher", out)) as app:
        assert (await app.tell("fork")).startswith("RuntimeError: this process was forked")
    assert out.messages == []


async def test_publish_after_the_handler_has_returned_is_refused(tmp_path: Path, out: Published) -> None:
    async with cpu(tmp_path, PUBLISHING, size=1, publisher=cast("Publisher", out)) as app:
        told = tmp_path / "told"
        await app.execute("leave", str(told).encode())
        await until(told.exists, SOON_S, "the publish to be tried")
        assert told.read_text() == "not sent: the handler has returned"
    assert out.messages == []
