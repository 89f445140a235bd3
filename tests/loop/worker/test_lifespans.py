"""Lifespans that cannot be entered: what is wrong, in which line of the application, and how it should be."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import textwrap
from asyncio import timeouts
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType, TracebackType

import pytest

from mxworker import Handlers
from mxworker.api.handlers import compile_handlers
from mxworker.errors import AppLoadError
from mxworker.system.task_stacks import task_stack
from mxworker.worker import lifespans
from mxworker.worker.lifespans import Lifespans
from mxworker.worker.loading import load
from tests.harness.imports import forgotten_imports
from tests.harness.waiting import until

_NUMBERS = itertools.count()
HEAD = """
import asyncio
import contextlib
from functools import partial, wraps
from mxworker import Handlers
handlers = Handlers()
@handlers.consume("q")
async def order(payload: dict): ...
"""
WAITS = {
    "generator": """
        @handlers.lifespan
        async def shop():
            await asyncio.Event().wait()  # here
            yield
    """,
    "function called by it": """
        async def connect():
            await asyncio.sleep(60)  # here
        @handlers.lifespan
        async def shop():
            async with asyncio.timeout(50):
                await connect()
            yield
    """,
    "context manager": """
        @handlers.lifespan
        @contextlib.asynccontextmanager
        async def shop():
            await asyncio.sleep(60)  # here
            yield
    """,
    "class": """
        class Shop:
            async def __aenter__(self):
                await asyncio.sleep(60)  # here
            async def __aexit__(self, *_): ...
        @handlers.lifespan
        def shop():
            return Shop()
    """,
    "generator in a generator": """
        async def tills():
            await asyncio.sleep(60)  # here
            yield
        @handlers.lifespan
        async def shop():
            async for till in tills():
                pass
            yield
    """,
    "one that takes its time to leave": """
        @handlers.lifespan
        async def shop():
            try:
                await asyncio.sleep(60)  # here
            finally:
                await asyncio.sleep(0.01)
            yield
    """,
    "task group": """
        @handlers.lifespan
        async def shop():
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                await asyncio.sleep(60)  # here
            yield
    """,
}


class App:
    """A module with a lifespan."""

    def __init__(self, folder: Path) -> None:
        self.name = f"lifespans_{next(_NUMBERS)}"
        self.path = folder / f"{self.name}.py"
        self._folder = folder

    def load(self, source: str) -> Handlers:
        self.path.write_text(HEAD + textwrap.dedent(source))
        return load(self.name, str(self._folder))

    @property
    def module(self) -> ModuleType:
        """The module that was loaded."""
        return sys.modules[self.name]

    @property
    def here(self) -> int:
        """The number of the marked line."""
        return next(number for number, line in enumerate(self.path.read_text().splitlines(), 1) if "# here" in line)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    made = App(tmp_path)
    with forgotten_imports(made.name):
        yield made


async def refusal(handlers: Handlers, timeout_s: float | None = None) -> str:
    """Return why a lifespan is not entered."""
    with pytest.raises(AppLoadError) as caught:
        await asyncio.wait_for(Lifespans(compile_handlers(handlers)).enter(timeout_s), 20)
    return str(caught.value)


# ---- one that hangs


@pytest.mark.parametrize("case", WAITS)
async def test_one_that_hangs_shows_the_line_where_it_waits(case: str, app: App) -> None:
    text = await refusal(app.load(WAITS[case]), 0.1)
    headline, *_, last = text.splitlines()
    assert headline == (
        f"lifespan 'shop' of '{app.name}' is not entered after 100ms, the time that --boot-timeout gives it:"
    )
    assert last.lstrip().startswith(f"{app.path}:{app.here}  ")
    assert "asyncio/" not in text


async def test_one_that_cannot_be_cancelled_is_known_by_that(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifespans, "_ENTER_GRACE_S", 0.01)
    handlers = app.load("""
        tries = []
        @handlers.lifespan
        async def shop():
            while len(tries) < 3:
                try:
                    await asyncio.sleep(60)  # here
                except BaseException:
                    tries.append(1)
            yield
    """)
    opening = Lifespans(compile_handlers(handlers))
    entering = asyncio.create_task(opening.enter(0.1))
    await asyncio.wait_for(opening.has_stuck.wait(), 20)
    headline, line = str(opening.not_entered).splitlines()
    assert headline.endswith("that --boot-timeout gives it, and goes on though cancelled (catch Exception, not all):")
    assert line.lstrip().startswith(f"{app.path}:{app.here}  ")
    opening.give_up_entering()  # as a stop does
    for _ in range(2):
        entering.cancel()
        await asyncio.sleep(0.01)
    await asyncio.wait_for(entering, 20)


@pytest.mark.parametrize("case", WAITS)
async def test_line_does_not_depend_on_the_traceback(case: str, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Python 3.11.2, whose `asyncio.timeout` loses the cancellation."""
    whole_exit = timeouts.Timeout.__aexit__

    async def forgetful_exit(
        self: timeouts.Timeout,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return await whole_exit(self, kind, error, traceback)
        except TimeoutError:
            lost = TimeoutError()
        raise lost

    monkeypatch.setattr(timeouts.Timeout, "__aexit__", forgetful_exit)
    text = await refusal(app.load(WAITS[case]), 0.1)
    assert text.splitlines()[-1].lstrip().startswith(f"{app.path}:{app.here}  ")


async def test_timeout_of_its_own_is_its_own_failure(app: App) -> None:
    text = await refusal(
        app.load("""
            @handlers.lifespan
            async def shop():
                raise TimeoutError("no such shop")  # here
                yield
        """),
        60,
    )
    assert text.startswith("lifespan 'shop' failed at the start:\n")
    assert text.endswith("TimeoutError: no such shop")


async def test_second_one_has_the_time_that_the_first_left(app: App) -> None:
    handlers = app.load("""
        inner = Handlers()
        @handlers.lifespan
        async def shop():
            await asyncio.sleep(0.05)
            yield
        @inner.lifespan
        async def till():
            await asyncio.sleep(60)  # here
            yield
        @inner.consume("r")
        async def book(payload: dict): ...
        handlers.include(inner)
    """)
    text = await refusal(handlers, 5)
    assert text.startswith(f"lifespan 'till' of '{app.name}' is not entered after 5s")


async def test_stack_of_a_task_goes_on_inside_an_async_generator() -> None:
    async def inside() -> AsyncIterator[int]:
        await asyncio.sleep(60)
        yield 1

    async def outside() -> None:
        async for _ in inside():
            pass

    task = asyncio.create_task(outside())
    await asyncio.sleep(0)
    names = [line.rpartition(" ")[2] for line in task_stack(task)]
    task.cancel()
    assert names == ["outside", "inside", "sleep"]


# ---- one that cannot be entered

MISTAKES = {
    "coroutine function": (
        "@handlers.lifespan  # here\nasync def shop():\n    pass",
        "is 'async def' without a 'yield'. Write it as an async generator",
    ),
    "coroutine function as a context manager": (
        "@handlers.lifespan  # here\n@contextlib.asynccontextmanager\nasync def shop():\n    pass",
        "is 'async def' without a 'yield'.",
    ),
    "plain generator": (
        "@handlers.lifespan  # here\ndef shop():\n    yield", "is a plain generator. Make it 'async def'.",
    ),
    "plain generator as a context manager": (
        "@handlers.lifespan  # here\n@contextlib.asynccontextmanager\ndef shop():\n    yield",
        "is a plain generator. Make it 'async def'.",
    ),
    "synchronous context manager": (
        "@handlers.lifespan  # here\n@contextlib.contextmanager\ndef shop():\n    yield",
        "is a synchronous context manager. Make it 'async def', with asynccontextmanager.",
    ),
    "parameter": (
        "@handlers.lifespan  # here\nasync def shop(app):\n    yield",
        "takes (app), but is called without arguments. Take none.",
    ),
    "parameter of a context manager": (
        "@handlers.lifespan  # here\n@contextlib.asynccontextmanager\nasync def shop(app):\n    yield",
        "takes (app), but is called without arguments. Take none.",
    ),
    "method": (
        "class Shop:\n    @handlers.lifespan  # here\n    async def shop(self):\n        yield",
        "is a method, and nothing here makes the object for its 'self'.",
    ),
    "two yields": ("@handlers.lifespan  # here\nasync def shop():\n    yield 1\n    yield 2", "yields more than once."),
    "two yields inside": (
        "@handlers.lifespan  # here\nasync def shop():\n    async with asyncio.timeout(9):\n        state = yield 1\n"
        "    try:\n        yield 2\n    finally:\n        pass",
        "yields more than once.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_told_before_anything_is_entered(case: str, app: App) -> None:
    source, text = MISTAKES[case]
    handlers = app.load(source)
    with pytest.raises(AppLoadError) as caught:
        compile_handlers(handlers)
    assert str(caught.value).startswith(f"{app.path}:{app.here}  lifespan 'shop' {text}")


@pytest.mark.parametrize(
    "source",
    [
        "@handlers.lifespan\nasync def shop():\n    if handlers:\n        yield 1\n    else:\n        yield 2",
        "@handlers.lifespan\nasync def shop():\n    if handlers:\n        yield 1\n        return\n    yield 2",
        "@handlers.lifespan\nasync def shop(till=1):\n    try:\n        yield till\n    finally:\n        pass",
        "async def shop(till):\n    yield till\nhandlers.lifespan(partial(shop, 1))",
        "class Shop:\n    async def open(self):\n        yield 1\nhandlers.lifespan(Shop().open)",
        "class Shop:\n    @handlers.lifespan\n    @staticmethod\n    async def open():\n        yield 1",
        "class Shop:\n    async def __call__(self):\n        yield 1\nhandlers.lifespan(Shop())",
        "@handlers.lifespan\n@contextlib.asynccontextmanager\nasync def shop():\n    yield 1",
        "async def shop():\n    yield 1\n@handlers.lifespan\n@wraps(shop)\nasync def wrapper(*args):\n    yield 1",
        "@handlers.lifespan\nclass Shop:\n    async def __aenter__(self):\n        return 1\n"
        "    async def __aexit__(self, *_): ...",
    ],
)
async def test_every_form_of_one_is_entered_and_left(source: str, app: App, caplog: pytest.LogCaptureFixture) -> None:
    handlers = app.load(source)
    (handler,) = compile_handlers(handlers)
    lifespans = Lifespans([handler])
    await lifespans.enter(60)
    assert lifespans.state_of(handler) == 1
    await lifespans.leave(0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def shop():\n    pass", "returns None, which is no asynchronous context manager. Write it as"),
        ("def shop():\n    return open('/dev/null')", "returns a TextIOWrapper, which is no asynchronous context"),
        ("def shop():\n    return asyncio.sleep(0)", "returns a coroutine, which is no asynchronous context"),
        ("async def shop():\n    if not handlers:\n        yield", "ended without a 'yield'. Write it as"),
    ],
)
async def test_what_only_shows_when_it_is_called_is_told(source: str, text: str, app: App) -> None:
    handlers = app.load(f"@handlers.lifespan  # here\n{source}")
    assert (await refusal(handlers)).startswith(f"{app.path}:{app.here}  lifespan 'shop' {text}")


async def test_second_yield_that_nobody_could_see_is_told_at_the_end(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = app.load("@handlers.lifespan  # here\nasync def shop():\n    for till in (1, 2):\n        yield till")
    lifespans = Lifespans(compile_handlers(handlers))
    await lifespans.enter()
    await lifespans.leave(0)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "lifespan 'shop' yields more than once" in record.getMessage()
    assert record.exc_info is None


# ---- one with a task group that fails

GROUP_FAILS = {
    "at the start": """
        @handlers.lifespan
        async def shop():
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
            yield
    """,
    "at the start, caught": """
        @handlers.lifespan
        async def shop():
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
            except* OSError:
                raise ValueError("no warehouse")
            yield
    """,
    "in the one before, caught": """
        tills = Handlers()
        @tills.consume("tills")
        async def sale(payload: dict): ...
        @tills.lifespan
        async def open_tills():
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
            yield
        shop_handlers, handlers = handlers, Handlers()
        handlers.include(tills)
        handlers.include(shop_handlers)
        @shop_handlers.lifespan
        async def shop():
            raise OSError("no warehouse")
            yield
    """,
}
FAIL = """
async def fail():
    raise OSError("no warehouse")
"""


@pytest.mark.parametrize("case", GROUP_FAILS)
async def test_failed_task_group_is_a_failure_and_no_cancellation(case: str, app: App) -> None:
    """In Python 3.11 and 3.12 the task then looks for ever as if it were being cancelled."""
    text = await refusal(app.load(FAIL + textwrap.dedent(GROUP_FAILS[case])))
    assert "lifespan 'shop' failed at the start" in text
    assert "no warehouse" in text


async def test_task_group_that_fails_at_the_end_is_told(app: App, caplog: pytest.LogCaptureFixture) -> None:
    source = """
        @handlers.lifespan
        async def shop():
            yield
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
    """
    entered = Lifespans(compile_handlers(app.load(FAIL + textwrap.dedent(source))))
    await entered.enter()
    await entered.leave(asyncio.get_running_loop().time() + 20)
    assert isinstance(entered.end_error, ExceptionGroup)
    assert "a lifespan failed at the end: 'shop'" in caplog.text


# ---- one that is cancelled while it is open

POLLER = """
steps = []
async def poller():
    raise ValueError("poller broke")  # here
class Opened:
    def __enter__(self):
        steps.append("open")
    def __exit__(self, *_):
        steps.append("close")
"""
CANCELLED = {
    "task group": (
        """
        @handlers.lifespan
        async def shop():
            with Opened():
                async with asyncio.TaskGroup() as group:
                    group.create_task(poller())
                    yield
        """,
        "ExceptionGroup: ValueError: poller broke",
    ),
    "context manager": (
        """
        @handlers.lifespan
        @contextlib.asynccontextmanager
        async def shop():
            with Opened():
                async with asyncio.TaskGroup() as group:
                    group.create_task(poller())
                    yield
        """,
        "ExceptionGroup: ValueError: poller broke",
    ),
    "class": (
        """
        @handlers.lifespan
        class shop(asyncio.TaskGroup):
            async def __aenter__(self):
                steps.append("open")
                await super().__aenter__()
                self.create_task(poller())
            async def __aexit__(self, *failure):
                steps.append("close")
                return await super().__aexit__(*failure)
        """,
        "ExceptionGroup: ValueError: poller broke",
    ),
    "anyio": (
        """
        import anyio
        @handlers.lifespan
        async def shop():
            with Opened():
                async with anyio.create_task_group() as group:
                    group.start_soon(poller)
                    yield
        """,
        "ExceptionGroup: ValueError: poller broke",
    ),
    "timeout": (
        """
        @handlers.lifespan
        async def shop():
            with Opened():
                async with asyncio.timeout(0.01):
                    yield
        """,
        "TimeoutError",
    ),
    "task that somebody cancels": (
        """
        @handlers.lifespan
        async def shop():
            with Opened():
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
                yield
        """,
        "it was cancelled",
    ),
    "inner of two": (
        """
        inner = Handlers()
        @handlers.lifespan
        async def town():
            yield
        @inner.lifespan
        async def shop():
            with Opened():
                async with asyncio.TaskGroup() as group:
                    group.create_task(poller())
                    yield
        @inner.consume("r")
        async def book(payload: dict): ...
        handlers.include(inner)
        """,
        "ExceptionGroup: ValueError: poller broke",
    ),
}


@pytest.mark.parametrize("case", CANCELLED)
async def test_one_that_is_cancelled_stays_open_until_it_may_leave(
    case: str, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    source, why = CANCELLED[case]
    if case == "anyio":
        pytest.importorskip("anyio")
    handlers = app.load(POLLER + textwrap.dedent(source))
    steps = app.module.steps
    cancelled = list[bool]()
    lifespans = Lifespans(compile_handlers(handlers), lambda: cancelled.append(True))
    await lifespans.enter(60)
    await until(lambda: cancelled, 20)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (steps, cancelled) == (["open"], [True])
    assert not caplog.records
    await lifespans.leave(0)
    assert steps == ["open", "close"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"a lifespan failed while the process served: 'shop': {why}"
    if "poller" in why:
        assert f'{app.path}", line {app.here}, in poller' in logging.Formatter().format(record)
    assert lifespans.end_error is not None


async def test_one_that_fails_at_the_end_is_named_and_not_the_one_around_it(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = app.load("""
        inner = Handlers()
        @handlers.lifespan
        async def town():
            yield
        @inner.lifespan
        async def shop():
            yield
            raise LookupError("no such shop")
        @inner.consume("r")
        async def book(payload: dict): ...
        handlers.include(inner)
    """)
    lifespans = Lifespans(compile_handlers(handlers))
    await lifespans.enter()
    await lifespans.leave(0)
    (record,) = caplog.records
    assert record.getMessage() == "a lifespan failed at the end: 'shop'"


async def test_timeout_at_the_end_is_its_own_failure(app: App, caplog: pytest.LogCaptureFixture) -> None:
    handlers = app.load("""
        @handlers.lifespan
        async def shop():
            yield
            raise TimeoutError("no such shop")
    """)
    lifespans = Lifespans(compile_handlers(handlers))
    await lifespans.enter()
    await lifespans.leave(asyncio.get_running_loop().time() + 60)
    (record,) = caplog.records
    assert record.getMessage() == "a lifespan failed at the end: 'shop'"


async def test_context_variables_of_one_are_those_of_the_task_that_enters_it(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = app.load("""
        from contextvars import ContextVar
        tenant = ContextVar("tenant", default="nobody")
        @handlers.lifespan
        async def shop():
            token = tenant.set("shop")
            yield
            tenant.reset(token)
    """)
    tenant = app.module.tenant
    lifespans = Lifespans(compile_handlers(handlers))
    await lifespans.enter()
    assert tenant.get() == "shop"
    await lifespans.leave(0)
    assert not caplog.records


@pytest.mark.parametrize("phase", ["start", "end"])
async def test_cancellation_of_the_task_that_enters_and_leaves_reaches_it(phase: str, app: App) -> None:
    handlers = app.load(f"""
        steps = []
        async def wait():
            steps.append("waits")
            try:
                await asyncio.sleep(60)
            finally:
                steps.append("cancelled")
        @handlers.lifespan
        async def shop():
            if "{phase}" == "start":
                await wait()
            yield
            await wait()
    """)
    steps = app.module.steps
    lifespans = Lifespans(compile_handlers(handlers))

    async def live() -> None:
        await lifespans.enter()
        await lifespans.leave(asyncio.get_running_loop().time() + 60)

    living = asyncio.create_task(live())
    await until(lambda: steps, 20)
    living.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(living, 20)
    assert steps == ["waits", "cancelled"]


def test_loop_can_be_closed_although_nobody_leaves(app: App) -> None:
    handlers = app.load("""
        steps = []
        @handlers.lifespan
        async def shop():
            yield
            steps.append("left")
    """)
    asyncio.run(Lifespans(compile_handlers(handlers)).enter())
    assert app.module.steps == ["left"]
