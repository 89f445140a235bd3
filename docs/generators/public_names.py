"""Every public name with its signature and what its docstring says first, made from the sources."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from importlib import import_module
from typing import Any

import mxworker
from docs.generators.markdown import page as page_of
from docs.generators.markdown import table
from docs.generators.sources import Function, definition_of, described, tree_of
from mxworker import errors, testing

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Registering handlers": (
        *("Handlers", "HandlerOptions", "SingleOptions", "BatchOptions", "OnError", "Queue", "RetryPolicy"),
        *("CircuitBreaker", "CallNext", "Serializer", "PoolSettings"),
    ),
    "The arguments of a handler": (
        *("Context", "Delivery", "Properties", "Origin", "BorrowedChannel", "WorkerStats", "PoolStats"),
    ),
    "How a delivery ends": ("Ack", "Retry", "Requeue", "Reject", "Settlement", "Failure", "FailureKind"),
    "Publishing": (
        *("Publisher", "PublisherSettings", "PublisherOptions", "PublisherStats", "Message", "MessageOptions"),
        *("Content", "Compression"),
    ),
    "The outcome of a publish": (
        *("Receipt", "Confirmed", "PublishOutcome", "wait_all", "wait_any", "drain", "results", "all_confirmed"),
        "any_failed",
    ),
    "Logging": ("MessageFacts",),
}
"""All names of `mxworker`, by what they are for."""

_INTRODUCTION = """\
All public names come from `mxworker`, the exceptions from `mxworker.errors`, and what tests use from
`mxworker.testing`. Nothing else is public: other modules may change in any release. mxworker is typed (`py.typed`). An
editor shows whole docstrings; this page has the beginning of each."""
_MADE_BY_MXWORKER = frozenset({"Context", "Delivery", "Publisher", "BrokerUnderTest", "ServiceUnderTest"})
"""Classes whose constructors are not public."""


def page() -> str:
    """Return the page."""
    homes: Mapping[str, str] = vars(mxworker)["_HOMES"]
    parts = [_INTRODUCTION]
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        for name in names:
            parts += _name(name, homes[name])
    parts += [
        "## Exceptions",
        "All come from `mxworker.errors`. A permanent one comes again until a human changes something.",
    ]
    parts.append(table(("exception", "a kind of", "permanent", "meaning"), _exceptions()))
    parts += ["## Tests", "All come from `mxworker.testing`; [testing](../testing.md) shows their use."]
    for name in testing.__all__:
        parts += _name(name, f"mxworker.testing.{vars(testing)['_HOMES'][name]}")
    return page_of("Public names", *filter(None, parts))


def _name(name: str, module: str) -> Iterator[str]:
    definition, text = definition_of(module, name)
    yield f"### {name}"
    match definition:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield f"`{_signature(definition)}`"
            yield _first(text)
        case ast.ClassDef():
            yield from _class(definition, getattr(import_module(module), name), text)
        case ast.Assign(value=value):
            yield f"`{name} = {ast.unparse(value)}`"
            yield text
        case _:
            raise LookupError(f"{name} is neither a function nor a class nor an alias")


def _class(definition: ast.ClassDef, kind: type, text: str) -> Iterator[str]:
    if definition.name not in _MADE_BY_MXWORKER and not issubclass(kind, dict | Enum):
        yield f"`{_constructor(definition, kind)}`"
    yield _first(text)
    texts = _explained(text)
    rows = [(f"`{shown}`", said or texts.get(name, "")) for name, shown, said in _members(definition, kind)]
    if told := [row for row in rows if row[1]]:
        yield table(("member", "what it is"), told)


def _constructor(definition: ast.ClassDef, kind: type) -> str:
    own = [each for each in definition.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    if own:
        return f"{definition.name}{_parameters(own[0])}"
    names = getattr(kind, "__dataclass_fields__", {})
    return f"{definition.name}({', '.join(_field(name, names[name]) for name in names if names[name].init)})"


def _field(name: str, field: Any) -> str:
    default = "" if repr(field.default).startswith("<dataclasses.") else f" = {field.default!r}"
    if not default and "MISSING" not in repr(field.default_factory):
        default = " = ..."
    return f"{name}: {field.type}{default}"


def _explained(text: str) -> dict[str, str]:
    """Return what a docstring says of fields, where it says "`name`: text" about each."""
    said: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        pieces = re.split(r"(?:^|(?<=\. ))`(\w+)`: ", " ".join(paragraph.split()))
        for name, about in zip(pieces[1::2], map(str.strip, pieces[2::2]), strict=True):
            said[name] = f"{about[0].upper()}{about[1:]}"
    return said


def _members(definition: ast.ClassDef, kind: type) -> Iterator[tuple[str, str, str]]:
    """Yield the fields and methods, each with its name, what is shown of it, and the text about it in the source."""
    settings = {name: each.metadata for name, each in getattr(kind, "__dataclass_fields__", {}).items()}
    for node, text in described(definition.body):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation) if not name.startswith("_"):
                setting = settings.get(name, {}).get("leaf")
                yield name, f"{name}: {ast.unparse(annotation)}", setting.sentence if setting else text
            case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper():
                yield name, name, text
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not node.name.startswith("_"):
                yield node.name, _shown(node), _first(ast.get_docstring(node) or "")
            case _:
                pass


def _shown(function: Function) -> str:
    decorators = {ast.unparse(each) for each in function.decorator_list}
    return _property(function) if decorators & {"property", "cached_property"} else _signature(function)


def _property(function: Function) -> str:
    return f"{function.name}: {ast.unparse(function.returns)}" if function.returns else function.name


def _signature(function: Function) -> str:
    prefix = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{prefix}{function.name}{_parameters(function)}{returns}"


def _parameters(function: Function) -> str:
    """Return the parameters as the source has them, without `self`."""
    arguments = function.args
    for positional in (arguments.posonlyargs, arguments.args):
        if positional and positional[0].arg in ("self", "cls"):
            del positional[0]
    return f"({ast.unparse(arguments)})"


def _first(text: str) -> str:
    """Return the first paragraph of a docstring, as one line."""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def _exceptions() -> Iterable[tuple[str, str, str, str]]:
    for node in tree_of(errors.__name__).body:
        if isinstance(node, ast.ClassDef) and issubclass(kind := getattr(errors, node.name), errors.MxWorkerError):
            parent = kind.__bases__[0].__name__
            yield f"`{node.name}`", f"`{parent}`", "yes" if kind.permanent else "no", _first(kind.__doc__ or "")
