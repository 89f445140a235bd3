"""Asks the broker about every queue and exchange of an application, one after the other, without changing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming.found import FoundExchange
from mxworker.amqp.consuming.probing import Probe
from mxworker.api.queues import Queue
from mxworker.brokers import Brokers
from mxworker.cli.check.comparison import Compared
from mxworker.cli.check.report import BrokerFacts
from mxworker.letters.connecting import connected

_NAME = "mxworker check"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found at the broker."""

    facts: BrokerFacts
    topology: Sequence[Compared]
    exchanges: Mapping[str, FoundExchange]
    may_publish: bool | None


async def look(brokers: Brokers, wait_s: float, planned: Sequence[Compared], queues: Sequence[Queue]) -> Seen:
    """Ask the first broker that answers within `wait_s` seconds about the planned topology. Raises BrokerError."""
    async with connected(brokers, wait_s, _NAME) as connection:
        probe = Probe(connection)
        topology = [await _found(probe, each) for each in planned]
        names = dict.fromkeys(name for queue in queues for name, _ in queue.bind)
        exchanges = {name: await probe.exchange(name) for name in names}
        return Seen(_facts(connection, probe), topology, exchanges, await probe.may_publish())


async def _found(probe: Probe, planned: Compared) -> Compared:
    wanted = planned.wanted
    found = await probe.queue(wanted.name, wanted.arguments)
    is_consumed = wanted.role == "work" and planned.is_consumed
    return replace(planned, found=found, may_consume=await probe.may_consume(wanted.name) if is_consumed else None)


def _facts(connection: BrokerConnection, probe: Probe) -> BrokerFacts:
    return BrokerFacts(str(connection.url), connection.server, connection.channel_max, probe.can_compare)
