"""A lifespan that the application registers: an async generator function, or a callable that makes a context manager.

`check` finds the mistakes that show before a lifespan is entered; its AppLoadErrors name file and line.

Pure: no code of the application is called before `Lifespan` itself is called.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from mxworker.api.callables import (
    AnyCallable,
    Site,
    first_called,
    innermost,
    is_coroutine_function,
    is_method_of_a_class,
    makes_async_context_manager,
    makes_context_manager,
    name_of,
    own_signature,
    place_of,
)
from mxworker.errors import AppLoadError
from mxworker.system.printable import foreign

_HOW = (
    "Write it as an async generator: what is before its one 'yield' runs at the start of each process, "
    "what is after it at the end"
)


class Lifespan:
    """The code that runs around the handlers of a registry. A call returns a new asynchronous context manager."""

    def __init__(self, function: AnyCallable, site: Site) -> None:
        """`site` is the place of the registration."""
        self.name = foreign(name_of(function))
        self.module = str(getattr(first_called(function), "__module__", None))
        self._function = function
        self._site = site
        is_generator = inspect.isasyncgenfunction(first_called(function))
        self._make = asynccontextmanager(function) if is_generator else function

    def __call__(self) -> Any:
        """Return the context manager to enter. Raises AppLoadError when the function makes no asynchronous one."""
        made = self._make()
        if hasattr(type(made), "__aenter__") and hasattr(type(made), "__aexit__"):
            return made
        if inspect.iscoroutine(made):
            made.close()
        raise self.fault(f"returns {_in_words(made)}, which is no asynchronous context manager. {_HOW}")

    def fault(self, text: str) -> AppLoadError:
        """Return the error for a lifespan that cannot work."""
        place = place_of(self._function, self._site)
        return AppLoadError(f"{foreign(place)}{'  ' if place else ''}lifespan '{self.name}' {text}.")

    def check(self) -> None:
        """Raise AppLoadError when the lifespan cannot work, as far as can be known without calling it."""
        function = self._function
        if is_method_of_a_class(function):
            raise self.fault(
                "is a method, and nothing here makes the object for its 'self'. Register a function of the module"
            )
        if makes_context_manager(function):
            raise self.fault("is a synchronous context manager. Make it 'async def', with asynccontextmanager")
        called = innermost(function) if makes_async_context_manager(function) else first_called(function)
        if inspect.isgeneratorfunction(called):
            raise self.fault("is a plain generator. Make it 'async def'")
        if is_coroutine_function(called):
            raise self.fault(f"is 'async def' without a 'yield'. {_HOW}")
        self._check_parameters()
        if inspect.isasyncgenfunction(called) and _yields(called) > 1:
            raise self.second_yield

    def _check_parameters(self) -> None:
        with suppress(ValueError):  # a callable without a readable signature may work
            signature = own_signature(self._function)
            try:
                signature.bind()
            except TypeError:
                raise self.fault(f"takes {signature}, but is called without arguments. Take none") from None

    @property
    def second_yield(self) -> AppLoadError:
        """The error for a lifespan that yields a second time."""
        return self.fault(f"yields more than once. {_HOW}")

    @property
    def no_yield(self) -> AppLoadError:
        """The error for a lifespan that ends without a yield."""
        return self.fault(f"ended without a 'yield'. {_HOW}")


def _in_words(made: object) -> str:
    if made is None:
        return "None"
    return f"a {type(made).__name__}"


def _yields(function: Any) -> int:
    """Return how often every way through a function yields at least, by its source; 0 when there is no source."""
    with suppress(OSError, TypeError, SyntaxError, ValueError):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        if isinstance(definition, ast.AsyncFunctionDef):
            return _yields_in(definition.body)
    return 0


def _yields_in(statements: Sequence[ast.stmt]) -> int:
    count = 0
    for statement in statements:
        match statement:
            case ast.Expr(value=ast.Yield()) | ast.Assign(value=ast.Yield()):
                count += 1
            case ast.With(body=body) | ast.AsyncWith(body=body):
                count += _yields_in(body)
            case ast.Try(body=body, finalbody=last):
                count += _yields_in(body) + _yields_in(last)
            case ast.Return() | ast.Raise():
                break
            case ast.If() | ast.Match() if _may_leave(statement):
                break
    return count


def _may_leave(statement: ast.stmt) -> bool:
    """Whether the function may end in a branch of `statement`."""
    return any(isinstance(part, ast.Return | ast.Raise) for part in ast.walk(statement))
