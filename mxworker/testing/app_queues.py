"""`python -m mxworker.testing.app_queues APP`: writes the queues of an application as JSON, for tests on a RabbitMQ.

The application is imported in this process, and not in that of the tests, as in production.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from mxworker.api.compilation import Handler
from mxworker.api.handlers import Handlers, compile_handlers
from mxworker.errors import MxWorkerError
from mxworker.worker.loading import load


@dataclass(frozen=True)
class AppQueues:
    """The queues that an application consumes, and those that exist for it beside these."""

    consumed: Sequence[str]
    beside: Sequence[str]

    @classmethod
    def of(cls, handlers: Handlers) -> AppQueues:
        """Return the queues of a registry. Raises AppLoadError."""
        compiled = compile_handlers(handlers)
        beside = [name for handler in compiled for name in side_queues(handler)]
        declared = [queue.name for queue in handlers.declared_queues]
        dead = [queue.dead_letter_name for queue in handlers.declared_queues]
        return cls([handler.queue.name for handler in compiled], [*beside, *declared, *dead])


def queues_of(app: str, app_dir: str | None) -> AppQueues:
    """Return the queues of the application that `mxworker run` would run. Raises RuntimeError when it cannot."""
    where = () if app_dir is None else (f"--app-dir={app_dir}",)
    found = subprocess.run(  # noqa: S603 - our own module, and the application under test
        [sys.executable, "-P", "-m", "mxworker.testing.app_queues", app, *where],
        env={**os.environ, "PYTHONPATH": import_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise RuntimeError(found.stderr)
    return AppQueues(**json.loads(found.stdout))


def import_path() -> str:
    """Return the import path of this process, so that another one finds what the tests find."""
    return os.pathsep.join(filter(None, sys.path))


def side_queues(handler: Handler) -> Iterator[str]:
    """Yield the queues beside the queue of a compiled handler: for dead letters, the quarantine and retries."""
    queue = handler.queue
    yield queue.dead_letter_name
    yield queue.quarantine_name
    yield from map(queue.retry_name, handler.retry_steps_ms)


def main() -> int:
    """Write the queues, or an error."""
    parser = argparse.ArgumentParser(prog="python -m mxworker.testing.app_queues")
    parser.add_argument("app")
    parser.add_argument("--app-dir")
    options = parser.parse_args()
    try:
        queues = AppQueues.of(load(options.app, options.app_dir, may_be_insecure=True))
    except MxWorkerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(queues)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
