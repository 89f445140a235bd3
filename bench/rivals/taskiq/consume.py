"""Run one worker process: https://taskiq-python.github.io/guide/cli.html. It acks after the task, its default."""

import sys

from taskiq.__main__ import main

from bench.client import job

AT_ONCE = [f"--max-async-tasks={job.CONCURRENCY}"] if job.PREFETCH else []

if __name__ == "__main__":
    sys.argv = ["taskiq", "worker", "bench.rivals.taskiq.app:broker", "--workers=1", "--log-level=WARNING", *AT_ONCE]
    main()
