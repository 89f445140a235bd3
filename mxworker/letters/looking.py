"""Look at the letters of a queue without consuming any.

All letters that are there when the look begins are delivered, held unsettled, and given back; all of them, because they
would lose their order otherwise (see `holding`). See `renewal` for queues in which the broker would count that against
them.
"""

from __future__ import annotations

from collections.abc import Callable

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.api.delivery import Delivery
from mxworker.brokers import Brokers
from mxworker.errors import BrokerError
from mxworker.letters.connecting import publishing
from mxworker.letters.holding import Hold, depth
from mxworker.letters.letter import Letter, Original, letter_of
from mxworker.letters.moving import Move, Way
from mxworker.letters.renewal import Renewal, keeps_returned

See = Callable[[Letter, Original], None]
"""Gets each letter in the order of the queue."""


async def look(connection: BrokerConnection, brokers: Brokers, name: str, see: See, wait_s: float) -> int:
    """Show each letter of queue `name` to `see`, and return how many were there.

    `brokers` and `wait_s` are for a second connection, should letters have to be renewed. Raises BrokerError, or what
    `see` raised.
    """
    there = await depth(connection, name)
    seen = _Look(there, see)
    hold = Hold(connection, name, seen.take)
    try:
        await hold.take(lambda: seen.is_over or seen.renewal.is_asked)
        if seen.renewal.is_asked:
            seen.renewal.answer(await keeps_returned(connection, name))
            await hold.take(lambda: seen.is_over)
        seen.is_over = True
        if len(seen.renewal.spool):
            await _renew(seen.renewal, hold, brokers, name, wait_s)
    finally:
        await hold.close()
        seen.renewal.close()
    return there


class _Look:
    def __init__(self, there: int, see: See) -> None:
        self.renewal = Renewal()
        self.is_over = there == 0
        self._left = there
        self._see = see

    def take(self, delivery: Delivery) -> None:
        if self.is_over:
            return  # it arrived meanwhile
        self._left -= 1
        self.is_over = self._left <= 0
        letter, original = letter_of(delivery)
        self._see(letter, original)
        self.renewal.see(letter, original, delivery)


async def _renew(renewal: Renewal, hold: Hold, brokers: Brokers, name: str, wait_s: float) -> None:
    async with publishing(brokers, wait_s) as publisher:
        moves = await Move(publisher, Way(name), hold.check).run(hold.settled(renewal.spool))
    if moves.stopped:
        raise BrokerError(
            f"the letters of queue '{name}' were given back so often that the broker may soon drop them, and they "
            f"cannot be published anew: {moves.stopped}.\n  Raise the delivery limit of the queue by a policy before "
            "you look again (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling)."
        )
