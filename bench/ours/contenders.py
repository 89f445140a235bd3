"""The ways in which mxworker takes part. `MXWORKER` has a JSON handler, and is the one that others are compared to."""

from __future__ import annotations

import hashlib
import sys

from bench.contenders import Contender, Programs, Work
from bench.environments import interpreter, python_of, versions
from tests.harness.repository import REPOSITORY
from tests.harness.service import WITHOUT_UVLOOP

DISTRIBUTIONS = ("aiormq", "orjson", "uvloop")


def mxworker(
    name: str, registry: str = "", *options: str, python: str = "", loop: str = "uvloop", on_wire: bool = True
) -> Contender:
    """Return mxworker in one way: with a registry of `consume_app`, a version of Python, or an event loop.

    With a registry it only consumes.
    """

    def prepare() -> Programs:
        executable = _environment(python) if python else sys.executable
        service = (executable, "-m", "bench.ours.service")
        commands = {
            Work.CONSUME: (*service, registry or "as_json", *options),
            Work.RELAY: (*service, "relay"),
            Work.PUBLISH: (executable, "-m", "bench.ours.publish"),
        }
        path = f"{WITHOUT_UVLOOP}:{REPOSITORY}" if loop == "asyncio" else str(REPOSITORY)
        return Programs(f"{loop}, {versions(executable, *DISTRIBUTIONS)}", commands, {"PYTHONPATH": path})

    return Contender(name, prepare, frozenset({Work.CONSUME}) if registry else frozenset(Work), on_wire=on_wire)


def _environment(python: str) -> str:
    """Return the interpreter of an environment for mxworker with that version of Python."""
    made_for = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes()).hexdigest()[:8]
    packages = ("--editable", f"{REPOSITORY}[fast,typed]")
    return python_of(f"mxworker-{python}-{made_for}", packages, interpreter(python))


MXWORKER = mxworker("mxworker")
ON_ASYNCIO = mxworker("mxworker, asyncio", loop="asyncio")
ON_313 = mxworker("mxworker, Python 3.13", python="3.13")
AS_BYTES = mxworker("mxworker, bytes", "as_bytes")
TYPED = mxworker("mxworker, typed", "typed")
WITH_MIDDLEWARE = mxworker("mxworker, middleware", "with_middleware")
WITHOUT_METRICS = mxworker("mxworker, no metrics", "as_json", "--without-metrics")
IN_BATCHES = mxworker("mxworker, batches", "batches")
