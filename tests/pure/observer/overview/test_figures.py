"""Numbers, times and sizes are shown in the unit that fits."""

from __future__ import annotations

import pytest

from mxworker.observer.overview.figures import clock, count, count_of, duration, rate, share, size


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (0, "0"), (12_345, "12,345"), (9_999_999, "9,999,999"), (12_345_678, "12.3 M"), (2.5e10, "25.0 G")],  # noqa: RUF001
)
def test_count(number: float | None, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("per_s", "text"), [(0.0, "0"), (0.01, "<0.1"), (0.3, "0.3"), (9.9, "9.9"), (9.96, "10"), (1234.5, "1,234")]
)
def test_rate(per_s: float, text: str) -> None:
    assert rate(per_s) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),  # noqa: RUF001
        (0, "0 s"),
        (0.0012, "1.2 ms"),
        (0.0121, "12 ms"),
        (0.9994, "999 ms"),
        (1.0, "1 s"),
        (1.55, "1.6 s"),
        (12.3, "12 s"),
        (59.7, "1 min"),
        (192, "3 min 12 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(None, "–"), (0, "0 B"), (999, "999 B"), (58_300_000, "58 MB"), (1.2e13, "12.0 TB")]  # noqa: RUF001
)  # fmt: skip
def test_size(size_bytes: float | None, text: str) -> None:
    assert size(size_bytes) == text


def test_share_and_plural() -> None:
    assert share(0.534) == "53 %"
    assert count_of(1, "worker") == "1 worker"
    assert count_of(2_000, "worker") == "2,000 workers"


def test_an_instant_of_another_day_has_its_date() -> None:
    now_unix_s = 1_795_960_931
    assert clock(now_unix_s - 60, now_unix_s) == "14:01:11 UTC"
    assert clock(now_unix_s - 86_400, now_unix_s) == "2026-11-28 14:02:11 UTC"
