"""The clients in Go and C: compiled from the sources beside this file, with the libraries that Debian has."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.contenders import Programs, Unavailable, Work
from bench.environments import cache_folder

GO_SOURCES = Path(__file__).with_name("go")
C_SOURCES = Path(__file__).with_name("c")
GO_PATH = Path("/usr/share/gocode")  # where Debian's packages of Go libraries are
GO_LIBRARY = GO_PATH / "src/github.com/rabbitmq/amqp091-go"
C_HEADERS = [Path("/usr/include/amqp.h"), Path("/usr/local/include/amqp.h")]
_GO_ENVIRONMENT = {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOFLAGS": ""}
_COMPILE_S = 300.0
_SHOWN_CHARACTERS = 300


def go(*arguments: str) -> Programs:
    """Compile the client in Go. Raises Unavailable."""
    command = _tool("go", "golang-go")
    if not GO_LIBRARY.exists():
        raise Unavailable(f"{GO_LIBRARY} is missing: install the package golang-github-rabbitmq-amqp091-go-dev")
    go_version = _output([command, "version"]).split()[2].removeprefix("go")
    found = re.search(r'buildVersion\s*=\s*"(.+)"', (GO_LIBRARY / "connection.go").read_text(encoding="utf-8"))
    version = f"amqp091-go {found[1] if found else 'unknown'}, Go {go_version}"
    program = _compiled("go", version, GO_SOURCES, [command, "build"], ["."], _GO_ENVIRONMENT)
    return Programs(version, {work: (str(program), *arguments) for work in Work})


def c(*arguments: str) -> Programs:
    """Compile the client in C. Raises Unavailable."""
    compiler = _tool("cc", "gcc")
    if not any(header.exists() for header in C_HEADERS):
        raise Unavailable("amqp.h is missing: install the package librabbitmq-dev")
    version = _output([compiler, "--version"]).splitlines()[0]
    program = _compiled("c", version, C_SOURCES, [compiler, "-O2"], ["client.c", "-lrabbitmq"])
    version = f"librabbitmq {_output([str(program), '--version']).strip()}"
    return Programs(version, {work: (str(program), *arguments) for work in (Work.CONSUME, Work.PUBLISH)})


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"there is no '{name}' on this machine: install the package {package}")
    return found


def _compiled(
    name: str,
    version: str,
    sources: Path,
    command: Sequence[str],
    inputs: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Return the program that `command -o PROGRAM inputs` makes; it is made again when sources or version change."""
    texts = [version, *command, *(path.read_text(encoding="utf-8") for path in sorted(sources.iterdir()))]
    program = cache_folder() / f"{name}-{hashlib.sha256(''.join(texts).encode()).hexdigest()[:12]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        _output([*command, "-o", str(unfinished), *inputs], sources, environment)
        unfinished.replace(program)
    return program


def _output(command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    variables = os.environ | dict(environment or {})
    try:
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=_COMPILE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command[:2])} ... failed: {done.stderr.strip()[:_SHOWN_CHARACTERS]}")
    return done.stdout
