"""The connections of a command: it connects once, and ends with an error when it loses its connection.

A command never reconnects by itself, because what it held has gone back to the queue then. It is run again instead.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from mxworker.amqp.connecting.connection import BrokerConnection, Dialler
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.brokers import Brokers
from mxworker.config.bounds import MAX_BODY_BYTES
from mxworker.errors import BrokerError

PUBLISH_TIMEOUT_S = 30.0

_NAME = "mxworker dlq"


@asynccontextmanager
async def connected(brokers: Brokers, wait_s: float, name: str = _NAME) -> AsyncIterator[BrokerConnection]:
    """Connect to the first broker that answers within `wait_s` seconds, and yield the connection. Raises BrokerError.

    The broker's operator sees it under `name`. A refusal by every broker is raised at once.
    """
    loop = asyncio.get_running_loop()
    gives_up_at = loop.time() + wait_s
    rng = random.Random()  # noqa: S311  not for secrets
    dialler = Dialler(brokers, rng, max(0.1, min(wait_s, 10.0)), lambda _: logging.DEBUG, MAX_BODY_BYTES)
    attempt = 0
    while True:
        try:
            connection = await dialler.dial(name)
            break
        except BrokerError as error:
            verdict = dialler.rotation.verdict or error
            rest_s = dialler.rotation.rest_s(attempt, loop.time())
            if verdict.permanent or loop.time() + rest_s >= gives_up_at:
                raise verdict from error
            attempt += 1
            await asyncio.sleep(rest_s)
    try:
        yield connection
    finally:
        await connection.close()


def publishing(brokers: Brokers, wait_s: float) -> AbstractAsyncContextManager[Publisher]:
    """Return a publisher that keeps the order of its publishes: it sends on one channel, and tries none again."""
    return Publisher.connect(
        *(url.dsn for url in brokers.urls),
        shuffled=brokers.shuffled,
        tls_ca=brokers.tls.ca_file,
        tls_cert=brokers.tls.certificate_file,
        tls_key=brokers.tls.key_file,
        name=_NAME,
        connect_wait_s=wait_s,
        channels=1,
        attempts=1,
        timeout_s=PUBLISH_TIMEOUT_S,
    )
