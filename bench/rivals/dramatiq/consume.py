"""Run one worker process with eight threads, the default. https://dramatiq.io/advanced.html has the prefetch."""

import os
import sys

from bench.client import job

PREFETCH = "dramatiq_queue_prefetch"


def main() -> int:
    """Run until SIGTERM."""
    if job.PREFETCH:
        os.environ[PREFETCH] = str(job.PREFETCH)
    from dramatiq import cli  # it reads that variable at its import

    sys.argv = ["dramatiq", "bench.rivals.dramatiq.app", "--processes", "1"]
    exit_code: int = cli.main()
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
