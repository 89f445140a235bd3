"""Another Python interpreter, for what can be tried only once in a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.harness.repository import REPOSITORY


def run_python(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python -P` to its end in `cwd`, which is not on its path. Its whole environment is `env` and PYTHONPATH."""
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(REPOSITORY), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
