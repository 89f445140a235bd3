"""Keep letters alive that the broker would drop, because they were delivered and given back too often.

A look holds letters and gives them back, and a quorum queue counts that. From RabbitMQ 4.0 on it drops a message that
was given back more than 20 times, unless the queue has a limit of its own; before 4.3 every return counts
(https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling; tried on 4.0). The queues that mxworker declares
have a limit that no look reaches, see `api.queues.KEEPS_RETURNED`. In all other queues a letter that was given back
`RENEWED_AT` times is renewed: it is published to its own queue again, and acked after the confirm. So are all letters
behind it, which keeps their order.

The limit of the broker cannot be read in AMQP. 10 is half of its default, so that a look may be killed ten times.
"""

from __future__ import annotations

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.api.delivery import Delivery
from mxworker.api.topology import WAITING_ARGUMENTS
from mxworker.errors import BrokerError, ConnectionLost
from mxworker.letters.letter import Letter, Original
from mxworker.letters.spool import Spool

RENEWED_AT = 10


class Renewal:
    """Collects the letters of a look that have to be renewed. You must `close` it."""

    def __init__(self) -> None:
        self.spool = Spool()
        self.is_asked = False
        """Whether a letter was seen that has to be renewed, if the queue has a limit, and that is not known yet."""
        self._is_needless = False

    def see(self, letter: Letter, original: Original, delivery: Delivery) -> None:
        """Collect a letter, if it or one before it was given back too often."""
        if self._is_needless:
            return
        if len(self.spool) or letter.delivery_count >= RENEWED_AT:
            self.is_asked = self.is_asked or not len(self.spool)
            self.spool.add(original, delivery)

    def answer(self, keeps_returned: bool) -> None:
        """Go on, knowing whether the queue keeps letters however often they are given back."""
        self.is_asked = False
        if keeps_returned:
            self._is_needless = True
            self.spool.clear()

    def close(self) -> None:
        """Forget all letters."""
        self.spool.close()


async def keeps_returned(connection: BrokerConnection, name: str) -> bool:
    """Tell whether a queue, which exists, has the arguments of a queue that mxworker has declared.

    The broker logs an error when it has not.
    """
    channel = await connection.channel()
    try:
        underlay = await channel.get_underlay_channel()
        with library_errors(name):
            await underlay.queue_declare(name, durable=True, arguments=dict(WAITING_ARGUMENTS))
    except ConnectionLost:
        raise
    except BrokerError:
        return False
    finally:
        await connection.close_channel(channel)
    return True
