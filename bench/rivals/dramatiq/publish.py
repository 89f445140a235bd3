"""Send to an actor, which blocks until the confirm."""

from bench.client import job
from bench.client.pace import run_one_by_one
from bench.client.payload import payload
from bench.rivals.dramatiq.app import consume

body = payload(job.BODY_BYTES)
run_one_by_one(lambda: consume.send(body))
