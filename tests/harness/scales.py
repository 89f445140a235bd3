"""Tests that `make test` leaves out: `--full` runs them."""

from __future__ import annotations

import pytest

FULL_ONLY = pytest.mark.skipif("not config.getoption('--full')", reason="much like one that runs: --full runs it too")
"""Marks a case that differs little from another one of the same test, which always runs."""
