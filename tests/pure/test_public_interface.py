"""The public interface has no holes: what a public name mentions can be imported from `mxworker` or `mxworker.errors`.

The walk begins at the public names, and follows what they mention as it is written and as it is resolved: signatures,
annotations, attributes set in a constructor, base classes. It reads each module's names as a type checker does, with
those under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mxworker
from docs.generators.public_names import GROUPS
from mxworker import errors, testing
from tests.harness.parsing import parsed

# Only mxworker makes them, so nobody outside writes the arguments of their constructors.
MADE_BY_MXWORKER = frozenset({"Context", "Delivery", "Publisher", "BrokerUnderTest", "ServiceUnderTest"})
DUNDERS = frozenset({"__await__", "__call__", "__init__"})
TYPE_PARAMETERS = (typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple)


def public_names() -> dict[str, Any]:
    """Return what can be imported from the two public modules, by name."""
    exceptions = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    ours = {name: value for name, value in exceptions.items() if value.__module__ == errors.__name__}
    return ours | {name: getattr(mxworker, name) for name in mxworker.__all__}


def test_everything_that_a_public_name_mentions_is_public() -> None:
    assert Walk(public_names()).holes() == []


def test_everything_that_a_name_for_tests_mentions_is_public() -> None:
    for_tests = {name: getattr(testing, name) for name in testing.__all__}
    assert [hole for hole in Walk(public_names() | for_tests).holes() if re.match(r"\w+", hole)[0] in for_tests] == []
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError, match=r"'mxworker.testing' has no attribute 'pipe'"):
        testing.pipe  # type: ignore[attr-defined]  # noqa: B018


def test_names_that_are_imported_late_are_those_that_a_type_checker_sees() -> None:
    tree = parsed(Path(mxworker.__file__))
    seen = {alias.asname or alias.name for node in ast.walk(tree) for alias in getattr(node, "names", ())}
    assert set(mxworker.__all__) <= seen
    assert set(mxworker.__all__) <= set(dir(mxworker))
    for name in mxworker.__all__:
        assert getattr(mxworker, name) is not None


def test_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'mxworker' has no attribute 'WAIT_S'"):
        mxworker.WAIT_S  # type: ignore[attr-defined]  # noqa: B018  a name of a module that is imported late


def test_the_reference_names_each_public_name_once() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(mxworker.__all__)


# ---- the walk


@dataclass
class Walk:
    """Looks at public names, and at nothing twice."""

    public: dict[str, Any]
    found: list[str] = field(default_factory=list)

    def holes(self) -> list[str]:
        """Return what is mentioned and not public: each as where, and what."""
        for name, value in self.public.items():
            if isinstance(value, type) and is_ours(value):
                self._look_at_class(name, value)
            elif isinstance(value, types.FunctionType):
                self._look_at_function(name, value)
            else:  # an alias, or a constant
                self._look_at_type(name, value)
        return self.found

    def _look_at_class(self, where: str, kind: type) -> None:
        for base in (*kind.__bases__, *getattr(kind, "__orig_bases__", ())):
            self._look_at_type(f"{where} (a base class)", base)
        self._look_at_annotations(where, inspect.get_annotations(kind), kind)
        for name, value in vars(kind).items():
            if name.startswith("_") and name not in DUNDERS:
                continue
            if name == "__init__" and where in MADE_BY_MXWORKER:
                continue
            for function in functions_in(value):
                self._look_at_function(f"{where}.{name}", function)
        for name, annotation in attributes_set_in_constructor(kind):
            self._look_at_annotations(where, {name: annotation}, vars(kind)["__init__"])

    def _look_at_function(self, where: str, function: types.FunctionType) -> None:
        self._look_at_annotations(where, function.__annotations__, function)

    def _look_at_annotations(self, where: str, annotations: dict[str, Any], owner: Any) -> None:
        names = names_in_module(owner.__module__)
        for name, annotation in annotations.items():
            place = f"{where}: {name}"
            if isinstance(annotation, str):
                for word in words_of(annotation):
                    self._look_at_word(place, word, names)
                annotation = eval(annotation, names)
            self._look_at_type(place, annotation)

    def _look_at_word(self, where: str, word: str, names: Names) -> None:
        """Look at a name as it is written: it may be an alias that says nothing of where it comes from."""
        if hasattr(builtins, word) or not names.is_ours(word) or isinstance(names[word], TYPE_PARAMETERS):
            return
        if word not in self.public or self.public[word] is not names[word]:
            self.found.append(f"{where} mentions {word}, which is not public")

    def _look_at_type(self, where: str, mentioned: Any) -> None:
        for kind in classes_in(mentioned):
            if is_ours(kind) and self.public.get(kind.__name__) is not kind:
                self.found.append(f"{where} comes to {kind.__module__}.{kind.__name__}, which is not public")


class Names(dict[str, Any]):
    """The names of a module as a type checker has them."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(vars(module))
        self._origins = dict.fromkeys(vars(module), module.__name__)
        for node in ast.walk(parsed(Path(module.__file__ or ""))):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self[alias.asname or alias.name] = getattr(import_module(node.module or ""), alias.name)
                    self._origins[alias.asname or alias.name] = node.module or ""
            elif isinstance(node, ast.Import):
                self._origins |= dict.fromkeys((alias.asname or alias.name for alias in node.names), "elsewhere")

    def is_ours(self, word: str) -> bool:
        """Whether mxworker has defined that name."""
        return self._origins.get(word, "").partition(".")[0] == "mxworker"


def names_in_module(module: str) -> Names:
    """Return the names of an imported module, with those under TYPE_CHECKING."""
    return Names(sys.modules[module])


def is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "mxworker"


def words_of(annotation: str) -> Iterator[str]:
    """Yield the names in an annotation; of `a.b` the first."""
    yield from (node.id for node in ast.walk(ast.parse(annotation, mode="eval")) if isinstance(node, ast.Name))


def classes_in(mentioned: Any) -> Iterator[type]:
    """Yield the classes of which a type is made."""
    if isinstance(mentioned, list | tuple):
        for part in mentioned:
            yield from classes_in(part)
    elif typing.get_origin(mentioned) is not None:
        yield from classes_in(typing.get_origin(mentioned))
        yield from classes_in(typing.get_args(mentioned))
    elif isinstance(mentioned, type):
        yield mentioned


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """Yield what runs when an attribute of a class is called or read."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if isinstance(value, types.FunctionType):
        yield value


def attributes_set_in_constructor(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the public attributes that `__init__` takes from a parameter or annotates, with their annotations."""
    constructor = vars(kind).get("__init__")
    if not isinstance(constructor, types.FunctionType) or hasattr(kind, "__dataclass_fields__"):
        return
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(constructor))).body
    for node in ast.walk(definition):
        if isinstance(node, ast.Assign):
            targets, annotation = node.targets, constructor.__annotations__.get(ast.unparse(node.value))
        elif isinstance(node, ast.AnnAssign):
            targets, annotation = [node.target], ast.unparse(node.annotation)
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Attribute) and not target.attr.startswith("_") and annotation is not None:
                yield target.attr, annotation
