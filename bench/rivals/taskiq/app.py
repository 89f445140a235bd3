"""The application: a task that does nothing but count.

https://github.com/taskiq-python/taskiq-aio-pika has the broker,
https://taskiq-python.github.io/available-components/serializers.html the fastest serializer.
"""

from typing import Any

from taskiq.serializers import ORJSONSerializer
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from bench.client import job
from bench.client.stopwatch import Stopwatch

stopwatch = Stopwatch()
queue = Queue(name=job.QUEUE, type=QueueType(job.QUEUE_TYPE))
dead_letters = Queue(name=f"{job.QUEUE}.dead", type=QueueType.CLASSIC)
prefetch = {"qos": job.PREFETCH} if job.PREFETCH else {}
broker = AioPikaBroker(job.URL, task_queues=[queue], dead_letter_queue=dead_letters, **prefetch).with_serializer(
    ORJSONSerializer()
)


@broker.task(task_name="consume")
async def consume(payload: dict[str, Any]) -> None:
    """Do nothing but count."""
    stopwatch.count()
