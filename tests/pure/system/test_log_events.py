"""Each log line of a state change or a fault has a name that stays, and log-events.md lists all of them."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mxworker.system.log_events import log_event
from mxworker.system.log_formats import JsonFormatter
from tests.harness.parsing import parsed
from tests.harness.repository import REPOSITORY

ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<levels>[a-z, ]+) \| (?P<fields>[^|]*) \| (?P<meaning>[^|]+) \|$", re.MULTILINE
)
LOGGERS = re.compile(r"(_?log|_LOG|_WORKER_LOG)$")
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Named:
    """A name as the sources use it."""

    places: set[str] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def functions() -> Iterator[tuple[Path, Function]]:
    for path in sorted((REPOSITORY / "mxworker").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, Function):
                yield path, node


def log_calls(function: Function) -> Iterator[tuple[ast.Call, str | None, ast.expr | None]]:
    """Yield each log call of a function, with its level if that is a literal, and the expression of its fields."""
    for call in ast.walk(function):
        if not isinstance(call, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        match call.func:
            case ast.Attribute(value=logger, attr="log") if LOGGERS.search(ast.unparse(logger)):
                yield call, None, given.get("extra")
            case ast.Attribute(value=logger, attr=method) if method in LEVELS and LOGGERS.search(
                ast.unparse(logger).replace("logging.getLogger('mxworker')", "log")
            ):
                yield call, LEVELS[method], given.get("extra")
            case ast.Name(id="say_safely"):
                level = call.args[1]
                yield call, level.attr.lower() if isinstance(level, ast.Attribute) else None, given.get("fields")
            case ast.Name(id="tell_error"):
                yield call, "error", call.args[1] if len(call.args) > 1 else None


def names_in(expression: ast.expr | None, function: Function) -> list[ast.Call] | None:
    """Return the calls of `log_event` that an expression holds, directly or in a variable of the function.

    None when it holds a parameter that is a `LogEvent`: then the callers have named the event.
    """
    if expression is None:
        return []
    variables = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    if any(one.arg in variables and one.annotation and ast.unparse(one.annotation) == "LogEvent" for one in arguments):
        return None
    assigned = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in variables
    ]
    return [call for holder in (expression, *assigned) for call in event_calls(holder)]


def event_calls(inside: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(inside):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "log_event":
            yield node


def in_sources() -> dict[str, Named]:
    """Return all names; with the level where the log call is in the same function and its level a literal."""
    names: dict[str, Named] = {}
    for path, function in functions():
        place = f"{path.relative_to(REPOSITORY)}:{function.name}"
        for call in event_calls(function):
            named = names.setdefault(ast.literal_eval(call.args[0]), Named())
            named.places.add(place)
            named.fields |= {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        for _, level, fields in log_calls(function):
            calls = names_in(fields, function)
            for call in calls or ():
                if level is not None and len(calls or ()) == 1:
                    names[ast.literal_eval(call.args[0])].levels.add(level)
    return names


def in_docs() -> dict[str, re.Match[str]]:
    rows = list(ROW.finditer((REPOSITORY / "docs/reference/log-events.md").read_text()))
    assert len({row["name"] for row in rows}) == len(rows), "a name stands in two rows"
    return {row["name"]: row for row in rows}


SOURCES = in_sources()


def test_each_log_call_above_debug_names_an_event() -> None:
    unnamed = [
        f"{path}:{call.lineno}"
        for path, function in functions()
        for call, level, fields in log_calls(function)
        if level != "debug" and names_in(fields, function) == [] and path.name != "log.py"
    ]
    assert unnamed == []


def test_the_page_lists_the_names_that_the_sources_use() -> None:
    assert set(in_docs()) == set(SOURCES)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_name_means_one_thing_and_its_row_is_true(name: str) -> None:
    named, row = SOURCES[name], in_docs()[name]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    assert len(named.places) == 1, "another place means another thing"
    assert named.levels <= set(row["levels"].split(", "))
    assert named.fields <= set(re.findall(r"`(\w+)`", row["fields"]))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_field_has_the_name_of_an_attribute_of_log_records(name: str) -> None:
    reserved = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # else logging raises KeyError
    assert not SOURCES[name].fields & reserved


def test_the_json_record_has_the_name_and_the_fields() -> None:
    extra = log_event("worker_ended", worker=3)
    record = logging.getLogger("mxworker").makeRecord("mxworker", logging.INFO, "", 0, "x", (), None, extra=extra)
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["event"], entry["worker"]) == ("worker_ended", 3)


def test_a_record_that_is_cut_to_a_line_keeps_its_name() -> None:
    extra = log_event("worker_ended", **{f"field_{number}": "x" * 1000 for number in range(500)})
    record = logging.getLogger("mxworker").makeRecord("mxworker", logging.INFO, "", 0, "x", (), None, extra=extra)
    assert json.loads(JsonFormatter().format(record))["event"] == "worker_ended"
