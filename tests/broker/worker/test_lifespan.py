"""What an application sets up around its handlers: once in each process, before the first, after the last of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest

from mxworker import Context, Handlers
from mxworker.api.handlers import compile_handlers
from mxworker.board.page import Board
from mxworker.brokers import Brokers
from mxworker.config.process import Consumption
from mxworker.errors import ExitCode
from mxworker.worker.assembly import assemble
from tests.broker.workers import running
from tests.harness.service import Service, killing_late, mxworker_run, write_app
from tests.harness.waiting import until, wait_until
from tests.rabbit.client import Client

SOON_S = 60.0
KILL_SLACK_S = 6  # what a drain may last longer on a busy machine

APP = """
    import asyncio
    import os
    import sys

    from mxworker import Context, Handlers

    handlers = Handlers()


    def note(event):
        os.write(1, f"{event} {os.getpid()}\\n".encode())


    @handlers.lifespan
    async def shop():
        note("entering")
        START
        note("entered")
        yield os.getpid()
        note("leaving")
        END
        note("left")


    @handlers.consume(os.environ["QUEUE"])
    async def order(payload: str, ctx: Context) -> None:
        assert ctx.state == os.getpid()
        note("handling")
        await asyncio.sleep(float(payload))
        note("handled")
"""


@contextmanager
def _service(
    url: str, queue: str, folder: Path, *flags: str, start: str = "pass", end: str = "pass"
) -> Iterator[Service]:
    app = write_app(folder, APP.replace("START", start).replace("END", end))
    env = {"MXWORKER_BROKER_URL": url, "QUEUE": queue}
    command = killing_late(mxworker_run(app, "--log-format=text", *flags, app_dir=folder), KILL_SLACK_S)
    with Service(command, folder, env=env) as service:
        yield service


def _events(service: Service) -> list[tuple[str, int]]:
    """Return what happened, and in which process."""
    return [(event, int(pid)) for event, pid in map(str.split, service.output_text().splitlines())]


# ---- as a service


def test_it_is_entered_once_in_each_worker_and_left_after_the_last_handler(
    broker_url: str, queue_name: str, tmp_path: Path, admin: Client
) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=2") as service:
        service.wait_ready()
        pids = service.worker_pids()
        assert sorted(_events(service)) == sorted((event, pid) for event in ("entering", "entered") for pid in pids)
        admin.publish(queue_name, [b"0"] * 50)
        wait_until(lambda: service.output_text().count("handled") == 50, SOON_S, "all")
        admin.publish(queue_name, [b"0.5"] * 4)
        wait_until(lambda: service.output_text().count("handling") == 54, SOON_S, "the last ones to run")
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        for pid in pids:
            its = [event for event, whose in _events(service) if whose == pid]
            assert its[:2] == ["entering", "entered"]
            assert its[-2:] == ["leaving", "left"]
            assert its.count("handling") == its.count("handled") == len(its[2:-2]) / 2
        assert service.output_text().count("handled") == 54


def test_handlers_that_are_cancelled_have_left_before_it_ends(
    broker_url: str, queue_name: str, tmp_path: Path, admin: Client
) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=1", "--drain-timeout=500ms") as service:
        service.wait_ready()
        admin.publish(queue_name, [b"60"])
        wait_until(lambda: "handling" in service.output_text(), SOON_S, "it to run")
        service.signal(SIGTERM)
        assert service.wait_exit() == ExitCode.DRAIN_TIMEOUT
        assert [event for event, _ in _events(service)] == ["entering", "entered", "handling", "leaving", "left"]


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("raise LookupError('no such shop')", "    LookupError: no such shop"),
        ("sys.exit(9)", "    SystemExit: 9"),
        ("raise asyncio.CancelledError", "    CancelledError: "),
    ],
    ids=["exception", "SystemExit", "CancelledError"],
)
def test_failure_at_the_start_is_3_and_shows_the_users_line(
    start: str, says: str, broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=2", start=start) as service:
        assert service.wait_exit() == ExitCode.APP_LOAD
        lines = service.log_text().splitlines()
        told = next(number for number, line in enumerate(lines) if line.startswith("Error: "))
        assert lines[told] == "Error: lifespan 'shop' failed at the start:"
        assert lines[told + 1] == f"  app.py:18  {start}{says}"
        assert service.log_text().count("Error: lifespan") == 1, "once for all workers"
        assert "Traceback" not in service.log_text()


IN_A_GROUP = """await asyncio.sleep(0)
        async def connect():
            RAISES
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connect())"""


@pytest.mark.parametrize(
    ("raises", "says"),
    [("sys.exit(9)", "app.py:20  sys.exit(9)    SystemExit: 9"), ("1 / 0", "    ExceptionGroup: ZeroDivisionError: ")],
    ids=["SystemExit", "exception"],
)
def test_failure_of_a_task_group_at_the_start_is_3(
    raises: str, says: str, broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    start = IN_A_GROUP.replace("RAISES", raises)
    with _service(broker_url, queue_name, tmp_path, "--workers=1", start=start) as service:
        assert service.wait_exit() == ExitCode.APP_LOAD
        told = service.log_text().partition("Error: ")[2].splitlines()
        assert told[0] == "lifespan 'shop' failed at the start:"
        assert any(line.endswith(says) or says in line for line in told), told
        assert service.log_text().count("Error: lifespan") == 1
        assert not any("uvloop" in line or "asyncio/" in line for line in told)
        assert "the worker failed" not in service.log_text()


IN_THE_BACKGROUND = """async def watch():
            sys.exit(9)
        watching = asyncio.create_task(watch())"""


def test_exit_in_its_background_task_ends_that_task_alone(
    broker_url: str, queue_name: str, tmp_path: Path, admin: Client
) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=1", start=IN_THE_BACKGROUND) as service:
        service.wait_ready()
        service.wait_for_log("raised SystemExit: 9 at")
        admin.publish(queue_name, [b"0"])
        wait_until(lambda: "handled" in service.output_text(), SOON_S, "the message to be handled")
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        assert service.log_text().count("raised SystemExit: 9 at") == 1, "the worker was not started again"
        events = ["entering", "entered", "handling", "handled", "leaving", "left"]
        assert [event for event, _ in _events(service)] == events


@pytest.mark.parametrize(
    "end",
    [
        "raise LookupError('no such shop')",
        "sys.exit(9)",
        IN_A_GROUP.replace("RAISES", "sys.exit(9)"),
        "task = asyncio.ensure_future(asyncio.sleep(9)); task.cancel(); await task",
    ],
    ids=["exception", "SystemExit", "SystemExit in a group", "CancelledError"],
)
def test_failure_at_the_end_is_logged_and_changes_nothing(
    end: str, broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=1", end=end) as service:
        service.wait_ready()
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        assert "a lifespan failed at the end" in service.log_text()
        assert "app.py" in service.log_text()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("await asyncio.sleep(60)", ExitCode.OK),
        ("import time; time.sleep(60)", ExitCode.DRAIN_TIMEOUT),
    ],
    ids=["awaiting", "blocking"],
)
def test_one_that_does_not_end_keeps_to_the_time_for_the_drain(
    end: str, code: ExitCode, broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=1", "--drain-timeout=1s", end=end) as service:
        service.wait_ready()
        asked_at = time.monotonic()
        service.signal(SIGTERM)
        assert service.wait_exit() == code
        assert time.monotonic() - asked_at < 1 + 14  # far from the 30 s that a drain may take by default


def test_sigterm_in_a_slow_start_ends_it_soon(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    start = "await asyncio.sleep(60)"
    with _service(broker_url, queue_name, tmp_path, "--workers=2", start=start) as service:
        wait_until(lambda: service.output_text().count("entering") == 2, SOON_S, "both to start")
        asked_at = time.monotonic()
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        assert time.monotonic() - asked_at < 15  # far from the 60 s of the start
        assert "Error" not in service.log_text()


def test_one_that_hangs_at_the_start_is_3_and_shows_where_it_waits(
    broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    start = "await asyncio.Event().wait()"
    with _service(broker_url, queue_name, tmp_path, "--workers=2", "--boot-timeout=2s", start=start) as service:
        assert service.wait_exit() == ExitCode.APP_LOAD
        headline = "Error: lifespan 'shop' of 'app' is not entered after 2s, the time that --boot-timeout gives it:"
        assert f"{headline}\n  app.py:18  {start}" in service.log_text()


CATCHES_ALL = """while True:
            try:
                await asyncio.sleep(3600)
            except BaseException:
                pass"""


def test_one_that_cannot_be_cancelled_at_the_start_is_3_too(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=2", "--boot-timeout=2s", start=CATCHES_ALL) as service:
        assert service.wait_exit() == ExitCode.APP_LOAD
        text = service.log_text()
        assert "that --boot-timeout gives it, and goes on though cancelled (catch Exception, not all):" in text
        assert "app.py:20  await asyncio.sleep(3600)" in text


def test_one_that_cannot_be_cancelled_holds_up_no_stop(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=2", "--drain-timeout=1h", start=CATCHES_ALL) as service:
        wait_until(lambda: service.output_text().count("entering") == 2, SOON_S, "both to start")
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        assert "Error" not in service.log_text()


def test_reload_to_one_that_hangs_at_the_start_is_refused(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=2", "--boot-timeout=10s") as service:
        service.wait_ready()
        before = service.worker_pids()
        write_app(tmp_path, APP.replace("START", "await asyncio.Event().wait()").replace("END", "pass"))
        service.signal(SIGHUP)
        service.wait_for_log("reload refused: generation 2 does not serve: it ends with exit code 3")
        service.wait_workers(2)
        assert service.worker_pids() == before


BREAKING = """
    import asyncio
    import os
    from pathlib import Path

    from mxworker import Handlers

    handlers = Handlers()
    fault = Path("FAULT")


    async def poller():
        while not fault.exists():
            await asyncio.sleep(0.05)
        fault.unlink()
        raise ValueError("poller broke")


    @handlers.lifespan
    async def shop():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(poller())
            yield
            task.cancel()


    @handlers.consume(os.environ["QUEUE"], retry=None)
    async def order(payload: str) -> None:
        os.write(1, f"begin {payload}\\n".encode())
        while payload != "later" and fault.exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        os.write(1, f"end {payload}\\n".encode())
"""


def test_running_handlers_finish_when_its_task_group_fails_and_the_worker_is_replaced(
    broker_url: str, queue_name: str, tmp_path: Path, admin: Client
) -> None:
    fault = tmp_path / "fault"
    app = write_app(tmp_path, BREAKING.replace("FAULT", str(fault)))
    env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queue_name}
    command = killing_late(
        mxworker_run(app, "--log-format=text", "--workers=1", "--drain-timeout=60s", app_dir=tmp_path), KILL_SLACK_S
    )
    with Service(command, tmp_path, env=env) as service:
        service.wait_ready()
        admin.publish(queue_name, [str(number).encode() for number in range(5)])
        wait_until(lambda: service.output_text().count("begin") == 5, SOON_S, "all to run")
        fault.touch()
        service.wait_for_log("a lifespan failed while the process served: 'shop': ExceptionGroup: ValueError: poller")
        wait_until(lambda: service.output_text().count("end") == 5, SOON_S, "all to finish")
        admin.publish(queue_name, [b"later"])
        wait_until(lambda: "end later" in service.output_text(), SOON_S, "the next worker")
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        assert service.output_text().count("begin") == 6, "each message ran once"
        text = service.log_text()
        assert text.count("worker 1 drains and is replaced: a lifespan was cancelled") == 1
        assert text.count(" ERROR ") == 1
        assert "exit code 1; the next one starts in" in text
        assert "suspect" not in text


# ---- registries in registries, in this process


async def test_registry_has_its_own_inside_that_of_the_one_that_includes_it(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    events: list[str] = []

    def registry(name: str) -> Handlers:
        made = Handlers()

        async def span() -> AsyncIterator[str]:
            events.append(f"enter {name}")
            yield name
            events.append(f"leave {name}")

        made.lifespan(span)
        return made

    outer, inner, plain = registry("outer"), registry("inner"), Handlers()
    outer.include(inner)
    outer.include(plain)

    @inner.consume(queue_name)
    async def own(body: bytes, ctx: Context) -> None:
        events.append(f"own has {ctx.state}")

    async with running(broker_url, outer):
        admin.publish(queue_name, [b""])
        await until(lambda: len(events) == 3, SOON_S, "the handler")
    assert events == ["enter outer", "enter inner", "own has inner", "leave inner", "leave outer"]

    events.clear()

    @plain.consume(f"{queue_name}.plain", retry=None)
    async def without(body: bytes, ctx: Context) -> None:
        events.append(f"without has {ctx.state}")

    try:
        async with running(broker_url, outer):
            admin.publish(f"{queue_name}.plain", [b""])
            await until(lambda: len(events) == 3, SOON_S, "the handler")
    finally:
        admin.delete(f"{queue_name}.plain")
        admin.delete(f"{queue_name}.plain.dlq")
    assert events == ["enter outer", "enter inner", "without has outer", "leave inner", "leave outer"]


@pytest.mark.parametrize(("how", "code"), [("fails", ExitCode.APP_LOAD), ("is given up", ExitCode.OK)])
async def test_what_was_entered_is_left_when_the_next_one(how: str, code: ExitCode) -> None:
    outer, inner = Handlers(), Handlers()
    outer.include(inner)
    events: list[str] = []

    @outer.lifespan
    async def first() -> AsyncIterator[None]:
        events.append("enter")
        if how == "is given up":
            service.request_stop()
        yield
        events.append("leave")

    @inner.lifespan
    async def second() -> AsyncIterator[None]:
        if how == "fails":
            raise LookupError
        await asyncio.sleep(60)
        yield

    @inner.consume("queue")
    async def never(body: bytes) -> None: ...

    settings = Consumption(app="test", brokers=Brokers.parse(["amqp://127.0.0.1:1/"]))
    service = assemble(settings, compile_handlers(outer), Board(1).slot(1), lambda: True, lambda state: None)
    assert await asyncio.wait_for(service.run(), SOON_S) is code
    assert events == ["enter", "leave"]
