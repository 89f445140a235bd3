"""The programs of Prometheus that judge our metrics and rules. On Debian both are in the package `prometheus`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Return the path of `promtool` or `prometheus`; where it is missing, skip the test, or with CI=true fail it."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is missing; on Debian or Ubuntu it is in the package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def promtool(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run `promtool` to its end with `text` as its input, and return what came of it."""
    command = [program("promtool"), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
