"""Call a task with `delay`, which blocks until the confirm when confirms are on."""

from bench.client import job
from bench.client.pace import run_one_by_one
from bench.client.payload import payload
from bench.rivals.celery.app import consume

body = payload(job.BODY_BYTES)
run_one_by_one(lambda: consume.delay(body))
