"""Signals that reach a whole group, from a terminal or a service manager, mean something to the master alone."""

from __future__ import annotations

import signal

from tests.fork.conftest import Start
from tests.fork.master.test_reload import logged, rolled, stop


def test_signals_to_the_group_end_no_worker_and_the_master_obeys_them(start_ready: Start) -> None:
    service = start_ready("healthy", "--workers", "2")
    first = {service.worker(slot) for slot in (1, 2)}
    service.kill_group(signal.SIGUSR2)
    service.wait_for("look True", count=2)
    service.kill_group(signal.SIGUSR1)
    service.wait_for("dump", count=2)
    service.kill_group(signal.SIGTTIN)
    service.wait_for("ready", slot=3)
    service.kill_group(signal.SIGTTOU)
    service.wait_for("left", slot=3)
    service.kill_group(signal.SIGWINCH)
    assert not first & {event.pid for event in service.events("left")}
    service.kill_group(signal.SIGHUP)
    rolled(service, 2)
    assert {event.pid for event in service.events("left")} == first | {service.events("boot", slot=3)[0].pid}
    assert service.events("SIGRTMAX") == []
    stop(service)


def test_signals_to_the_group_end_no_worker_that_boots(start: Start) -> None:
    service = start("slow_boot", "--workers", "2")
    service.wait_for("boot", count=2)
    for signum, says in (
        (signal.SIGUSR1, "SIGUSR1: asking"),
        (signal.SIGUSR2, "paused: all queues"),
        (signal.SIGTTIN, "scale: from 2 to 3 workers"),
        (signal.SIGTTOU, "scale: from 3 to 2 workers"),
    ):
        service.kill_group(signum)
        logged(service, says)
    service.wait_for("announce")
    assert {event.pid for event in service.events("ready", slot=1)} == {service.events("boot", slot=1)[0].pid}
    assert len(service.events("boot", slot=1)) == len(service.events("boot", slot=2)) == 1
    stop(service)
