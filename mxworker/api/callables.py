"""The callables that the application registers: the name, the place in the code, and the function that a call runs.

Functions, bound methods, `functools.partial`, static methods, wrappers made with `functools.wraps` and objects with a
`__call__` are all treated alike.

Pure: no code of the application is called.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any

AnyCallable = Callable[..., Any]

_MOST_LAYERS = 100  # one may wrap itself


@dataclass(frozen=True, slots=True)
class Site:
    """The place of a registration, and the local names that annotations may use there."""

    place: str = ""
    names: Mapping[str, Any] | None = None


NOWHERE = Site()


def site_of(function: object, frame: FrameType | None) -> Site:
    """Return the site of `function`, which is registered by the code that `frame` runs."""
    if frame is None:
        return Site()
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if frame.f_locals is frame.f_globals:
        return Site(place)
    # Only the locals that an annotation names, since the registry lives as long as the process.
    annotations = " ".join(map(str, _annotations_of(function)))
    return Site(place, {name: value for name, value in frame.f_locals.items() if name in annotations})


def caller() -> FrameType | None:
    """Return the frame of the code that called the function that calls this one."""
    return sys._getframe(2)


def bare_function(function: Any) -> Any:
    """Return the function inside a static method; anything else as it is."""
    return function.__func__ if isinstance(function, staticmethod) else function


def name_of(function: object) -> str:
    """Return the name of a callable. A bound method has its class before it; an object has the name of its class."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    if inspect.ismethod(function):
        owner = function.__self__
        kind = owner if isinstance(owner, type) else type(owner)
        return f"{kind.__name__}.{name_of(function.__func__)}"
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def place_of(function: object, site: Site = NOWHERE) -> str:
    """Return `file:line` of a function, or of the registration of another callable. Empty when neither is known."""
    function = bare_function(function)
    inner = innermost(function) if isinstance(function, FunctionType) else None
    if isinstance(inner, FunctionType):
        return f"{inner.__code__.co_filename}:{inner.__code__.co_firstlineno}"
    return site.place


def first_called(function: Any) -> Any:
    """Return the function that a call of `function` runs, inside partials, methods and objects with `__call__`."""
    for _ in range(_MOST_LAYERS):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod | classmethod) or inspect.ismethod(function):
            function = function.__func__
        elif inspect.isroutine(function) or isinstance(function, type):
            break
        else:
            function = type(function).__call__
    return function


def innermost(function: Any) -> Any:
    """Return the innermost function: that of `first_called`, without the layers of `functools.wraps`."""
    for _ in range(_MOST_LAYERS):
        function = first_called(function)
        wrapped = vars(function).get("__wrapped__") if isinstance(function, FunctionType) else None
        if wrapped is None:
            break
        function = wrapped
    return function


def is_coroutine_function(function: Any) -> bool:
    """Whether a call makes a coroutine, as far as can be known without the call."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(first_called(function))


def is_generator_function(function: Any) -> bool:
    """Whether a call makes a generator or an asynchronous generator."""
    called = first_called(function)
    return inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called)


def makes_context_manager(function: Any) -> bool:
    """Whether `function` was made by `contextlib.contextmanager`."""
    return getattr(first_called(function), "__code__", None) is _BY_CONTEXTMANAGER


def makes_async_context_manager(function: Any) -> bool:
    """Whether `function` was made by `contextlib.asynccontextmanager`."""
    return getattr(first_called(function), "__code__", None) is _BY_ASYNCCONTEXTMANAGER


def is_method_of_a_class(function: Any) -> bool:
    """Whether `function` is defined in the body of a class and needs its `self` or `cls`."""
    if not isinstance(function, FunctionType):
        return False
    owner, _, _ = function.__qualname__.rpartition(".")
    first = next(iter(inspect.signature(function).parameters), "")
    return bool(owner) and not owner.endswith("<locals>") and first in ("self", "cls")


def can_be_called_with(function: Any, arguments: int) -> bool:
    """Whether `function` takes this number of positional arguments; True when it has no readable signature."""
    try:
        inspect.signature(function, follow_wrapped=False).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def own_signature(function: Any) -> inspect.Signature:
    """Return the signature of `function`, or of the function that it wraps when its own has `*args`.

    Annotations are not evaluated. Raises TypeError or ValueError when there is no signature.
    """
    own = inspect.signature(function, follow_wrapped=False)
    while _takes_anything(own) and isinstance(function, FunctionType) and "__wrapped__" in vars(function):
        function = vars(function)["__wrapped__"]
        own = inspect.signature(function, follow_wrapped=False)
    return inspect.signature(function) if _takes_anything(own) else own


def names_around(function: Any, site: Site) -> dict[str, Any]:
    """Return the names that annotations of `function` may use: global, local where it was registered, or enclosed."""
    names: dict[str, Any] = {}
    for layer in _layers(function):
        if isinstance(layer, FunctionType):
            names |= layer.__globals__
    names |= site.names or {}
    for layer in _layers(function):
        if isinstance(layer, FunctionType):
            names |= _enclosed(layer)
            names |= {parameter.__name__: parameter for parameter in getattr(layer, "__type_params__", ())}
    return names


def _layers(function: Any) -> Iterator[Any]:
    """Yield the function that is called first, and those that it wraps, down to the innermost."""
    for _ in range(_MOST_LAYERS):
        function = first_called(function)
        yield function
        if not isinstance(function, FunctionType) or "__wrapped__" not in vars(function):
            return
        function = vars(function)["__wrapped__"]


def _takes_anything(signature: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())


def _annotations_of(function: object) -> list[Any]:
    annotations = getattr(innermost(function), "__annotations__", None) if callable(function) else None
    return list(annotations.values()) if isinstance(annotations, dict) else []


def _enclosed(function: FunctionType) -> dict[str, Any]:
    """Return the variables of enclosing functions that `function` uses, if they have a value by now."""
    enclosed = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            enclosed[name] = cell.cell_contents
    return enclosed


# The functions that `contextlib` makes are recognised by their code objects.
_BY_CONTEXTMANAGER: CodeType = contextmanager(_layers).__code__
_BY_ASYNCCONTEXTMANAGER: CodeType = asynccontextmanager(_layers).__code__  # type: ignore[arg-type]
