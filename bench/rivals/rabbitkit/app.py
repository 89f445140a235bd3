"""The broker. It declares nothing, because the benchmark has; confirms are on by default."""

from rabbitkit import AsyncBroker, RabbitConfig
from rabbitkit.core.config import ConnectionConfig, ConsumerConfig, PublisherConfig
from rabbitkit.core.types import TopologyMode
from rabbitkit.serialization import JSONSerializer

from bench.client import job

broker = AsyncBroker(
    RabbitConfig(
        connection=ConnectionConfig.from_url(job.URL),
        consumer=ConsumerConfig(prefetch_count=job.PREFETCH) if job.PREFETCH else ConsumerConfig(),
        publisher=PublisherConfig(mandatory=True, confirm_timeout=60.0),
        topology_mode=TopologyMode.MANUAL,
    ),
    serializer=JSONSerializer(),
)
