"""What the fixture `mx_broker` gives a test: a broker of its own, and services in real processes that use it.

All methods block. In an async test the test's own event loop stands still meanwhile, and that of the services does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from mxworker.api.message import MessageOptions
from mxworker.testing.blocking_client import BlockingClient
from mxworker.testing.brokers_under_test import FarEnd
from mxworker.testing.polling import until
from mxworker.testing.received import Received
from mxworker.testing.services import ServiceUnderTest

_READY_S = 30.0


class BrokerUnderTest:
    """The broker of one test. `url` is where clients connect.

    `timeout` bounds each wait in seconds, unless the call says something else.
    """

    timeout: float = 10.0
    has_failed: bool = False
    """Whether the test has failed: then its end is not checked."""

    def __init__(self, make_far_end: Callable[[Callable[[], BlockingClient]], FarEnd], folder: Path) -> None:
        """`folder` is for the logs of services."""
        self._far_end = make_far_end(lambda: self._client)
        self._folder = folder
        self._services: list[ServiceUnderTest] = []
        self._connected: BlockingClient | None = None
        self.url = self._far_end.url

    # ---- services

    def run(
        self,
        app: str,
        *,
        workers: int = 1,
        app_dir: str | Path | None = None,
        options: Sequence[str] = (),
        timeout: float = _READY_S,
    ) -> ServiceUnderTest:
        """Start `mxworker run APP`, and return when all its workers consume.

        `options` are further ones of `mxworker run`. The service finds what the tests can import, and the environment
        variables that the test has set, but for those of mxworker.
        """
        folder = self._folder / f"service-{len(list(self._folder.iterdir())) + 1}"
        folder.mkdir()
        where = None if app_dir is None else str(app_dir)
        service = ServiceUnderTest(app, self.url, folder, where, (f"--workers={workers}", *options))
        self._far_end.begin(service)
        try:
            service.start()
            service.wait_ready(timeout)
        except BaseException:
            service.kill()
            raise
        self._services.append(service)
        return service

    @property
    def services(self) -> Sequence[ServiceUnderTest]:
        """The services that the test has started."""
        return tuple(self._services)

    # ---- messages

    def publish(self, routing_key: str, payload: Any, *, exchange: str = "", **options: Unpack[MessageOptions]) -> None:
        """Publish a message, and return when the broker has confirmed it. Raises PublishError.

        With the default exchange the routing key is the name of a queue; `options` are those of `mxworker.Message`.
        """
        self._client.publish(payload, routing_key, exchange, options)

    def wait_for(self, queue: str, count: int = 1, *, timeout: float | None = None) -> list[Received]:
        """Take messages out of a queue that no service consumes, such as one of dead letters, and return them.

        Raises StillWaiting when fewer than `count` came in time.
        """
        taken = list[Received]()

        def has_enough() -> bool:
            while len(taken) < count and (message := self._client.take(queue)) is not None:
                taken.append(message)
            return len(taken) >= count

        self._until(has_enough, timeout, lambda: f"{count} messages in queue {queue!r}; there came {taken}")
        return taken

    def messages(self, queue: str) -> int:
        """Return how many messages are ready in a queue; 0 when there is no such queue."""
        return self._client.ready(queue) or 0

    # ---- time

    def wait_idle(self, *, timeout: float | None = None) -> None:
        """Wait until all messages in the queues of the services are settled. Retries that wait do not count.

        Raises StillWaiting.
        """
        last = dict[str, str]()

        def is_idle() -> bool:
            last.clear()
            last.update(self._far_end.busy(self._services))
            return not last

        def what() -> str:
            return "all messages to be settled; " + ", ".join(f"{name!r} has {held}" for name, held in last.items())

        self._until(is_idle, timeout, what)

    def wait_until(self, is_so: Callable[[], bool], what: str = "", *, timeout: float | None = None) -> None:
        """Wait for a fact, such as a row in a database. Raises StillWaiting with `what` and the logs."""
        self._until(is_so, timeout, lambda: what or "what the test waits for")

    def advance(self, seconds: float, *, timeout: float | None = None) -> None:
        """Move the time of queues: delays of retries, times to live, expiries. Return when all is settled.

        The clock stops at each instant at which something falls due, until the services have settled what came. Time
        inside the services, such as timeouts of handlers, goes on by itself. The clock of a RabbitMQ cannot be moved,
        so with one this waits for that time.
        """
        if seconds < 0:
            raise ValueError("a clock goes forward only")
        self.wait_idle(timeout=timeout)
        self._far_end.advance(seconds, lambda: self.wait_idle(timeout=timeout))

    # ---- the end

    def finish(self, is_checked: bool) -> None:
        """End the services. When `is_checked`, raise StillWaiting for unsettled messages and ends that are no success.

        Call it once; the fixture does.
        """
        try:
            if is_checked:
                self.wait_idle()
                for service in self._services:
                    service.stop()
        finally:
            for service in self._services:
                service.kill()
            self._far_end.end()
            if self._connected is not None:
                self._connected.close()

    @property
    def _client(self) -> BlockingClient:
        if self._connected is None:
            self._connected = BlockingClient(self.url)
        return self._connected

    def _until(self, is_so: Callable[[], bool], timeout: float | None, what: Callable[[], str]) -> None:
        """Wait for a fact. Raise StillWaiting with the logs of the services, also when one of them has ended."""

        def is_it_so() -> bool:
            if is_so():
                return True
            for service in self._services:
                service.check()
            return False

        def why() -> str:
            return "\n".join((what(), *(service.told() for service in self._services)))

        until(is_it_so, self.timeout if timeout is None else timeout, why)
