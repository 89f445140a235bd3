"""The environment of other clients, which tests of them install: many minutes, so under --full only."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

SUITES = {"aio_pika": "aio-pika==10.2.1", "aiormq": "aiormq==7.2.4", "kombu": "kombu==5.7.0", "amqp": "amqp==5.4.2"}
NEEDED = ("aiomisc", "aiomisc-pytest", "pytest", "pytest-rerunfailures", "shortuuid", "timeout-decorator")
OTHERS = ("pika~=1.3",)

GO_PATH = Path("/usr/share/gocode")  # where Debian's packages of Go libraries are


@pytest.fixture(scope="session")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the clients of its language, and what their test suites need."""
    if not request.config.getoption("--full"):
        pytest.skip("takes many minutes: --full runs it")
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    install([python, "-m", "pip", "--quiet", "install", *SUITES.values(), *NEEDED, *OTHERS], folder)
    return python


def install(command: Sequence[object], folder: Path) -> None:
    """Run a command that installs something, or tell why it is missing."""
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"cannot be installed here: {done.stderr[-500:]}")


def go_environment(library: str) -> dict[str, str]:
    """Return the variables with which Go finds a library of Debian, or tell that something is missing."""
    if not shutil.which("go") or not (GO_PATH / "src" / library).exists():
        missing(f"Go or its library {library} is missing: 'make clients' installs both")
    return {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOFLAGS": ""}


def missing(reason: str) -> NoReturn:
    """Skip the test, or with CI=true fail it, because something is missing that `make chaos` installs."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
