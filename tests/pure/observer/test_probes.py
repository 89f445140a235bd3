"""What probes are answered."""

from __future__ import annotations

import pytest

from mxworker.observer.probes import SILENT_S, livez, readyz
from tests.pure.observer.views import service


def test_service_is_alive_as_long_as_its_master_turns() -> None:
    assert (livez(0.0).status, livez(0.0).body) == (200, b"alive\n")
    assert livez(SILENT_S).status == 200
    stuck = livez(SILENT_S + 1)
    assert (stuck.status, stuck.body) == (503, b"the master has not turned its loop for 11 s\n")


@pytest.mark.parametrize("why", ["the service is stopping", "all queues are paused", "0 of 2 workers consume"])
def test_service_that_is_not_ready_says_why(why: str) -> None:
    reply = readyz(service(unready_because=why), 0.0)
    assert (reply.status, reply.body) == (503, f"{why}\n".encode())


def test_service_is_ready_when_the_master_says_so_now() -> None:
    assert (readyz(service(), 0.0).status, readyz(service(), 0.0).body) == (200, b"ready\n")
    assert readyz(service(), SILENT_S + 1).status == 503
