"""The probes of a real service whose broker goes and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.broker.apps import Recorded
from tests.harness.faults import Arrival
from tests.harness.prometheus import promtool
from tests.harness.proxy import proxy_to
from tests.harness.waiting import wait_until

BACK_WITHIN_S = 10.0


def test_broker_that_is_away_makes_a_service_unready_and_leaves_it_alive(
    recorded: Recorded, broker_url: str, scale: Callable[[int, int], int]
) -> None:
    """After as many attempts as make the waits between them the longest there are, the service is back within 10 s.

    A reconnect has less to do than a start, which tells how slow the machine is now.
    """
    started_at = time.monotonic()
    with (
        proxy_to(broker_url) as proxy,
        recorded.service("--workers=2", "--http=127.0.0.1:0", url=proxy.url(broker_url)) as service,
    ):
        service.wait_ready()
        web = service.web
        assert web.wait_for("/readyz", 200).text == "ready\n"
        start_s = time.monotonic() - started_at
        proxy.new_connections(Arrival.RESET)
        proxy.cut()
        down = web.wait_for("/readyz", 503)
        assert down.text.startswith("0 of 2 workers consume: ")
        assert "connection" in down.text
        assert web.get("/livez").status == 200
        assert web.samples()['mxworker_worker_up{worker="1"}'] == 0
        before = len(proxy.attempts)
        wait_until(lambda: len(proxy.attempts) >= before + scale(4, 20), 30, "attempts at the broker that is away")
        proxy.heal()
        back_at = time.monotonic()
        web.wait_for("/readyz", 200)
        assert time.monotonic() - back_at < BACK_WITHIN_S + start_s


def test_scrape_of_a_service_at_work_has_its_counts_and_passes_the_checker(recorded: Recorded) -> None:
    with recorded.service("--workers=2", "--http=127.0.0.1:0") as service:
        service.wait_ready()
        recorded.publish(50)
        acked = f'mxworker_messages_total{{handler="record",outcome="ack",queue="{recorded.queue}"}}'
        wait_until(lambda: service.web.samples().get(acked) == 50, 30, "50 acked messages in the scrape")
        checked = promtool("check", "metrics", text=service.web.get("/metrics").text)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
