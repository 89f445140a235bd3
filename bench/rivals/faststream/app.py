"""The broker, without the log lines per message: https://faststream.ag2.ai/latest/getting-started/observability/logging/."""

from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from bench.client import job

channel = Channel(prefetch_count=job.PREFETCH or None, on_return_raises=True)
broker = RabbitBroker(job.URL, logger=None, default_channel=channel)
queue = RabbitQueue(job.QUEUE, declare=False)  # the benchmark has declared it
