"""Durations and sizes are read strictly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.config.units import format_duration, parse_duration_s, parse_size_bytes
from mxworker.errors import ConfigError

# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        ("30", 30.0),
        ("0", 0.0),
        (" 30 s ", 30.0),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "+1s", "1d", "1 m 2 s", "1e3", "inf", "nan", ".5s", "5.", "1,5s", "٣s", "1_0", "9" * 400]
)
def test_what_is_no_duration_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"'{text}' is not a duration.  Write it like 250ms, 30s, 5m or 1h.")
    ):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.25, "250ms"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (30.0, "30s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (3600.0, "60m"),
        (1234567.0, "1234567s"),
    ],
)
def test_a_duration_is_written_as_an_operator_would(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 10**9))
def test_a_written_duration_is_read_back(seconds: float) -> None:
    assert parse_duration_s(format_duration(seconds)) == pytest.approx(seconds, abs=0.001)


# Sizes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512MB", 512 * 10**6),
        ("256MiB", 256 * 2**20),
        ("1GiB", 2**30),
        ("1.5kB", 1500),
        (" 2 gb ", 2 * 10**9),
        ("10KiB", 10_240),
        ("1B", 1),
        ("65536", 65_536),
    ],
)
def test_a_size_is_read(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1 M B", "1e3", "inf", "nan", "1,5MB", "1TB", "1m", "٣MB"])
def test_what_is_no_size_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"'{text}' is not a size.  Write it like 512MB, 256MiB or 1GiB.")):
        parse_size_bytes(text)


@pytest.mark.parametrize("text", ["0", "0GB", "0.5B"])
def test_size_below_one_byte_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"'{text}' is too small a size; it must be at least one byte.")):
        parse_size_bytes(text)
