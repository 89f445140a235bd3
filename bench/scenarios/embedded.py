"""The embedded broker beside RabbitMQ: one process publishes and another consumes, both as cheaply as they can."""

from __future__ import annotations

from bench.embedded_broker import measure
from bench.procedure import Procedure
from bench.scenario import Measures, Place, Scenario
from bench.sizes import cpu_ns
from mxworker.devbroker.process import start_broker

MESSAGES = 20_000


def embedded(place: Place) -> Measures:
    """Return how fast messages pass through the embedded broker, and the broker's CPU time for each."""
    messages = place.scaled(MESSAGES)
    with start_broker() as broker:
        before_ns = cpu_ns(broker.pid)
        rate = measure(broker.url, messages)
        return {"rate": rate, "cpu_us": (cpu_ns(broker.pid) - before_ns) / messages / 1000}


def rabbitmq(place: Place) -> Measures:
    """Return how fast messages pass through RabbitMQ."""
    return {"rate": measure(place.broker_url(), place.scaled(MESSAGES))}


EMBEDDED: tuple[Scenario, ...] = (
    Scenario(
        "embedded-broker",
        "messages published, confirmed, delivered and acked by a broker; the CPU time is the broker's",
        (Procedure("embedded broker", embedded), Procedure("RabbitMQ", rabbitmq)),
    ),
)
