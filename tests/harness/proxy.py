"""A TCP proxy that breaks the wire between a client and its broker, on command and down to a chosen frame or byte.

In a test with an event loop:

    async with Proxy(host, port) as proxy:
        connection = await connect(proxy.url())
        proxy.cut()

In a test that drives subprocesses, the proxy has a thread and a loop of its own:

    with Proxy(host, port) as proxy:
        service = Service(..., proxy.url())
        proxy.blackhole()

Every public method is synchronous and may be called from any thread; when it returns, the fault is in force.

A silent direction is not read any further: what came meanwhile waits here and in the kernel, and goes on when the
direction is healed, as on a link that was unplugged for a while. (The kernel still acknowledges TCP segments.)

Bounds: per direction of a connection two reads of 64 KiB and one unfinished frame.
"""

from __future__ import annotations

import asyncio
import functools
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace as changed
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tests.harness.faults import Action, Arrival, Conditions, Cut, Direction, How, Pace, Rule, drop
from tests.harness.frames import MethodId
from tests.harness.link import Link, reset

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE_S = 30.0  # how long another thread waits for the proxy's loop
_BACKLOG = 128


def _in_the_loop(method: Callable[Concatenate[Proxy, P], R]) -> Callable[Concatenate[Proxy, P], R]:
    """Run the method in the proxy's own loop, whichever thread calls it."""

    @functools.wraps(method)
    def call(self: Proxy, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(functools.partial(method, self, *args, **kwargs))

    return call


class Proxy:
    """Passes connections on to `host:port` and breaks them on command.

    Duties: 1 accept on a loopback port that stays the same for its whole life, 2 pass bytes both ways, 3 apply the
    faults in force, 4 remember connection attempts and the last events.

    `rng` chooses the sizes of slices. When an exception leaves the `with` block, the trace is printed.
    """

    def __init__(self, host: str, port: int, *, rng: random.Random | None = None) -> None:
        self.attempts: list[float] = []  # the monotonic instants at which clients connected
        self._upstream = (host, port)
        self._conditions = Conditions(rng or random.Random(0), self._cut)
        self._arrival = Arrival.REFUSE
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bugs: list[BaseException] = []
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    # Life: one of the two `with` statements

    async def __aenter__(self) -> Proxy:
        self._loop = asyncio.get_running_loop()
        self._owner = threading.get_ident()
        # Bound and never listening: nobody else gets the port while new connections are refused.
        self._placeholder = _bound_socket(0)
        self.port: int = self._placeholder.getsockname()[1]
        self.heal()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stdout.write(f"{self.trace()}\n")
        self.new_connections(Arrival.REFUSE)
        self.cut()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._placeholder.close()
        if self._bugs:
            raise self._bugs[0]

    def __enter__(self) -> Proxy:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result(_PATIENCE_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._thread is not None
        try:
            asyncio.run_coroutine_threadsafe(self.__aexit__(kind, error, where), self._loop).result(_PATIENCE_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE_S)
            self._loop.close()

    def _run(self, call: Callable[[], R]) -> R:
        if threading.get_ident() == self._owner:
            return call()
        outcome: Future[R] = Future()

        def run() -> None:
            try:
                outcome.set_result(call())
            except Exception as error:  # raised again in the thread that called
                outcome.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return outcome.result(_PATIENCE_S)

    # Where it is, and what it saw

    def url(self, like: str = "amqp://guest:guest@localhost/") -> str:
        """Return the URL `like` with the proxy's host and port in it."""
        parts = urlsplit(like)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    @property
    def open_connections(self) -> int:
        """How many connections go through now; one that was cut does not count."""
        return len(self._links)

    def passed_bytes(self, direction: Direction) -> int:
        """Return how many bytes went in `direction` since the start."""
        return self._conditions.passed_bytes[direction]

    @_in_the_loop
    def trace(self) -> str:
        """Return the last events, one a line: seconds since the start, connection, what happened."""
        host, port = self._upstream
        return f"proxy 127.0.0.1:{self.port} -> {host}:{port}\n{self._conditions.trace}"

    # Faults of the wire

    @_in_the_loop
    def cut(self, how: How = How.RST) -> int:
        """Cut all connections now and return how many there were.

        RST drops what is under way. FIN lets it arrive, ends both directions and then swallows what still comes.
        """
        return self._cut(how)

    @_in_the_loop
    def cut_after(self, size_bytes: int, direction: Direction, how: How = How.RST) -> Cut:
        """Cut all connections when `size_bytes` more went in `direction`: exactly there, be it inside a frame."""
        cut = Cut(direction, size_bytes, how)
        self._conditions.cuts.append(cut)
        return cut

    @_in_the_loop
    def blackhole(self, *directions: Direction) -> None:
        """Pass nothing any more in these directions, or in both; connections stay open."""
        for direction in directions or Direction:
            self._note(f"silence {direction.value}")
            self._conditions.gates[direction].clear()

    @_in_the_loop
    def slice(self, smallest_bytes: int = 1, largest_bytes: int = 7) -> None:
        """Write pieces of random size, each with a `send` of its own."""
        self._set_pace(slice_bytes=(smallest_bytes, largest_bytes))

    @_in_the_loop
    def delay(self, seconds: float) -> None:
        """Hold what was read for `seconds`; what comes meanwhile waits too, so a byte is late by one to two delays."""
        self._set_pace(delay_s=seconds)

    @_in_the_loop
    def throttle(self, bytes_per_s: float) -> None:
        """Pass at most so many bytes a second in each direction of a connection."""
        self._set_pace(bytes_per_s=bytes_per_s)

    @_in_the_loop
    def new_connections(self, arrival: Arrival) -> None:
        """Choose what happens to connections made from now on."""
        self._note(f"new connections: {arrival.name}")
        self._arrival = arrival
        if arrival is Arrival.REFUSE:
            self._stop_listening()
        elif self._listener is None:
            self._listen()

    @_in_the_loop
    def heal(self) -> None:
        """End silence, slices, delay and throttle, and let new connections through. Rules and armed cuts stay."""
        self._note("healed")
        for direction in Direction:
            self._conditions.pace[direction] = Pace()
            self._conditions.gates[direction].set()
        self.new_connections(Arrival.PASS)

    # Faults of frames

    @_in_the_loop
    def on(
        self,
        direction: Direction,
        method: MethodId | None,
        action: Action,
        *,
        content: bool = False,
        skip: int = 0,
        times: int | None = None,
    ) -> Rule:
        """Do `action` to the frames of `method`; None means every frame, content frames included.

        With `content` it is also done to the header and body frames that belong to such a method. `skip` lets so many
        pass first; after `times` the rule is spent. The first rule that takes a frame is the only one applied to it.
        """
        rule = Rule(direction, method, action, content, skip, times)
        self._conditions.rules.append(rule)
        return rule

    def drop(self, direction: Direction, method: MethodId, *, skip: int = 0, times: int | None = None) -> Rule:
        """Let the frames of `method` vanish, with their content."""
        return self.on(direction, method, drop, content=True, skip=skip, times=times)

    @_in_the_loop
    def remove(self, rule: Rule) -> None:
        """End a rule. Content whose method it took stays taken."""
        self._conditions.rules.remove(rule)

    @_in_the_loop
    def inject(self, direction: Direction, raw: bytes) -> int:
        """Write `raw` between two frames of every open connection and return how many there are."""
        links = [link for link in self._links if link.streams]
        for link in links:
            link.note(f"{direction.value} injected {len(raw)} bytes")
            self._own(link.inject(direction, raw))
        return len(links)

    # Inside

    def _listen(self) -> None:
        self._listener = _bound_socket(self.port)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.attempts.append(time.monotonic())
        number = len(self.attempts)
        self._conditions.trace.note(number, f"connected ({self._arrival.name})")
        if self._arrival is Arrival.RESET:
            reset(accepted)
            accepted.close()
            return
        accepted.setblocking(False)
        link = Link(number, accepted, self._conditions)
        self._links.add(link)
        self._own(link.run(None if self._arrival is Arrival.MUTE else self._upstream), link)

    def _own(self, work: Coroutine[Any, Any, None], link: Link | None = None) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)

        def forget(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if link is not None:
                self._links.discard(link)
            if not task.cancelled() and (bug := task.exception()):
                self._bugs.append(bug)

        task.add_done_callback(forget)

    def _cut(self, how: How) -> int:
        links = list(self._links)
        self._links.clear()
        for link in links:
            link.cut(how)
        return len(links)

    def _set_pace(self, **changes: Any) -> None:
        pace = self._conditions.pace
        for direction in Direction:
            pace[direction] = changed(pace[direction], **changes)

    def _note(self, text: str) -> None:
        self._conditions.trace.note(0, text)


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def proxy_to(url: str, rng: random.Random | None = None) -> Proxy:
    """Return a proxy for the broker at `url`."""
    parts = urlsplit(url)
    return Proxy(parts.hostname or "", parts.port or 0, rng=rng)
