"""Another version of Python is found, or what is missing is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.contenders import Unavailable
from bench.environments import interpreter


@pytest.fixture(autouse=True)
def _no_other_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.delenv("PYTHON399", raising=False)


def test_a_missing_python_is_said() -> None:
    with pytest.raises(Unavailable, match=r"no python3\.99 that runs: name one with PYTHON399="):
        interpreter("3.99")


def test_a_python_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON399", sys.executable)
    assert interpreter("3.99") == sys.executable


def test_a_shim_that_does_not_run_is_passed_over_for_one_of_pyenv(tmp_path: Path) -> None:
    shim, installed = tmp_path / "python3.99", tmp_path / "pyenv/versions/3.99.1/bin/python3.99"
    installed.parent.mkdir(parents=True)
    installed.symlink_to(sys.executable)
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert interpreter("3.99") == str(installed)
