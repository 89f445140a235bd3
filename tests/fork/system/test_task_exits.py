"""SystemExit and KeyboardInterrupt in a task end the task, and neither the event loop nor the process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.repository import REPOSITORY

HEAD = """
import asyncio, os, signal, sys
from mxworker.system import descriptors
from mxworker.system.forks import Forks
from mxworker.system.log import set_up
from mxworker.system.task_exits import run_to_end
if sys.argv[1] == "uvloop":
    from uvloop import new_event_loop
else:
    from asyncio import new_event_loop

set_up("info", "json")


async def exits(code):
    await asyncio.sleep(0)
    sys.exit(code)  # the line that is told


async def interrupts():
    raise KeyboardInterrupt


async def grouped():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(exits(1))
        await asyncio.sleep(60)


"""


Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def run(loop: str, tmp_path: Path) -> Run:
    def run(source: str) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "program.py"
        program.write_text(HEAD + source)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, str(program), loop]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)

    return run


AWAITED = """
async def main():
    for wait in (
        lambda: asyncio.wait_for(asyncio.create_task(exits(1)), 60),
        grouped,
        lambda: asyncio.gather(interrupts()),
    ):
        try:
            await wait()
        except BaseException as error:
            print(repr(error))
    return 5


sys.exit(Forks("worker 1").run(new_event_loop, main()))
"""


def test_who_awaits_the_task_gets_the_exit_and_the_loop_goes_on(run: Run) -> None:
    ended = run(AWAITED)
    assert ended.stdout.splitlines() == ["SystemExit(1)", "SystemExit(1)", "KeyboardInterrupt()"], ended.stderr
    assert ended.returncode == 5
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in told] == ["task_exit"] * 3
    assert [line["error"] for line in told] == ["SystemExit: 1", "SystemExit: 1", "KeyboardInterrupt"]
    assert all("exits" in line["place"] and "in exits" in line["traceback"] for line in told[:2])


FORGOTTEN = """
spare = os.open(os.devnull, os.O_RDONLY)


async def main():
    os.close(spare)  # so that a pipe that uvloop opens now gets another number than its first one
    loop = asyncio.get_running_loop()
    kept = [loop.create_task(exits(1)) for _ in range(30)]
    loop.call_soon(sys.exit, 2)
    others = [loop.create_task(asyncio.sleep(0.01, number)) for number in range(30)]
    print(sum(await asyncio.gather(*others)), sum(task.done() for task in kept))
    print(descriptors._claimed <= descriptors.open_now())
    return 0


sys.exit(Forks("worker 1").run(new_event_loop, main()))
"""


def test_forgotten_tasks_and_callbacks_that_exit_cost_no_other_task_anything(run: Run) -> None:
    ended = run(FORGOTTEN)
    assert (ended.stdout.splitlines(), ended.returncode) == (["435 30", "True"], 0), ended.stderr
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines() if '"event"' in line]
    assert 1 <= len(events) <= 10, "a limited number of lines"


SIGNAL = """
async def main():
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, came.set)
    loop.add_signal_handler(signal.SIGURG, print)
    exiting = loop.create_task(exits(1))
    await came.wait()
    return 5


loop = new_event_loop()
between = lambda: os.kill(os.getpid(), signal.SIGTERM)
sys.exit(run_to_end(loop, loop.create_task(main()), lambda: False, between))
"""


def test_signal_between_two_runs_of_the_loop_is_not_lost(run: Run) -> None:
    ended = run(SIGNAL)
    assert ended.returncode == 5, ended.stderr


FORKED = """
async def forks():
    pid = os.fork()
    if pid == 0:
        sys.exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def main():
    return await asyncio.create_task(forks())


sys.exit(Forks("worker 1").run(new_event_loop, main()))
"""


def test_exit_of_a_forked_child_ends_the_child(run: Run, loop: str) -> None:
    ended = run(FORKED)
    assert ended.returncode == (7 if loop == "asyncio" else 1), "uvloop runs the callback that ends the child before"
    assert "task_exit" not in ended.stderr


OWN = """
async def main():
    await asyncio.sleep(0)
    sys.exit(6)


Forks("worker 1").run(new_event_loop, main())
"""


def test_main_task_that_exits_ends_the_process(run: Run) -> None:
    assert run(OWN).returncode == 6
