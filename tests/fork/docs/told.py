"""Run commands and load applications in the current directory, and write down what each tells its user on stderr.

    python -m tests.fork.docs.told < jobs.json

The jobs run one after the other, each in a fork of this process, so that the imports are paid once. A job has
`arguments` of `mxworker`, or an `app` to load as a worker does, with the `source` of `app.py`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxworker.cli import main
from mxworker.config.overrides import AS_IN_CODE
from mxworker.errors import MxWorkerError
from mxworker.worker.loading import load, select


def told(job: Mapping[str, Any]) -> str:
    """Return what a job tells."""
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 2)
            try:
                run(job)
            finally:
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(pid, 0)
        output.seek(0)
        return output.read().decode()


def run(job: Mapping[str, Any]) -> None:
    if "arguments" in job:
        main(job["arguments"], prog_name="mxworker")
    Path("app.py").write_text(job["source"])
    try:
        select(load(job["app"], None, may_be_insecure=True), tuple(job.get("queues", ())), AS_IN_CODE)
    except MxWorkerError as error:
        print(f"Error: {error}", file=sys.stderr)


if __name__ == "__main__":
    json.dump([told(job) for job in json.load(sys.stdin)], sys.stdout)
