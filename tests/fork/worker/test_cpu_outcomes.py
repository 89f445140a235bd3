"""What a handler in a process of its own returns or raises means what it means in the worker, and costs no process."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxworker import Ack, Handlers, Reject, Retry
from mxworker.api.handlers import compile_handlers
from mxworker.api.settlement import Settlement
from mxworker.worker.handling.delivery_log import DeliveryLog
from mxworker.worker.handling.endings import Dead
from tests.harness.copied import received
from tests.harness.cpu import cpu

SOURCE = """
    import asyncio
    import functools

    from mxworker import Ack, Handlers, Reject, Retry

    handlers = Handlers()


    class Mute(Exception):
        def __str__(self):
            raise SystemExit(3)


    class Closed(Exception):
        def __getattribute__(self, name):
            raise KeyboardInterrupt(name)


    async def comes_to(outcome):
        await asyncio.sleep(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


    async def waits_for_a_generator_exit():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, GeneratorExit())
        await future


    @handlers.middleware
    async def forgetful(payload, ctx, call_next):
        outcome = await call_next(payload, ctx)
        if not payload.startswith("forgotten"):
            return outcome


    async def in_a_group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(comes_to(Reject("no stock")))


    @handlers.consume("cpu", cpu=True)
    def end(what: str) -> object:
        match what:
            case "a coroutine": return comes_to(Reject("seen"))
            case "an ack to come": return comes_to(Ack())
            case "a group": return in_a_group()
            case "several": raise ExceptionGroup("g", [Reject("a"), Retry(reason="b")])
            case "a number": return 42
            case "an exception as a reason": raise Reject(ValueError("no"))
            case "a mute reason": raise Retry(reason=Mute())
            case "mute": raise Mute
            case "GeneratorExit": raise GeneratorExit
            case "GeneratorExit later": return waits_for_a_generator_exit()
            case "forgotten Reject": return Reject("not lost")
            case "forgotten raise": raise ValueError("not lost")
            case "closed": raise Closed
            case "a loop of its own": return asyncio.run(comes_to(Reject("run")))
"""

MEANS: dict[str, tuple[type[Settlement], str]] = {
    "a coroutine": (Reject, "seen"),
    "an ack to come": (Ack, ""),
    "a group": (Reject, "no stock"),
    "several": (Retry, "ExceptionGroup: Reject: a; Retry: b"),
    "a number": (Retry, "UnknownOutcome: returned an int; return None, Ack(), Requeue(), Retry() or Reject()"),
    "an exception as a reason": (Reject, "ValueError: no"),
    "a mute reason": (Retry, "Mute: (its text cannot be shown)"),
    "mute": (Retry, "Mute: (its text cannot be shown)"),
    "GeneratorExit": (Retry, "GeneratorExit"),
    "GeneratorExit later": (Retry, "GeneratorExit"),
    "forgotten Reject": (Reject, "not lost"),
    "forgotten raise": (Retry, "ValueError: not lost"),
    "closed": (Retry, "Closed: (its text cannot be shown)"),
    "a loop of its own": (Reject, "run"),
}


async def test_whatever_comes_back_is_settled_and_the_process_lives_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cpu(tmp_path, SOURCE, size=1) as app:
        found: dict[str, tuple[type[Settlement], str]] = {}
        for what in MEANS:
            settlement = await app.execute("cpu", what.encode())
            text = str(settlement.failure) if settlement.failure is not None else getattr(settlement, "reason", "")
            found[what] = type(settlement), text
        assert found == MEANS
        assert len(app.seen) == 1, "no process was lost"


async def test_traceback_comes_with_the_settlement_and_is_the_applications(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cpu(tmp_path, SOURCE, size=1) as app:
        settlement = await app.execute("cpu", b"forgotten raise")
    assert settlement.failure is not None
    trace = settlement.failure.trace
    assert "in end" in trace
    assert "in forgetful" in trace
    assert trace.endswith("ValueError: not lost")
    assert "mxworker/worker" not in trace
    handlers = Handlers()
    handlers.consume("cpu", cpu=True)(end)
    (handler,) = compile_handlers(handlers)
    DeliveryLog(handler).tell(received(), settlement, Dead(settlement.failure), 4)
    assert trace in caplog.text


def end(payload: str) -> None: ...
