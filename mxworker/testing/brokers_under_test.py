"""The two brokers that end-to-end tests can have: the embedded one, and a RabbitMQ that a URL names.

They differ in what a test can learn of them, and in their time: that of RabbitMQ only passes by itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import quote

from mxworker.devbroker.control import BrokerControl
from mxworker.devbroker.process import BrokerProcess
from mxworker.testing.app_queues import queues_of
from mxworker.testing.blocking_client import BlockingClient
from mxworker.testing.services import ServiceUnderTest

_LOOK_AGAIN_S = 0.25


class FarEnd(Protocol):
    """A broker, with the queues of one test."""

    url: str

    def begin(self, service: ServiceUnderTest) -> None:
        """Learn that a service is to run."""

    def busy(self, services: Sequence[ServiceUnderTest]) -> Mapping[str, str]:
        """Return what is unsettled in the queues that the services consume, by queue; empty when nothing is."""

    def advance(self, seconds: float, until_idle: Callable[[], None]) -> None:
        """Let time go by, and call `until_idle` at each instant at which something fell due."""

    def end(self) -> None:
        """Take away what the test has left. Call when the services have ended."""


class EmbeddedFarEnd:
    """A virtual host of the embedded broker."""

    def __init__(self, broker: BrokerProcess, control: BrokerControl) -> None:
        self._vhost = f"test-{uuid.uuid4().hex[:12]}"
        self.url = broker.url + quote(self._vhost, safe="")
        self._control = control

    def begin(self, service: ServiceUnderTest) -> None:
        """Do nothing: the broker knows its queues."""

    def busy(self, services: Sequence[ServiceUnderTest]) -> Mapping[str, str]:
        """Return the queues that have a consumer, and messages that are ready or unacked."""
        return {
            name: f"{queue['ready']} ready, {queue['unacked']} unacked"
            for name, queue in self._control.queues(self._vhost).items()
            if queue["unacked"] or (queue["consumers"] and queue["ready"])
        }

    def advance(self, seconds: float, until_idle: Callable[[], None]) -> None:
        """Move the broker's clock, with a stop at each of its timers."""
        left = seconds
        while left > 0:
            left -= self._control.advance_to_next(left)
            until_idle()

    def end(self) -> None:
        """Delete the virtual host."""
        self._control.delete_vhost(self._vhost)


class RabbitFarEnd:
    """The virtual host of a RabbitMQ. Queues that were there before the test are left as they are."""

    def __init__(self, url: str, client: Callable[[], BlockingClient]) -> None:
        self.url = url
        self._client = client
        self._consumed: list[str] = []
        self._made: list[str] = []

    def begin(self, service: ServiceUnderTest) -> None:
        """Find out which queues the service will make."""
        queues = queues_of(service.app, service.app_dir)
        self._consumed += queues.consumed
        client = self._client()
        names = dict.fromkeys((*queues.consumed, *queues.beside))
        self._made += [name for name in names if name not in self._made and client.ready(name) is None]

    def busy(self, services: Sequence[ServiceUnderTest]) -> Mapping[str, str]:
        """Return the consumed queues with ready messages, and the services that handle messages.

        A message that was just delivered is in neither, so a second look has to find nothing, too.
        """
        return self._seen_busy(services) or self._seen_busy_again(services)

    def _seen_busy_again(self, services: Sequence[ServiceUnderTest]) -> Mapping[str, str]:
        time.sleep(_LOOK_AGAIN_S)
        return self._seen_busy(services)

    def _seen_busy(self, services: Sequence[ServiceUnderTest]) -> Mapping[str, str]:
        client = self._client()
        found = {name: f"{ready} ready" for name in self._consumed if (ready := client.ready(name))}
        for service in services:
            in_flight = sum(worker["in_flight"] for worker in service.status()["workers"])
            if in_flight:
                found[service.app] = f"{in_flight} in flight"
        return found

    def advance(self, seconds: float, until_idle: Callable[[], None]) -> None:
        """Wait for this time."""
        time.sleep(seconds)
        until_idle()

    def end(self) -> None:
        """Delete the queues that the test has made."""
        for name in self._made:
            self._client().delete(name)
