"""`TestWorker` works in the frameworks that people test with, and a handler's failure fails the test.

The runs of pytest inside these tests forget what they import first, and uvloop cannot be imported twice. So it is
imported here, and mxworker with it.
"""

from __future__ import annotations

import pytest
import uvloop  # noqa: F401

import mxworker.testing.worker  # noqa: F401

QUIET = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")

APP = """
from mxworker import Context, Handlers, RetryPolicy

handlers = Handlers()

@handlers.consume("orders", retry=RetryPolicy(delays=(1, 5, 25)))
async def order(payload: dict, ctx: Context) -> None:
    if payload["total"] == 0:
        raise ConnectionError("the bank is away")
    await ctx.publisher.publish(payload, routing_key="done")
"""

STEPS = """
from app import handlers
from mxworker.testing import TestWorker

async def check(loop_name: str) -> None:
    assert type(asyncio.get_running_loop()).__module__.partition(".")[0] == loop_name
    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", {"total": 1})
        worker.assert_published("done", {"total": 1})
        await worker.deliver("orders", {"total": 0}, expect=ConnectionError)
        assert len(await worker.advance(31, expect=ConnectionError)) == 3
        assert len(worker.dead_letters("orders")) == 1
"""

UNDER_PYTEST_ASYNCIO = """
import asyncio
import pytest
import uvloop
from steps import check

@pytest.mark.asyncio
async def test_with_the_loop_of_asyncio():
    await check("asyncio")

class TestWithUvloop:
    @pytest.fixture
    def event_loop_policy(self):
        return uvloop.EventLoopPolicy()

    @pytest.mark.asyncio
    async def test_with_uvloop(self):
        await check("uvloop")
"""

UNDER_ANYIO = """
import pytest
from steps import check

@pytest.fixture(params=[False, True])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param}

@pytest.mark.anyio
async def test_with_both_loops(anyio_backend):
    await check("uvloop" if anyio_backend[1]["use_uvloop"] else "asyncio")
"""

UNDER_UNITTEST = """
import asyncio
import unittest
import uvloop
from steps import check

class OnAsyncio(unittest.IsolatedAsyncioTestCase):
    async def test_it(self):
        await check("asyncio")

class OnUvloop(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    @classmethod
    def tearDownClass(cls):
        asyncio.set_event_loop_policy(None)

    async def test_it(self):
        await check("uvloop")
"""

UNEXPECTED = """
import pytest
from app import handlers
from mxworker.testing import TestWorker

@pytest.mark.asyncio
async def test_order():
    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", {"total": 0}, message_id="m1")

@pytest.mark.asyncio
async def test_retry():
    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", {"total": 0}, expect=ConnectionError)
        await worker.advance(1)
"""


def test_it_works_under_each_framework_with_both_loops(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        app=APP,
        steps=f"import asyncio\n{STEPS}",
        test_asyncio=UNDER_PYTEST_ASYNCIO,
        test_anyio=UNDER_ANYIO,
        test_unittest=UNDER_UNITTEST,
    )
    pytester.runpytest_inprocess(*QUIET).assert_outcomes(passed=6)


def test_failure_that_is_not_expected_fails_the_test_with_the_traceback_of_the_handler(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(app=APP, test_orders=UNEXPECTED)
    result = pytester.runpytest_inprocess(*QUIET, "--show-capture=no")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*test_order*",
            '>*await worker.deliver("orders", {"total": 0}, message_id="m1")',
            '>           raise ConnectionError("the bank is away")',
            "E           ConnectionError: the bank is away",
            "E           in order() of queue 'orders', attempt 1: *",
            "app.py:*: ConnectionError",
            "*test_retry*",
            ">*await worker.advance(1)",
            '>           raise ConnectionError("the bank is away")',
            "E           in order() of queue 'orders', attempt 2: *",
        ]
    )
