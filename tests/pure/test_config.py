"""Settings are read strictly."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.brokers import Brokers, BrokerUrl
from mxworker.config import (
    Consumption,
    PoolSettings,
    PublisherOptions,
    PublisherSettings,
    Supervision,
    format_duration,
    parse_duration_s,
    parse_size_bytes,
)
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


# The rest


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_connections": 1}, "min_connections is 1, but must be at least 2"),
        ({"max_connections": 2}, "max_connections is 2, but must be at least 3"),
        ({"min_connections": 5}, "min_connections is 5, above max_connections, 4"),
        ({"warm_channels": -1}, "warm_channels is -1, but must be at least 0"),
        ({"max_channels": 0}, "max_channels is 0, but must be at least 1"),
        ({"max_channels": 65536}, "max_channels is 65536, but AMQP has at most 65535"),
        ({"borrow_timeout_s": 0}, "borrow_timeout_s is 0, but must be a time above 0"),
        ({"health_check_s": -1}, "health_check_s is -1, but must be a time above 0"),
        ({"idle_trim_s": float("nan")}, "idle_trim_s is nan, but must be a time above 0"),
        ({"connect_timeout_s": float("inf")}, "connect_timeout_s is inf, but must be a time above 0"),
    ],
)
def test_pool_that_cannot_work_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^pool: {said}"):
        PoolSettings(**settings)  # type: ignore[arg-type]


def test_pool_defaults_are_the_promised_ones() -> None:
    assert dataclasses.asdict(PoolSettings()) == {
        "min_connections": 2,
        "max_connections": 4,
        "connect_timeout_s": 10,
        "health_check_s": 30,
        "idle_trim_s": 60,
        "warm_channels": 10,
        "max_channels": 100,
        "borrow_timeout_s": 5,
    }


def test_settings_are_frozen() -> None:
    for settings in (Supervision("app", 4), Consumption("app", Brokers((BrokerUrl("rabbit"),))), PoolSettings()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, dataclasses.fields(settings)[0].name, "other")


# Publisher


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"channels": 0}, "channels is 0, but must be a whole number, at least 1"),
        ({"max_in_flight": "10"}, "max_in_flight is '10', but must be a whole number"),
        ({"attempts": 1.5}, "attempts is 1.5, but must be a whole number"),
        ({"max_body_bytes": True}, "max_body_bytes is True, but must be a whole number"),
        ({"timeout_s": 0}, "timeout_s is 0, but must be a time above 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan, but must be a time above 0"),
        ({"timeout_s": "5s"}, "timeout_s is '5s', but must be a time above 0"),
        ({"retry_unconfirmed": "no"}, "retry_unconfirmed is 'no', but must be True or False"),
        ({"overflow": "block"}, "overflow is 'block', but must be 'wait', 'raise' or 'drop'"),
        ({"when_blocked": "drop"}, "when_blocked is 'drop', but must be 'wait' or 'raise'"),
    ],
)
def test_publisher_that_cannot_work_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"publisher: {why}")):
        PublisherSettings(**wrong)


def test_options_of_a_publisher_are_the_fields_of_its_settings() -> None:
    assert get_type_hints(PublisherOptions) == get_type_hints(PublisherSettings)
