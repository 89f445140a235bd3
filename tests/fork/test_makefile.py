"""`make test` runs all tests, whichever fail, and its exit code says whether one did."""

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile, and a virtual environment whose Python only notes what it is asked for."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / ".venv/ready").touch()
    return tmp_path


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
@pytest.mark.parametrize(("most", "alone"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_tests_that_run_alone_run_after_others_failed(project: Path, most: int, alone: int) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "BROKER"))}
    env |= {"CODE_OF_MOST": str(most), "CODE_OF_ALONE": str(alone), "MXWORKER_TEST_BROKER_URL": "amqp://nowhere/"}
    env["MXWORKER_TEST_RABBITMQ"] = ""
    made = subprocess.run(["make", "test"], cwd=project, env=env, capture_output=True, text=True, check=False)
    assert (project / "runs").read_text().splitlines() == [
        "-m pytest -n 3 --dist loadfile -m not alone",
        "-m pytest -m alone",
    ], made.stderr
    assert (made.returncode == 0) is (most == alone == 0)
