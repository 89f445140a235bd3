"""The probes of a real service whose broker goes and comes back."""

from __future__ import annotations

import time

from tests.broker.apps import Recorded
from tests.harness.faults import Arrival
from tests.harness.proxy import proxy_to

BACK_WITHIN_S = 5.0
NOISE_S = 10.0


def test_broker_that_is_away_makes_a_service_unready_and_leaves_it_alive(recorded: Recorded, broker_url: str) -> None:
    with (
        proxy_to(broker_url) as proxy,
        recorded.service("--workers=2", "--http=127.0.0.1:0", url=proxy.url(broker_url)) as service,
    ):
        service.wait_ready()
        web = service.web
        assert web.wait_for("/readyz", 200).text == "ready\n"
        proxy.new_connections(Arrival.REFUSE)
        proxy.cut()
        down = web.wait_for("/readyz", 503)
        assert down.text.startswith("0 of 2 workers consume: ")
        assert "connect" in down.text
        assert web.get("/livez").status == 200
        assert web.samples()['mxworker_worker_up{worker="1"}'] == 0
        proxy.heal()
        back_at = time.monotonic()
        web.wait_for("/readyz", 200)
        assert time.monotonic() - back_at < BACK_WITHIN_S + NOISE_S
