"""Run an async test on asyncio's own loop and on uvloop, under a deadline."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

DEADLINE_S = 180.0

Test = Callable[..., None]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Test:
    """Turn an async test into a plain one that runs it on each loop; hanging is a failure, not a hang."""

    def run(loop_name: str, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=_factory(loop_name)) as runner:
            runner.run(asyncio.wait_for(test(**arguments), DEADLINE_S))

    name = inspect.Parameter("loop_name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = inspect.signature(test).parameters.values()
    run.__dict__["__signature__"] = inspect.Signature([name, *own])  # what pytest reads
    run.__name__, run.__module__, run.__doc__ = test.__name__, test.__module__, test.__doc__
    return cast(Test, pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])(run))


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    import uvloop

    return uvloop.new_event_loop
