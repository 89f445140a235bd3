"""`make test` checks style and types, then runs all tests, whichever fail; its exit code says whether one did."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.repository import REPOSITORY

PYTHON = """#!/bin/sh
echo "$*" >>runs
case $* in *"not alone"*) exit $CODE_OF_MOST ;; *) exit $CODE_OF_ALONE ;; esac
"""

LINT = ("ruff", "mypy")
TOOL = """#!/bin/sh
echo "${0##*/} $*" | sed 's/ $//' >>runs
[ "$WRONG" != "${0##*/}" ]
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile, and a virtual environment whose programs only note what they are asked for."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    for tool in LINT:
        (python.parent / tool).write_text(TOOL)
        (python.parent / tool).chmod(0o755)
    (tmp_path / ".venv/ready").touch()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_loud.py").write_text("@pytest.mark.alone")
    (tmp_path / "tests/test_quiet.py").touch()
    return tmp_path


def make_test(project: Path, **codes: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `make test`, whose programs end with these codes; return it and what was called."""
    return make(project, "test", MXWORKER_TEST_BROKER_URL="amqp://nowhere/", **codes)


def make(project: Path, target: str, **more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a target with more variables; return it and what was called."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "BROKER"))}
    env |= {"MXWORKER_TEST_BROKER_URL": "", "MXWORKER_TEST_RABBITMQ": "", **more}
    made = subprocess.run(["make", target], cwd=project, env=env, capture_output=True, text=True, check=False)
    return made, (project / "runs").read_text().splitlines()


@pytest.mark.parametrize(("most", "alone"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_tests_that_run_alone_run_after_others_failed(project: Path, most: int, alone: int) -> None:
    made, runs = make_test(project, CODE_OF_MOST=str(most), CODE_OF_ALONE=str(alone))
    of_most, of_alone = runs[-2:]
    assert of_most == "-m pytest -n 4 --dist loadfile -m not alone", made.stderr
    assert of_alone == "-m pytest -m alone tests/test_loud.py", "the others would only be collected"
    assert (made.returncode == 0) is (most == alone == 0)


def test_style_and_types_are_checked_before_any_test(project: Path) -> None:
    made, runs = make_test(project, CODE_OF_MOST="0", CODE_OF_ALONE="0")
    assert runs[:-2] == ["ruff check", "ruff format --check", "mypy"], made.stderr


@pytest.mark.parametrize("tool", LINT)
def test_wrong_style_or_types_end_it_at_once_with_a_clear_line(project: Path, tool: str) -> None:
    made, runs = make_test(project, CODE_OF_MOST="0", CODE_OF_ALONE="0", WRONG=tool)
    assert made.returncode != 0
    assert not [run for run in runs if "pytest" in run]
    assert "style or types are wrong" in made.stderr


def test_the_demo_needs_no_rabbitmq_unless_it_is_told_to_run_on_one(project: Path) -> None:
    codes = {"CODE_OF_MOST": "0", "CODE_OF_ALONE": "0"}
    _, runs = make(project, "demo", **codes)
    assert runs == ["-m handlers_example.demo"]
    _, runs = make(project, "demo", MXWORKER_TEST_BROKER_URL="amqp://nowhere/", **codes)
    assert runs[1:] == ["-m tests.rabbit -- .venv/bin/python -m handlers_example.demo"]
