"""A worker that damages the board damages its own slot alone, and is replaced; the others go on."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mxworker.control.protocol import Pause
from mxworker.errors import ExitCode
from tests.fork.conftest import Start
from tests.fork.master.test_control_server import answer, status
from tests.harness.waiting import wait_until

FILLS = ("ones", "random", "zeros")


@pytest.fixture
def address() -> Iterator[Path]:
    """An address short enough for a socket, whatever the test is called."""
    with TemporaryDirectory(prefix="mx-") as directory:
        yield Path(directory) / "test.sock"


@pytest.mark.parametrize(
    ("damage", "flags"),
    [
        *((f"fills_with_{fill}", ()) for fill in FILLS),
        *((f"fills_what_is_writable_with_{fill}", ("--cannot-seal",)) for fill in FILLS),
        ("promises_for_ever", ()),
        ("was_never_ready", ()),
    ],
)
def test_worker_that_damages_the_board_is_replaced_and_all_else_is_as_it_was(
    damage: str, flags: tuple[str, ...], start: Start, address: Path
) -> None:
    service = start(
        f"{damage},counts", "--workers", "3", "--heartbeat", "4", "--control", str(address), "--log-level=info", *flags
    )
    service.wait_for("ready", count=3)
    wait_until(lambda: status(address)["workers_ready"] == 3, what="three ready workers")
    answer(address, Pause("shop.orders"))
    service.wait_for("boot 2", slot=1)
    service.wait_for("ready", slot=1, count=2)

    def is_replaced() -> bool:
        told = status(address)
        broken, *others = told["workers"]
        all_tell = broken["restarts"] == 1 and [each["in_flight"] for each in others] == [1, 1]
        return all_tell and told["workers_ready"] == 3

    wait_until(is_replaced, what="its replacement")
    told = status(address)
    assert told["paused"] == {"all": False, "queues": ["shop.orders"]}
    broken, *others = told["workers"]
    assert (broken["restarts"], broken["acked"]) == (1, 500)
    assert broken["last_exit"] == "SIGKILL (broken slot)"
    assert [(each["pid"], each["acked"], each["in_flight"], each["restarts"]) for each in others] == [
        (service.worker(number), 1000 + number, 1, 0) for number in (2, 3)
    ]
    assert service.events("look", slot=1)[-1].what == "look False shop.orders None"
    log = service.stderr()
    (line,) = [line for line in log.splitlines() if "to its slot of the board what makes no sense" in line]
    assert re.search(r"worker 1 \(process \d+\) has written .* sense: ([A-Z_]+|word \d+) .*; it is killed", line)
    assert ("cannot seal shared memory (not asked for)" in log) == bool(flags)


def test_worker_that_damages_its_slot_in_a_drain_ends_the_service_with_an_error(start: Start, address: Path) -> None:
    service = start("promises_for_ever", "--workers", "1", "--heartbeat", "5", "--control", str(address))
    service.wait_for("ready")
    service.kill(signal.SIGTERM)
    assert service.wait() == ExitCode.RUNTIME
    assert "(broken slot)" in service.stderr()
