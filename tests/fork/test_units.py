"""The units for systemd, judged by systemd itself; nothing of it has to run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mxworker.errors import ExitCode
from tests.harness.pages import blocks
from tests.harness.repository import REPOSITORY

UNITS = sorted((REPOSITORY / "systemd").glob("*.service"))
INSTALLED = "/opt/mxworker/bin/mxworker"
MOST_EXPOSURE = 15  # of 100; what is published for gunicorn, Celery and Sidekiq scores 90 and more

of_each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


@pytest.fixture(scope="module")
def analyze() -> str:
    """The program systemd-analyze; where it is missing the tests are skipped, and with CI=true they fail."""
    program = shutil.which("systemd-analyze")
    if program is None:
        missing = "systemd-analyze is missing; on Debian or Ubuntu it is in the package systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return program


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the values of each setting of a unit, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_there_are_a_unit_and_a_template() -> None:
    assert [unit.name for unit in UNITS] == ["mxworker.service", "mxworker@.service"]


@of_each_unit
def test_systemd_finds_nothing_wrong_with_the_unit(analyze: str, unit: Path, tmp_path: Path) -> None:
    installed = tmp_path / unit.name
    installed.write_text(unit.read_text().replace(INSTALLED, sys.executable))
    command = [analyze, "verify", "--recursive-errors=no", installed]  # other units of this machine are not ours
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in (verified.stdout + verified.stderr).splitlines() if "mxworker" in line]
    assert (verified.returncode, complaints) == (0, [])


@of_each_unit
def test_the_unit_exposes_little(analyze: str, unit: Path) -> None:
    command = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSURE}", unit]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@of_each_unit
def test_what_a_human_must_change_is_not_tried_again(unit: Path) -> None:
    (codes,) = settings(unit)["RestartPreventExitStatus"]
    assert [int(code) for code in codes.split()] == [ExitCode.USAGE, ExitCode.APP_LOAD]


def test_the_template_differs_in_what_the_instance_names_alone() -> None:
    of_one, of_many = (settings(unit) for unit in UNITS)
    differing = {name for name in of_one.keys() | of_many.keys() if of_one.get(name) != of_many.get(name)}
    assert differing == {"Description", "EnvironmentFile", "LoadCredential", "Environment", "RuntimeDirectory"}


def test_systemd_takes_the_changes_of_the_page(analyze: str, tmp_path: Path) -> None:
    """The change of a unit in docs/how-to/systemd.md."""
    (change,) = (block for block in blocks(REPOSITORY / "docs" / "how-to" / "systemd.md") if block.language == "ini")
    unit = tmp_path / "mxworker.service"
    unit.write_text(UNITS[0].read_text().replace(INSTALLED, sys.executable))
    (tmp_path / "mxworker.service.d").mkdir()
    (tmp_path / "mxworker.service.d" / "override.conf").write_text(change.text)
    verified = subprocess.run(
        [analyze, "verify", "--recursive-errors=no", unit], capture_output=True, text=True, check=False
    )
    complaints = [line for line in (verified.stdout + verified.stderr).splitlines() if "mxworker" in line]
    assert (verified.returncode, complaints) == (0, [])
