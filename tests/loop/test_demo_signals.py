"""The demo of `handlers_example` is interrupted by the first signal, whatever its event loop does at the moment."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from handlers_example.demo.__main__ import cancel_on_first_signal
from tests.loop.loops import on_both_loops

TIMEOUT_S = 0.01


@on_both_loops
async def test_signal_in_the_turn_of_a_timeout_is_not_lost() -> None:
    async def body() -> None:
        cancel_on_first_signal()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5 * TIMEOUT_S)  # noqa: ASYNC251  both are due when the loop turns again
                await asyncio.Event().wait()
        except TimeoutError:
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()


@on_both_loops
async def test_second_signal_is_left_to_the_service() -> None:
    async def body() -> None:
        cancel_on_first_signal()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(TIMEOUT_S)

    await asyncio.create_task(body())
