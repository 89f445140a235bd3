"""Virtual environments for contenders, outside of ours: they are kept in the cache folder from run to run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench.contenders import Unavailable

_INSTALL_S = 300.0
_SHOWN_CHARACTERS = 300


def cache_folder() -> Path:
    """Return the folder for what benchmarks install and compile; it may be deleted at any time."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mxworker" / "bench"


def python_of(name: str, packages: Sequence[str], python: str = sys.executable) -> str:
    """Return the interpreter of an environment that has `packages`, and make the environment when it is missing.

    `packages` are what pip installs: give upper bounds, so that a run can be repeated. Raises Unavailable.
    """
    asked = "\n".join([_version(python), *packages])
    folder = cache_folder() / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    made = folder / "made"
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _call([python, "-m", "venv", str(folder)])
        _call([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        made.write_text(asked)
    return str(folder / "bin/python")


def versions(python: str, *distributions: str) -> str:
    """Return the versions of some distributions in an environment, as the report shows them."""
    script = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return _call([python, "-c", script, *distributions]).strip()


def interpreter(version: str) -> str:
    """Return the path of a Python of that version ("3.13"): the one that PYTHON313 names, else the first that runs.

    It is looked for on PATH and among those of pyenv. Raises Unavailable.
    """
    name, variable = f"python{version}", f"PYTHON{version.replace('.', '')}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(name), *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"), reverse=True))]
    for candidate in [named] if (named := os.environ.get(variable)) else filter(None, found):
        with suppress(Unavailable):  # such as a shim of pyenv without a version behind it
            return _call([candidate, "-c", "import sys; print(sys.executable)"]).strip()
    raise Unavailable(f"there is no {name} that runs: name one with {variable}=/path/to/{name}")


def _version(python: str) -> str:
    return _call([python, "-c", "import sys; print(sys.version)"]).strip()


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command[:4])} ... failed: {done.stderr.strip()[-_SHOWN_CHARACTERS:]}")
    return done.stdout
