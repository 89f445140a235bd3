"""Run one registry of `consume_app` as a service: `python -m bench.ours.service REGISTRY [--without-metrics]`.

It is `mxworker run` with one worker. Without metrics the worker counts outcomes alone, and no times, ages and bytes.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from bench.client import job
from mxworker.cli import main
from mxworker.worker import assembly

FLAGS = ("--app-dir=.", "--workers=1", "--process-concurrency=10000", "--log-level=warning", "--http=127.0.0.1:0")


def run(registry: str, *options: str) -> None:
    """Serve until SIGTERM."""
    if "--without-metrics" in options:
        assembly.ProcessScope = partial(assembly.ProcessScope, has_metrics=False)  # type: ignore[attr-defined, assignment]
    os.environ["MXWORKER_BROKER_URL"] = job.URL
    sys.argv = ["mxworker", "run", f"bench.ours.consume_app:{registry}", f"--name=bench-{os.getpid()}", *FLAGS]
    main()


if __name__ == "__main__":
    run(*sys.argv[1:])
