"""Many connections that lose their broker at the same moment do not come back at the same moment."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.harness import ledger
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

PROCESSES = 8
CONNECTIONS = 3 * PROCESSES
WINDOW_S = 0.25
LARGEST_SHARE = 0.35
BACK_WITHIN_S = 15.0
CALM_S = 5.5  # longer than the 5 s after which a connection counts as a success and backoff starts anew

BORROWING = """
    import asyncio
    import os

    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(Queue("herd", dead_letter=False), concurrency=1)
    async def borrow(body: str, ctx: Context) -> None:
        async with ctx.channel():
            await asyncio.sleep(0.3)  # so that every process gets one of the messages
        ledger.finish(f"{os.getpid()}")
"""


def largest_share(instants: Sequence[float]) -> float:
    """Return the share of the instants that the fullest window holds, wherever it begins."""
    ordered = sorted(instants)
    counts = [bisect_left(ordered, begin + WINDOW_S) - number for number, begin in enumerate(ordered)]
    return max(counts) / len(ordered)


def _outage(node: Node, proxy: Proxy) -> tuple[list[float], list[float]]:
    """Kill the broker and start it again; return when connections were attempted, and when those that came back were.

    The latter count from the moment at which the broker is up again.
    """
    before = len(proxy.attempts)
    killed_at = time.monotonic()
    node.kill()
    node.start()
    up_at = time.monotonic()
    wait_until(lambda: proxy.open_connections == CONNECTIONS, BACK_WITHIN_S, "all connections to be back")
    attempts = proxy.attempts[before:]
    return [at - killed_at for at in attempts], [at - up_at for at in attempts if at > up_at]


def test_restarted_broker_is_not_stormed(
    own_node: Callable[..., Node], tmp_path: Path, seed: int, scale: Callable[[int, int], int]
) -> None:
    node = own_node()
    app = write_app(tmp_path, BORROWING)
    with proxy_to(node.url) as proxy:
        env = {"MXWORKER_BROKER_URL": proxy.url(node.url), "LEDGER": str(tmp_path / "ledger")}
        command = mxworker_run(app, f"--workers={PROCESSES}", app_dir=tmp_path)
        with Service(command, tmp_path, env=env) as service:
            service.wait_ready()
            node.sync()
            with Client(node.url) as client:
                client.publish("herd", [b"borrow"] * (4 * PROCESSES))
            wait_until(lambda: ledger.count(tmp_path / "ledger") == 4 * PROCESSES, 30, "every message")
            wait_until(lambda: proxy.open_connections == CONNECTIONS, BACK_WITHIN_S, "three connections per process")
            shares: list[float] = []
            returns: list[float] = []
            for _ in range(scale(2, 5)):
                time.sleep(CALM_S)  # the broker must have been well for a while, or backoff is still long
                attempts, returned = _outage(node, proxy)
                shares.append(largest_share(attempts))
                returns += returned
    print(
        f"seed {seed}, {len(shares)} restarts, fullest window of each: "
        f"{', '.join(f'{share:.0%}' for share in shares)}; of all {len(returns)} attempts at the broker that was back: "
        f"{largest_share(returns):.0%}, the last after {max(returns):.1f} s"
    )
    assert max(shares) <= LARGEST_SHARE
    assert largest_share(returns) <= LARGEST_SHARE
