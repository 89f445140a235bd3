"""The parameters of a handler: the annotation of its payload, and whether it takes a Context.

Only the annotations of these two parameters are evaluated, since others may use names that do not exist at run time.
The text of every AppLoadError here continues the words "the handler".

Pure.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mxworker.api.callables import AnyCallable, Site, innermost, is_method_of_a_class, names_around, own_signature
from mxworker.api.context import Context
from mxworker.api.delivery import Delivery
from mxworker.errors import AppLoadError
from mxworker.payloads.annotations import bare, shown
from mxworker.system.foreign_errors import text_of

# Names that annotations may use although their module imports them for the type checker only.
_OURS = {"Context": Context, "Delivery": Delivery}
_CALLED_CONTEXT = ("ctx", "context")
_EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def parameters(function: AnyCallable, site: Site) -> tuple[Any, bool]:
    """Return the payload's annotation (Any when there is none), and whether the handler takes a Context.

    The payload is the first parameter. The second one is the Context when it has no default, when it is annotated with
    Context, or when it has no annotation and is called ctx or context. Raises AppLoadError.
    """
    if is_method_of_a_class(function):
        raise AppLoadError(
            "is a method, and nothing here makes the object for its 'self'. Register a function of the module, or the "
            f'method of an object, once that exists: handlers.consume("...")(thing.{function.__name__})'
        )
    try:
        signature = own_signature(function)
    except (TypeError, ValueError) as error:
        raise AppLoadError(f"does not tell its parameters ({error}); call it in a function of your own") from error
    names = {**_OURS, **names_around(function, site)}
    taken = [parameter for parameter in signature.parameters.values() if parameter.kind in _POSITIONAL]
    others = [parameter for parameter in signature.parameters.values() if parameter not in taken[:2]]
    payload = _payload(function, taken[0], names) if taken else Any
    if _means_context(payload):
        raise AppLoadError(
            f"takes a Context as its first parameter, '{taken[0].name}'; the payload comes first, and then the Context"
        )
    wants_context = len(taken) > 1 and _is_context(taken[1], names)
    left = others if wants_context or len(taken) < 2 else [taken[1], *others]
    if not taken or any(_is_needed(parameter) for parameter in left):
        raise AppLoadError(_other_parameters(signature))
    for parameter in left:
        if _asks_for_context(parameter, names):
            raise AppLoadError(f"must take its Context, '{parameter.name}', as the second parameter, by position")
    return payload, wants_context


def _payload(function: AnyCallable, parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
    """Return the annotation of the payload; a wrapper without one has that of the function that it wraps."""
    if parameter.annotation is _EMPTY:
        with suppress(TypeError, ValueError):
            parameter = next(iter(inspect.signature(innermost(function)).parameters.values()), parameter)
    return Any if parameter.annotation is _EMPTY else _evaluated(parameter, names)


def _is_context(second: inspect.Parameter, names: dict[str, Any]) -> bool:
    """Whether the second parameter is the Context. Raises AppLoadError when it is not and has no default."""
    has_default = second.default is not _EMPTY
    if second.annotation is _EMPTY:
        return not has_default or second.name in _CALLED_CONTEXT
    if has_default:
        return _asks_for_context(second, names)
    if not _means_context(_evaluated(second, names)):
        raise AppLoadError(f"must annotate its second parameter '{second.name}' as mxworker.Context")
    return True


def _asks_for_context(parameter: inspect.Parameter, names: dict[str, Any]) -> bool:
    """Whether a parameter is annotated with Context, and has no default or the default None."""
    if parameter.default not in (None, _EMPTY) or parameter.annotation is _EMPTY:
        return False
    try:
        return _means_context(_evaluated(parameter, names))
    except AppLoadError:  # the annotation has an unknown name, so it is not Context
        return False


def _means_context(annotation: Any) -> bool:
    annotation = bare(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return [bare(part) for part in get_args(annotation) if part is not NoneType] == [Context]
    return annotation is Context


def _evaluated(parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
    """Return the value of an annotation. Raises AppLoadError when it cannot be evaluated."""
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, names, names, include_extras=True)[parameter.name]
    except Exception as error:  # the annotation is the user's code, and may do anything
        why = (
            f"has an annotation that cannot be resolved: {text_of(error)}, in '{parameter.name}: {_written(parameter)}'"
        )
        if isinstance(error, NameError):
            why += ". The name has to be there at run time, not only under TYPE_CHECKING"
        raise AppLoadError(why) from error


def _written(parameter: inspect.Parameter) -> str:
    return parameter.annotation if isinstance(parameter.annotation, str) else shown(parameter.annotation)


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is _EMPTY


def _other_parameters(signature: inspect.Signature) -> str:
    text = f"takes {signature}"
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        text += ", which a wrapper replaces by what it wraps with functools.wraps"
    return (
        f"{text}; it must take the payload and, if wanted, a Context; nothing else. "
        "Write it like (payload: dict) or (payload: dict, ctx: Context)"
    )
