"""The end of a worker's service, in an order that loses no message and handles none twice.

1. start no further delivery;
2. send basic.cancel on every channel, and wait for cancel-ok: deliveries given back earlier would be sent to us again;
3. give back the deliveries that wait, and those that still arrived;
4. let the running handlers finish, while heartbeats and acks go on;
5. at the deadline, or when the drain is cut short, cancel the rest and leave it unacked, for the broker to redeliver;
6. wait for the confirms of published messages;
7. write the settlements, wait until the broker has processed them, and close the channels.

A channel whose handlers did not leave stays open until the process ends: the broker would redeliver its deliveries at
once, while a handler still runs them.

A single active consumer is not cancelled, and its deliveries are not given back. At cancel-ok another consumer would be
active at once, and would get the messages behind those that wait or run here. When nothing runs any more, the close of
the channel gives all of them back in order, and only then another consumer becomes active.

The deadline is absolute and holds for the whole drain. A request to cut the drain short moves the deadline to now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.tasks import end

# Seconds after the deadline for the broker to answer basic.cancel, for cancelled handlers to leave, for confirms to
# arrive, and for the broker to answer the barrier. The master's own bound is one second after the deadline (see
# slots.DRAIN_SLACK_NS).
_CANCEL_GRACE_S = 0.2
_LEAVE_GRACE_S = 0.4
_CONFIRM_GRACE_S = 0.5
_BARRIER_GRACE_S = 0.7


class Drain:
    """One drain, run once."""

    def __init__(
        self,
        consumers: Sequence[Consumer],
        runners: Sequence[HandlerRunner],
        isolation: Isolation,
        publisher: Publisher,
        cut: asyncio.Event,
        deadline: float,
        waits_for_stuck: bool = True,
    ) -> None:
        """Prepare. You must have cancelled the consumers' `run`. The runner of each has the same index in `runners`.

        `deadline` is a loop time, and `cut` may be set at any time. Without `waits_for_stuck`, the drain does not wait
        for stuck handlers until the deadline.
        """
        self._publisher = publisher
        self._consumers = consumers
        self._runners = runners
        self._isolation = isolation
        self._cut = cut
        self._deadline = deadline
        self._waits_for_stuck = waits_for_stuck
        self._loop = asyncio.get_running_loop()

    async def run(self) -> bool:
        """Drain. Return whether every running handler has finished."""
        for runner in self._runners:
            runner.hold()
        self._isolation.stop()  # after `hold`, since it releases the deliveries that wait for a suspect
        await self._within(_CANCEL_GRACE_S, *map(_stop_deliveries, self._consumers))
        for consumer, runner in zip(self._consumers, self._runners, strict=True):
            if not consumer.queue.single_active_consumer:
                runner.return_all()
        await self._within(0.0, *(runner.finished(not self._waits_for_stuck) for runner in self._runners))
        has_finished = not any(runner.running for runner in self._runners)
        if not has_finished:
            self._deadline = min(self._deadline, self._loop.time())  # stuck handlers get no more time
            for runner in self._runners:
                runner.cut_short()
            await self._within(_LEAVE_GRACE_S, *(runner.finished() for runner in self._runners))
        await self._within(_CONFIRM_GRACE_S, self._publisher.drain())
        subscriptions = [consumer.subscription for consumer in self._consumers if consumer.subscription is not None]
        await self._within(_BARRIER_GRACE_S, *(subscription.barrier() for subscription in subscriptions))
        await asyncio.gather(*(subscription.close() for subscription in self._at_rest()))
        return has_finished

    def _at_rest(self) -> list[Subscription]:
        """Return the subscriptions whose handlers have all left."""
        pairs = zip(self._consumers, self._runners, strict=True)
        return [
            consumer.subscription
            for consumer, runner in pairs
            if consumer.subscription is not None and not runner.running
        ]

    async def _within(self, grace_s: float, *duties: Coroutine[Any, Any, object]) -> bool:
        """Await the duties until `grace_s` after the deadline, then cancel the rest. Return whether all were done."""
        working = self._loop.create_task(_all(duties))
        cutting = self._loop.create_task(self._cut.wait())
        try:
            await asyncio.wait({working, cutting}, timeout=self._left_s(grace_s), return_when=asyncio.FIRST_COMPLETED)
            if cutting.done() and not working.done():
                self._deadline = min(self._deadline, self._loop.time())
                await asyncio.wait({working}, timeout=self._left_s(grace_s))
            return working.done()
        finally:
            await end((working, cutting))

    def _left_s(self, grace_s: float) -> float:
        return max(0.0, self._deadline + grace_s - self._loop.time())


async def _stop_deliveries(consumer: Consumer) -> None:
    if consumer.queue.single_active_consumer:
        await consumer.end_request()
    else:
        await consumer.cancel()


async def _all(duties: Sequence[Coroutine[Any, Any, object]]) -> None:
    await asyncio.gather(*duties)
