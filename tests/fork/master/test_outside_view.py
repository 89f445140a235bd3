"""The tasks of a hung worker, which from Python 3.14 on the master sees without the worker."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from types import ModuleType
from typing import Any

import pytest

from mxworker.master.outside_view import MOST_IN_FLIGHT, MOST_LINES, await_trees, tell_tasks
from tests.fork.conftest import Start
from tests.harness.waiting import wait_until

HAS_TOOLS = sys.version_info >= (3, 14)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of Python 3.14, which sees two trees."""
    module: Any = ModuleType("asyncio.tools")
    module.get_all_awaited_by = lambda pid: [f"task of {pid}"]
    module.build_async_tree = lambda found: [[*found, "child\x1b[2J"], ["other"]]
    monkeypatch.setitem(sys.modules, "asyncio.tools", module)
    return module


def test_tasks_are_logged_as_text_of_somebody_else(tools: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tell_tasks(3, 77, MOST_IN_FLIGHT)
    assert caplog.records[0].getMessage().split("\n")[1:] == ["task of 77", "child\\x1b[2J", "other"]
    assert caplog.records[0].__dict__["worker_pid"] == 77


def test_worker_with_very_many_tasks_is_not_looked_at(tools: Any, caplog: pytest.LogCaptureFixture) -> None:
    tell_tasks(3, 77, MOST_IN_FLIGHT + 1)
    assert caplog.records == []


def test_trees_are_bounded(tools: Any) -> None:
    tools.build_async_tree = lambda found: [["line"] * 10 * MOST_LINES]
    assert len(await_trees(77)) == MOST_LINES


@pytest.mark.parametrize("error", [RuntimeError("no such process"), PermissionError(1, "ptrace"), RecursionError()])
def test_process_that_cannot_be_seen_is_no_error(tools: Any, error: Exception) -> None:
    def fail(pid: int) -> None:
        raise error

    tools.get_all_awaited_by = fail
    assert await_trees(77) == []


def test_master_logs_the_tasks_of_a_worker_that_hangs(start: Start) -> None:
    service = start("hangs_in_boot", "--boot", "0.5", "--workers", "1", "--sees-tasks")
    boot = service.wait_for("boot", slot=1)[0]
    wait_until(lambda: f"a task of process {boot.pid}" in service.stderr(), 60, "the tasks")


@pytest.mark.skipif(HAS_TOOLS, reason="this Python sees tasks from outside")
def test_python_before_3_14_sees_nothing() -> None:
    assert await_trees(os.getpid()) == []


@pytest.mark.skipif(not HAS_TOOLS, reason="needs Python 3.14")
def test_tasks_of_another_process_are_seen() -> None:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:

        async def hang() -> None:
            task = asyncio.create_task(asyncio.sleep(600), name="sleeper")
            os.write(write, b"x")
            await task

        asyncio.run(hang())
        os._exit(0)
    try:
        os.read(read, 1)
        assert any("sleeper" in line for line in await_trees(pid))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
