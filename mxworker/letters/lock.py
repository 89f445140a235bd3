"""One command at a time takes letters out of a queue, on all hosts.

The lock is an exclusive queue of the broker (https://www.rabbitmq.com/docs/queues#exclusive-queues). The broker deletes
it with the connection that declared it, so it ends with a command that is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.errors import BrokerError, ChannelLost, TopologyRefused
from mxworker.wire.field_table import SHORT_STRING_BYTES

PATIENCE_S = 5.0
"""A command waits this long: the broker may not have noticed yet that another one was killed."""

_PREFIX = "mxworker.lock."
_LOOK_AGAIN_S = 0.25


class LettersLocked(BrokerError):
    """Another command takes letters out of the queue."""

    permanent = False


@asynccontextmanager
async def locked(connection: BrokerConnection, name: str) -> AsyncIterator[None]:
    """Hold the lock of queue `name` until the block ends.

    Raises LettersLocked; TopologyRefused, when the right to declare it is missing; or another BrokerError.
    """
    lock = lock_name(name)
    gives_up_at = asyncio.get_running_loop().time() + PATIENCE_S
    while not await _declared(connection, lock):
        if asyncio.get_running_loop().time() >= gives_up_at:
            raise LettersLocked(
                f"another mxworker dlq takes letters out of '{name}', here or on another host.\n  Wait until it has "
                f"ended. It holds the exclusive queue '{lock}'; its connection has the name 'mxworker dlq'."
            )
        await asyncio.sleep(_LOOK_AGAIN_S)
    try:
        yield
    finally:
        await _delete(connection, lock)


def lock_name(name: str) -> str:
    """Return the name of the exclusive queue."""
    lock = _PREFIX + name
    if len(lock.encode()) > SHORT_STRING_BYTES:
        return _PREFIX + blake2b(name.encode(), digest_size=16).hexdigest()
    return lock


async def _declared(connection: BrokerConnection, lock: str) -> bool:
    """Declare the exclusive queue; return False when another connection has it."""
    channel = await connection.channel()
    try:
        underlay = await channel.get_underlay_channel()
        with library_errors(lock):
            await underlay.queue_declare(lock, exclusive=True)
    except ChannelLost as error:
        if "RESOURCE_LOCKED" in str(error):
            return False
        raise
    except TopologyRefused as error:
        raise TopologyRefused(
            f"{error}\n  The lock needs the right to configure queues whose name begins with '{_PREFIX}'."
        ) from error
    finally:
        await connection.close_channel(channel)
    return True


async def _delete(connection: BrokerConnection, lock: str) -> None:
    if connection.plane.lost.done():
        return
    channel = await connection.channel()
    try:
        underlay = await channel.get_underlay_channel()
        with library_errors(lock):
            await underlay.queue_delete(lock)
    finally:
        await connection.close_channel(channel)
