"""The fixture `mx_broker`: services in real processes, the embedded broker, a clock that tests move."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from mxworker.testing import BrokerUnderTest, StillWaiting
from mxworker.testing.brokers_under_test import FarEnd
from tests.harness.processes import in_session
from tests.harness.waiting import wait_until

APP = """
import asyncio
from mxworker import Context, Handlers, RetryPolicy

handlers = Handlers()

@handlers.consume("orders", retry=RetryPolicy(max_retries=3, delays=(1, 5, 25), jitter=False))
async def order(payload: dict, ctx: Context) -> None:
    await ctx.publisher.publish(ctx.attempt, routing_key="attempts", mandatory=False)
    if payload.get("hangs"):
        await asyncio.Event().wait()
    if payload.get("fails"):
        raise ConnectionError("the bank is away")

handlers.declare("attempts")
"""


FIXTURE_SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_ladder_of_retries_passes_by_the_clock_of_the_broker(mx_broker: BrokerUnderTest, app: Path) -> None:
    began = time.monotonic()
    service = mx_broker.run("app:handlers", app_dir=app)
    mx_broker.publish("orders", {"fails": True}, message_id="m1")
    mx_broker.advance(1)
    assert [message.payload for message in mx_broker.wait_for("attempts", 2)] == [1, 2]
    mx_broker.advance(30)
    assert [message.payload for message in mx_broker.wait_for("attempts", 2)] == [3, 4]
    (dead,) = mx_broker.wait_for("orders.dlq")
    assert (dead.message_id, dead.headers["mx-attempts"]) == ("m1", 4)
    assert service.log.count("the bank is away") >= 4
    if time.monotonic() - began > 31:
        pytest.skip("this machine takes longer than the ladder")


def test_wait_that_does_not_end_says_what_it_waited_for(mx_broker: BrokerUnderTest, app: Path) -> None:
    mx_broker.run("app:handlers", app_dir=app)  # of a virtual host of its own: nothing of another test is there
    assert mx_broker.messages("orders.dlq") == 0
    with pytest.raises(StillWaiting, match=r"waited 0.1 s for 2 messages in queue 'orders.dlq'; there came \[\]"):
        mx_broker.wait_for("orders.dlq", 2, timeout=0.1)
    with pytest.raises(StillWaiting, match=r"waited 0.1 s for a row in the table(.|\n)*log of app:handlers"):
        mx_broker.wait_until(lambda: False, "a row in the table", timeout=0.1)


def test_service_that_does_not_start_says_why(mx_broker: BrokerUnderTest, app: Path) -> None:
    with pytest.raises(StillWaiting, match=r"has ended with exit code 3(.|\n)*'app' has no attribute 'handler'"):
        mx_broker.run("app:handler", app_dir=app)
    assert mx_broker.services == ()
    with pytest.raises(StillWaiting, match="has ended with exit code 3"):  # not a FileExistsError of its folder
        mx_broker.run("app:handler", app_dir=app)


def test_message_left_unacked_is_an_error_at_the_end(
    mx_far_end: Callable[[Any], FarEnd], app: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mx_broker = BrokerUnderTest(mx_far_end, tmp_path_factory.mktemp("logs"))
    try:
        mx_broker.run("app:handlers", app_dir=app)
        mx_broker.publish("orders", {"hangs": True})
        mx_broker.wait_for("attempts")
        mx_broker.timeout = 0.1
    finally:
        with pytest.raises(StillWaiting, match="for all messages to be settled; 'orders' has 0 ready, 1 unacked"):
            mx_broker.finish(is_checked=True)
    assert mx_broker.services[0].exit_code == -SIGKILL


ENDS = """
import pytest

@pytest.fixture
def told(mx_broker):
    finish = mx_broker.finish
    mx_broker.finish = lambda is_checked: (print("is checked:", is_checked), finish(is_checked))

def test_that_passes(told):
    pass

def test_that_fails(told):
    assert False, "by itself"
"""


def test_end_is_not_checked_when_the_test_has_failed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ENDS)
    result = pytester.runpytest_inprocess("-sq", "-p", "no:cacheprovider", *FIXTURE_SCOPE)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*is checked: True", "*is checked: False"])


def test_run_that_does_not_use_the_fixture_imports_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    source = (
        "import sys, pytest\n"
        "others = [f'-pno:{name}' for name in ('asyncio', 'anyio', 'hypothesispytest', 'xdist', 'cacheprovider')]\n"
        "code = pytest.main([*others, 'test_nothing.py'])\n"
        "print(code, *sorted(name for name in sys.modules if name.startswith(('mxworker', 'aio_pika', 'orjson'))))"
    )
    run = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1].split()[1:] == ["mxworker", "mxworker.testing", "mxworker.testing.plugin"]


def test_service_ends_with_the_test_run_that_is_killed(app: Path, tmp_path: Path) -> None:
    source = (
        "import os, pathlib, sys, time\n"
        "from mxworker.testing.services import ServiceUnderTest\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "options = ['--connect-wait=1h', '--workers=1']\n"
        "service = ServiceUnderTest('app:handlers', 'amqp://127.0.0.1:1/', folder, str(folder), options)\n"
        "service.start()\n"
        "print(service._process.pid, service._runtime, flush=True)\n"
        "while '127.0.0.1:1' not in service.log: time.sleep(0.01)\n"
        "os._exit(9)\n"
    )
    run = subprocess.run([sys.executable, "-c", source, str(tmp_path)], capture_output=True, text=True, check=False)
    pid, runtime = run.stdout.split()
    shutil.rmtree(runtime)
    wait_until(lambda: not in_session(int(pid)), 30, "the end of all processes of the service")
