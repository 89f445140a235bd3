"""A publisher that refuses as it is told to, and waits that take no time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from mxworker.api.message import Content


class Publishing:
    """A publisher that ends each publish as it was told to, in order; the last outcome serves all further ones."""

    def __init__(self, *outcomes: Exception | asyncio.Event | None) -> None:
        """An event is waited for, and then the publish is confirmed."""
        self.published: list[tuple[Content, str]] = []
        self.before_each: Callable[[], None] = lambda: None
        self._outcomes = list(outcomes)

    async def publish(self, body: Content, *, routing_key: str) -> None:
        self.before_each()
        self.published.append((body, routing_key))
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        await asyncio.sleep(0)
        if isinstance(outcome, asyncio.Event):
            await outcome.wait()
        elif outcome is not None:
            raise outcome


class Hasty(random.Random):
    """Waits for no time, and notes how long it might have had to."""

    def __init__(self) -> None:
        super().__init__(1)
        self.ceilings_s: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.ceilings_s.append(b)
        return a
