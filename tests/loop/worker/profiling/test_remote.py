"""A profile of another process, over a socket: the result comes, or nothing, and never that of an earlier one."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mxworker.board.layout import PROFILE_BYTES, ProfileKind
from mxworker.worker.profiling.remote import ProfiledProcess, RemoteProfile
from tests.harness.waiting import until


@pytest.fixture
async def ends() -> AsyncIterator[tuple[RemoteProfile, ProfiledProcess]]:
    """Both ends in this process, whose main thread works for the handler `crunch`."""
    ours, theirs = socket.socketpair()
    process = ProfiledProcess(theirs, 3)
    process.loop = asyncio.get_running_loop()
    process.label = "handler crunch"
    profile = RemoteProfile(ours, lambda: process.on_signal(0, None))
    yield profile, process
    profile.stop()
    profile.close()


async def working(profile: RemoteProfile) -> bytes:
    """Return the result, and keep the main thread busy meanwhile."""
    result = await until(lambda: sum(range(1_000_000)) and profile.result(), 30, "the result")
    assert result is not None
    return result


async def test_profile_of_cpu_time_names_what_the_main_thread_works_for(ends: tuple[RemoteProfile, Any]) -> None:
    profile, _ = ends
    profile.begin(1, ProfileKind.CPU, 0.3)
    document = json.loads(await working(profile))
    assert "a process for cpu handlers of worker 3" in document["name"]
    assert "handler crunch" in {frame["name"] for frame in document["shared"]["frames"]}


async def test_profile_of_memory_is_a_report(ends: tuple[RemoteProfile, Any]) -> None:
    profile, _ = ends
    profile.begin(1, ProfileKind.MEMORY, 0.1)
    assert (await working(profile)).startswith(b"Memory of a process for cpu handlers of worker 3")


async def test_profile_that_is_stopped_does_not_hold_up_the_next_and_is_not_taken_for_it(
    ends: tuple[RemoteProfile, Any],
) -> None:
    profile, _ = ends
    profile.begin(1, ProfileKind.MEMORY, 3600)
    profile.stop()
    profile.begin(2, ProfileKind.MEMORY, 3600)
    profile.begin(3, ProfileKind.CPU, 0.1)
    assert json.loads(await working(profile))["name"].startswith("CPU time")


async def test_process_that_has_ended_or_answers_nonsense_has_no_result() -> None:
    for said in (b"", struct.pack(">QQ", 1, PROFILE_BYTES + 1)):
        ours, theirs = socket.socketpair()
        profile = RemoteProfile(ours, lambda: None)
        profile.begin(1, ProfileKind.CPU, 0.1)
        theirs.send(said)
        theirs.close()
        with pytest.raises(EOFError):
            profile.result()
        profile.begin(2, ProfileKind.CPU, 0.1)
        profile.stop()
        profile.close()
        with pytest.raises(EOFError):
            profile.result()
