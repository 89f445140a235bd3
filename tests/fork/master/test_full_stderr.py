"""A stderr that nobody reads, which is a full pipe, stops neither the master nor a worker."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fork.conftest import Service, Start, seconds_between
from tests.harness.waiting import wait_until

NOISE_S = 12.0


@pytest.fixture
def unread(tmp_path: Path, start: Start) -> Iterator[tuple[Service, int]]:
    """Yield a service whose workers log, with a full pipe for its stderr, and the end of the pipe to read from."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    redirected = ("sh", "-c", 'exec "$@" 2>"$0"', str(path))
    service = start("logs", "--workers", "4", "--heartbeat", "30", "--json-log", prefix=redirected)
    service.wait_for("logged", count=40, within_s=30)  # 6 MB, where a pipe holds one at most
    yield service, fd
    os.close(fd)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 0), (signal.SIGQUIT, 130)])
def test_service_ends_in_time(unread: tuple[Service, int], signum: signal.Signals, code: int) -> None:
    service, _ = unread
    asked_ns = time.monotonic_ns()
    service.kill(signum)
    assert service.wait() == code
    assert seconds_between(asked_ns) < NOISE_S
    assert service.survivors() == []


def test_workers_go_on_and_are_replaced_and_the_log_goes_on_when_it_is_read_again(unread: tuple[Service, int]) -> None:
    service, fd = unread
    os.kill(service.worker(1), signal.SIGKILL)
    service.wait_for("boot 2", slot=1)
    service.wait_for("logged", count=200, within_s=30)
    assert service.events("dump") == []
    raw = bytearray()

    def is_told() -> bool:
        with suppress(BlockingIOError):
            raw.extend(os.read(fd, 1 << 20))
        return raw.endswith(b"\n") and raw.count(b"lines of this process") >= 4

    wait_until(is_told, 15.0, "what was lost")
    assert all(json.loads(line) for line in raw.splitlines())
