"""The application: a task that does nothing but count."""

import os
from typing import Any

from celery import Celery
from kombu import Queue

from bench.client import job
from bench.client.stopwatch import SharedStopwatch

stopwatch = SharedStopwatch()

app = Celery("bench", broker=job.URL)
app.conf.update(
    task_default_queue=job.QUEUE,
    task_queues=[Queue(job.QUEUE, no_declare=True)],  # the benchmark has declared it
    # An ack after the task, and no results: https://docs.celeryq.dev/en/stable/userguide/tasks.html
    task_acks_late=True,
    task_ignore_result=True,
    # https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.pyamqp.html#transport-options
    broker_transport_options={"confirm_publish": "BENCH_NO_CONFIRMS" not in os.environ},
)


@app.task(name="consume")
def consume(payload: dict[str, Any]) -> None:
    """Do nothing but count."""
    stopwatch.count()
