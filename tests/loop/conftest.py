"""Fixtures of the tests with an event loop and fakes."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def log_as_in_production(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the library's log to what `log.set_up` keeps it to."""
    for library in ("aio_pika", "aiormq"):
        caplog.set_level(logging.CRITICAL, library)
