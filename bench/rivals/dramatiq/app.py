"""The application: an actor that does nothing but count.

https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker
"""

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.client import job
from bench.client.stopwatch import SharedStopwatch

stopwatch = SharedStopwatch()
dramatiq.set_broker(RabbitmqBroker(url=job.URL, confirm_delivery=True))


@dramatiq.actor(queue_name=job.QUEUE)
def consume(payload: dict[str, Any]) -> None:
    """Do nothing but count."""
    stopwatch.count()
