"""Python in the documentation, run as it stands there.

A block that imports is a program: it has the names that it makes, and no others. One without an import is a part of a
program, and has the public names of mxworker, `handlers`, and, where it says `publisher`, a connected one. Every broker
URL is replaced by that of a real broker.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mxworker
from mxworker import Handlers, Publisher
from mxworker.api.handlers import compile_handlers
from mxworker.worker.loading import load
from tests.harness.pages import BEFORE, Block
from tests.rabbit.client import Client

URL = re.compile(r"amqps?://[^\"'\s]+@[^\"'\s]+")
ENOUGH_S = 30.0
GIVEN = ("declare", "enter")
"""Functions for the code of a mark `before`: they declare queues, and enter an asynchronous context."""
TEST = "test_"
"""A block that defines functions with this prefix is a module of tests, whose fixtures pytest makes."""

Fixture = Callable[[str], Any]


def run_python(block: Block, folder: Path, broker_url: Callable[[], str], fixture: Fixture) -> None:
    """Run a block. `folder` is empty, and the current directory; `fixture` returns the value of a fixture of pytest."""
    with_url = partial(URL.sub, lambda _: broker_url())
    source, before = with_url(block.text), with_url(block.marks.get(BEFORE, ""))
    if registries(source) and not before and not is_asynchronous(source):
        load_as_application(source, folder)
        return
    names = module(source).__dict__
    asyncio.run(run_on_loop(block, before, source, names, broker_url))
    for function in tests_in(names, asynchronous=False):
        function(*[fixture(each) for each in inspect.signature(function).parameters])
    for registry in {id(value): value for value in names.values() if isinstance(value, Handlers)}.values():
        compile_handlers(registry)


async def run_on_loop(
    block: Block, before: str, source: str, names: dict[str, Any], broker_url: Callable[[], str]
) -> None:
    """Run what comes before a block, the block, and its asynchronous tests, whose arguments are those names."""
    async with asyncio.timeout(ENOUGH_S), AsyncExitStack() as stack:
        if before:
            names |= {"declare": partial(declare, broker_url), "enter": stack.enter_async_context}
            await run(compiled(before, f"{block} (before)", 0), names)
        if needs_publisher(source, names):
            names["publisher"] = await stack.enter_async_context(Publisher.connect(broker_url()))
        await run(compiled(source, str(block), block.line), names)
        for function in tests_in(names, asynchronous=True):
            await function(*[names[each] for each in inspect.signature(function).parameters])


def module(source: str) -> types.ModuleType:
    """Return a module for a block, with the names that the block has without making them."""
    made = types.ModuleType("block")
    sys.modules[made.__name__] = made  # where the annotations of dataclasses are looked up
    if not is_program(source):
        vars(made).update({name: getattr(mxworker, name) for name in mxworker.__all__}, handlers=Handlers())
    return made


def declare(broker_url: Callable[[], str], *queues: str, exchange: str = "", routing_key: str = "") -> None:
    """Declare queues, and bind them to an exchange."""
    with Client(broker_url()) as client:
        if exchange:
            client.declare_exchange(exchange)
        for queue in queues:
            client.declare(queue)
            if exchange:
                client.bind(queue, exchange, routing_key)


def tests_in(names: dict[str, Any], asynchronous: bool) -> list[Callable[..., Any]]:
    found = [value for name, value in names.items() if name.startswith(TEST)]
    return [each for each in found if inspect.iscoroutinefunction(each) is asynchronous]


def is_program(source: str) -> bool:
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in parsed(source).body)


def registries(source: str) -> list[str]:
    """Return the names to which a module assigns a `Handlers(...)` at its top."""
    return [
        ast.unparse(node.targets[0])
        for node in parsed(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Handlers(")
    ]


def needs_publisher(source: str, names: dict[str, Any]) -> bool:
    stored = {node.id for node in ast.walk(parsed(source)) if is_stored(node)}
    used = {node.id for node in ast.walk(parsed(source)) if isinstance(node, ast.Name)}
    return not is_program(source) and "publisher" in used - stored - names.keys()


def is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def is_asynchronous(source: str) -> bool:
    return bool(compiled(source, "block", 0).co_flags & inspect.CO_COROUTINE)


def parsed(source: str) -> ast.Module:
    return compile(source, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def compiled(source: str, name: str, line: int) -> types.CodeType:
    """Compile so that a traceback has the lines of the page."""
    return compile("\n" * line + source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def run(code: types.CodeType, names: dict[str, Any]) -> None:
    outcome = eval(code, names)
    if inspect.isawaitable(outcome):
        await outcome


def load_as_application(source: str, folder: Path) -> None:
    """Have the loader of a worker import and compile the block, under the name of the file that its first line says."""
    said = re.match(r"# (?:[\w/]+/)?(\w+\.py)\b", source)
    file = folder / (said[1] if said else "application.py")
    file.write_text(source)
    with imports_undone(folder):
        for name in registries(source):
            compile_handlers(load(f"{file}:{name}", str(folder), may_be_insecure=True))


@contextmanager
def imports_undone(folder: Path) -> Iterator[None]:
    """Forget afterwards what was imported from `folder`, and the import path."""
    path = sys.path.copy()
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
