"""Learn how queues and exchanges are at the broker, and what we may do with them, without changing anything there.

A passive declaration tells whether a queue exists. A declaration with arguments tells how it differs, but makes a queue
that has gone meanwhile. So each one has an argument, a *stopper*, that RabbitMQ never accepts for a new queue or
exchange of this type, and ignores, or compares last, for one that exists:

* `x-max-age` belongs to streams. The arguments of an existing queue are compared only as far as its type has them; a
  new quorum or classic queue with it is refused (rabbit_amqqueue.erl, assert_args_equivalence/2 and
  check_declare_arguments/2; tried on 3.10 and 4.0).
* An `alternate-exchange` that is no text: the type of an existing exchange is compared first, and a new exchange is
  refused (rabbit_channel.erl, exchange.declare).
* A priority of a consumer that is no number: rights are checked first, and a consumer is refused
  (rabbit_amqqueue.erl, check_consume_arguments/3).

Each refusal ends a channel, so each request has its own. The broker logs every refusal.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiormq.exceptions
from aiormq.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.consuming.differences import (
    Asked,
    Difference,
    as_the_broker_has,
    difference_in,
    in_order,
    not_of_the_type,
)
from mxworker.amqp.consuming.found import FoundExchange, FoundQueue
from mxworker.errors import ConnectionLost
from mxworker.system.printable import foreign

_REPLY_DEADLINE_S = 10.0
_STOPPER = "x-max-age"
_QUEUE_STOPPER: Mapping[str, Any] = {_STOPPER: "1D"}
_EXCHANGE_STOPPER: Mapping[str, Any] = {"alternate-exchange": 0}
_CONSUMER_STOPPER: Mapping[str, Any] = {"x-priority": "none"}
_MOST_DIFFERENCES = 30
_UNNAMED = "refused"
_UNDERSTOOD = ("RabbitMQ ", "mxworker embedded broker")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A channel.close of the broker."""

    error: aiormq.exceptions.AMQPChannelError

    @property
    def text(self) -> str:
        return str(self.error.args[-1]) if self.error.args else _UNNAMED

    @property
    def is_missing(self) -> bool:
        return isinstance(self.error, aiormq.exceptions.ChannelNotFoundEntity)

    @property
    def is_forbidden(self) -> bool:
        return isinstance(self.error, aiormq.exceptions.ChannelAccessRefused)


class Probe:
    """Asks one broker. Every method raises ConnectionLost or ChannelLost when there is no answer."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self.can_compare = connection.server.startswith(_UNDERSTOOD)
        """Whether more may be asked than what exists: other brokers may not know the stoppers."""

    async def queue(self, name: str, arguments: Mapping[str, Any]) -> FoundQueue:
        """Return whether a queue exists, and how it differs from a durable one with these arguments."""
        answer = await self._ask(lambda channel: channel.queue_declare(name, passive=True))
        if isinstance(answer, _Refusal):
            if not answer.is_missing:
                return FoundQueue(is_there=True, trouble=foreign(answer.text))
            return FoundQueue(is_there=False, may_declare=await self._may_declare(name, arguments))
        found = FoundQueue(is_there=True, messages=answer.message_count or 0, consumers=answer.consumer_count or 0)
        return await self._compared(found, name, Asked(arguments)) if self.can_compare else found

    async def exchange(self, name: str) -> FoundExchange:
        """Return whether an exchange exists, and its type, as far as our user may learn it."""
        answer = await self._ask(lambda channel: channel.exchange_declare(name, passive=True))
        if isinstance(answer, _Refusal):
            return FoundExchange(not answer.is_missing, trouble="" if answer.is_missing else foreign(answer.text))
        if not self.can_compare:
            return FoundExchange(is_there=True)
        answer = await self._ask(
            lambda channel: channel.exchange_declare(
                name, exchange_type="topic", durable=True, arguments=dict(_EXCHANGE_STOPPER)
            )
        )
        if not isinstance(answer, _Refusal) or answer.is_forbidden:
            return FoundExchange(is_there=True)
        differs = difference_in(answer.text, Asked({"type": "topic"}))
        if differs is None:
            return FoundExchange(is_there=True)
        return FoundExchange(is_there=True, type=foreign(differs.value) if differs.key == "type" else "topic")

    async def may_consume(self, queue: str) -> bool | None:
        """Return whether our user may consume a queue that exists; None when that cannot be learnt."""
        if not self.can_compare:
            return None
        answer = await self._ask(
            lambda channel: channel.basic_consume(queue, _ignore, arguments=dict(_CONSUMER_STOPPER), no_ack=False)
        )
        return isinstance(answer, _Refusal) and not answer.is_forbidden

    async def may_publish(self) -> bool | None:
        """Return whether our user may publish to queues by their names, through the default exchange.

        The message that tries it has the name of no queue, and the broker returns it.
        """
        name = f"mxworker-check-{uuid.uuid4().hex}"
        answer = await self._ask(
            lambda channel: channel.basic_publish(b"", routing_key=name, mandatory=True), confirms=True
        )
        return not (isinstance(answer, _Refusal) and answer.is_forbidden)

    async def _may_declare(self, name: str, arguments: Mapping[str, Any]) -> bool | None:
        if not self.can_compare:
            return None
        answer = await self._declare(name, Asked(arguments))
        return not (isinstance(answer, _Refusal) and answer.is_forbidden)

    async def _compared(self, found: FoundQueue, name: str, asked: Asked) -> FoundQueue:
        """Ask again and again, each time with the broker's value of what it named last."""
        differences: list[Difference] = []
        following: Asked | None = asked
        while following is not None and len(differences) < _MOST_DIFFERENCES:
            answer = await self._declare(name, following)
            if not isinstance(answer, _Refusal):
                return replace(found, differences=in_order(differences), may_declare=True, is_compared=True)
            if answer.is_forbidden:
                return replace(found, differences=in_order(differences), may_declare=False)
            if not_of_the_type(answer.text) is not None:  # it would be a new one
                return FoundQueue(is_there=False, may_declare=True)
            named = difference_in(answer.text, following)
            if named is None:
                return replace(found, differences=in_order(differences), trouble=foreign(answer.text))
            if named.key == _STOPPER or any(named.key == each.key for each in differences):
                break
            differences.append(named)
            following = as_the_broker_has(following, named)
        return replace(found, differences=in_order(differences), may_declare=True)

    async def _declare(self, name: str, asked: Asked) -> Any:
        """Declare a queue with the stopper, so that it cannot come into being."""
        return await self._ask(
            lambda channel: channel.queue_declare(
                name,
                durable=asked.durable,
                auto_delete=asked.auto_delete,
                arguments={**asked.arguments, **_QUEUE_STOPPER},
            )
        )

    async def _ask(self, request: Callable[[AbstractChannel], Awaitable[Any]], *, confirms: bool = False) -> Any:
        """Make a request on a channel of its own, and return the answer or a _Refusal."""
        channel = await self._connection.channel(confirms=confirms)
        try:
            async with asyncio.timeout(_REPLY_DEADLINE_S):
                with library_errors():
                    return await _answer_of(request, await channel.get_underlay_channel())
        except TimeoutError:
            raise ConnectionLost(f"no answer within {_REPLY_DEADLINE_S:g} s") from None
        finally:
            await self._connection.close_channel(channel)


async def _answer_of(request: Callable[[AbstractChannel], Awaitable[Any]], channel: AbstractChannel) -> Any:
    try:
        return await request(channel)
    except aiormq.exceptions.DeliveryError:  # the broker has returned a message
        return None
    except aiormq.exceptions.AMQPChannelError as error:
        return _Refusal(error)


async def _ignore(message: Any) -> None:
    """Take nothing: the consumer is refused."""
