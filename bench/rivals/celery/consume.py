"""Run a worker: in one process (the pool "solo"), or with a process per core, which is Celery's default.

A worker prefetches the multiplier times the number of its processes.
"""

import os

from bench.client import job
from bench.rivals.celery.app import app

pool = os.environ.get("BENCH_POOL", "solo")
if job.PREFETCH:
    app.conf.worker_prefetch_multiplier = job.PREFETCH // (1 if pool == "solo" else os.cpu_count() or 1)

# https://docs.celeryq.dev/en/stable/userguide/workers.html: what only several workers need is switched off
app.worker_main(
    ["worker", f"--pool={pool}", "--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
)
