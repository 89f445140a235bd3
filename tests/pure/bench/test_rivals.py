"""The list of rivals is consistent, and a tool that is missing is said, with the package that brings it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.contenders import Contender, Programs, Unavailable
from bench.rivals import compiled
from bench.rivals.contenders import CONTENDERS
from bench.rivals.in_python import InPython, requirements
from tests.harness.repository import REPOSITORY

IN_PYTHON = {rival.name: rival.prepare for rival in CONTENDERS if isinstance(rival.prepare, InPython)}


def test_names_are_unique() -> None:
    assert len({rival.name for rival in CONTENDERS}) == len(CONTENDERS)


@pytest.mark.parametrize("prepare", IN_PYTHON.values(), ids=IN_PYTHON)
def test_each_rival_in_python_has_its_modules(prepare: InPython) -> None:
    modules = {command[-1] for command in prepare.commands("python").values()}
    assert len(modules) == len(prepare.works)
    for module in modules:
        assert (REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file(), module


@pytest.mark.parametrize("rival", [rival for rival in CONTENDERS if rival.name in IN_PYTHON], ids=lambda it: it.name)
def test_no_rival_takes_part_in_what_it_has_no_program_for(rival: Contender) -> None:
    assert rival.works <= IN_PYTHON[rival.name].works


@pytest.mark.parametrize("prepare", IN_PYTHON.values(), ids=IN_PYTHON)
def test_each_version_that_is_reported_is_pinned(prepare: InPython) -> None:
    pinned = {line.partition("==")[0].partition("[")[0] for line in requirements() if "==" in line}
    assert len(pinned) == len(requirements())
    assert set(prepare.distributions) <= pinned


@pytest.mark.parametrize(("prepare", "package"), [(compiled.go, "golang-go"), (compiled.c, "gcc")])
def test_a_missing_compiler_is_said(
    prepare: Callable[[], Programs], package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=f"install the package {package}"):
        prepare()


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in ("go", "cc"):
        (tmp_path / tool).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiled, "GO_LIBRARY", tmp_path / "nothing")
    with pytest.raises(Unavailable, match="install the package golang-github-rabbitmq-amqp091-go-dev"):
        compiled.go()
    monkeypatch.setattr(compiled, "C_HEADERS", [tmp_path / "amqp.h"])
    with pytest.raises(Unavailable, match="install the package librabbitmq-dev"):
        compiled.c()
