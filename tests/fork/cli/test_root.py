"""A service as root is warned of once, with what to do; one that a service manager started so is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.repository import REPOSITORY
from tests.harness.service import write_app

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a service as root")
WARNING = "this runs as root"
APP = """
from mxworker import Handlers
handlers = Handlers()
@handlers.consume("q")
async def order(payload: dict) -> None: ...
"""


def log_of(folder: Path, *prefix: str, **environment: str) -> str:
    """Return what a service says that finds no broker."""
    app = write_app(folder, APP)
    ended = subprocess.run(
        [*prefix, sys.executable, "-P", "-m", "mxworker", "run", app, "--connect-wait=10ms", "--log-format=text"],
        cwd=folder,
        env={
            "PYTHONPATH": str(REPOSITORY),
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(folder),
            "MXWORKER_BROKER_URL": "amqp://localhost:1/",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 4, ended.stderr
    return ended.stderr


@needs_root
def test_service_as_root_is_warned_of_once(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    assert log.count(WARNING) == 1
    assert "runuser -u NAME -- mxworker run" in log


@needs_root
def test_unit_that_says_root_is_not_warned_of(tmp_path: Path) -> None:
    assert WARNING not in log_of(tmp_path, NOTIFY_SOCKET="@nobody")


@pytest.mark.skipif(os.geteuid() == 0, reason="root is warned of")
def test_ordinary_user_is_not_warned_of(tmp_path: Path) -> None:
    assert WARNING not in log_of(tmp_path)
