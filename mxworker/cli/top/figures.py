"""Numbers and times in few characters, for the columns of a terminal. Pure."""

from __future__ import annotations

NOTHING = "-"
_DAY_S, _HOUR_S, _MINUTE_S = 86_400, 3600, 60
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_WHOLE_BELOW = 100_000


def count(number: float | None) -> str:
    """Return `12,345`; from a hundred thousand on `123k`, `1.2M`."""
    if number is None:
        return NOTHING
    if abs(number) < _WHOLE_BELOW:
        return f"{number:,.0f}"
    size, unit = next((size, unit) for size, unit in _UNITS if abs(number) >= size)
    return f"{number / size:.0f}{unit}" if number >= 100 * size else f"{number / size:.1f}{unit}"


def rate(per_s: float | None) -> str:
    """Return a number per second, with one decimal below ten."""
    if per_s is None:
        return NOTHING
    if 0 < per_s < 0.05:
        return "<0.1"
    return f"{per_s:.1f}" if 0 < per_s < 9.95 else count(per_s)


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, such as `12ms`, `1.5s`, `3m12s`, `2h05m`, `4d07h`."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds >= 0.0095 or not seconds else f"{seconds * 1000:.1f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S:02}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S:02}h"


def size(size_bytes: float | None) -> str:
    """Return a size such as `58MB` or `1.2GB`."""
    if not size_bytes:
        return NOTHING
    return f"{size_bytes / 1e6:.0f}MB" if size_bytes < 999.5e6 else f"{size_bytes / 1e9:.1f}GB"


def share(part: float | None) -> str:
    """Return a share as per cent."""
    return NOTHING if part is None else f"{part:.0%}"
