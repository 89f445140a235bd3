"""Durations and sizes as people write them. Pure."""

from __future__ import annotations

import re

from mxworker.errors import ConfigError

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(ms|s|m|h|)", re.ASCII)
SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

_SIZE = re.compile(r"(\d{1,13}(?:\.\d{1,12})?)\s*(|B|kB|MB|GB|KiB|MiB|GiB)", re.ASCII | re.IGNORECASE)
BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


def parse_duration_s(text: str) -> float:
    """Parse a duration into seconds: `250ms`, `30s`, `5m`, `1h`, or a bare number of seconds.

    Raises ConfigError for anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a duration.  Write it like 250ms, 30s, 5m or 1h.")
    return float(match[1]) * SECONDS_PER_UNIT[match[2]]


def parse_size_bytes(text: str) -> int:
    """Parse a size into bytes: `512MB` is 512,000,000, `1GiB` is 2**30, and a bare number is a number of bytes.

    Raises ConfigError for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a size.  Write it like 512MB, 256MiB or 1GiB.")
    size_bytes = int(float(match[1]) * BYTES_PER_UNIT[match[2].lower()])
    if size_bytes < 1:
        raise ConfigError(f"'{text}' is too small a size; it must be at least one byte.")
    return size_bytes


def format_duration(seconds: float) -> str:
    """Return `seconds` the way an operator would write it."""
    if seconds < 1:
        return f"{_decimal(seconds * 1000)}ms"
    if seconds % 60 == 0:
        return f"{_decimal(seconds / 60)}m"
    return f"{_decimal(seconds)}s"


def _decimal(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")
