"""The list of rivals is consistent, and a tool that is missing is said, with the package that brings it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.contenders import Programs, Unavailable
from bench.rivals import compiled
from bench.rivals.contenders import CONTENDERS
from bench.rivals.in_python import InPython, requirements
from tests.harness.repository import REPOSITORY

IN_PYTHON = {rival.name: rival.prepare for rival in CONTENDERS if isinstance(rival.prepare, InPython)}


def test_names_are_unique() -> None:
    assert len({rival.name for rival in CONTENDERS}) == len(CONTENDERS)


@pytest.mark.parametrize("prepare", IN_PYTHON.values(), ids=IN_PYTHON)
def test_each_rival_in_python_has_its_modules(prepare: InPython) -> None:
    commands = prepare.commands("python")
    assert commands.keys() == prepare.works
    words = [word for command in commands.values() for word in command]
    modules = {word.partition(":")[0] for word in words if word.startswith("bench.")}
    assert modules
    for module in modules:
        assert (REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file(), module


@pytest.mark.parametrize("prepare", IN_PYTHON.values(), ids=IN_PYTHON)
def test_each_version_that_is_reported_is_pinned(prepare: InPython) -> None:
    pinned = {line.partition("==")[0].partition("[")[0] for line in requirements() if "==" in line}
    assert len(pinned) == len(requirements())
    assert set(prepare.distributions) - {"pamqp", "kombu", "pika"} <= pinned


@pytest.mark.parametrize(("prepare", "package"), [(compiled.go, "golang-go"), (compiled.c, "gcc")])
def test_a_missing_compiler_is_said(
    prepare: Callable[[], Programs], package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=f"install the package {package}"):
        prepare()
