"""Numbers, times and sizes as people read them. Pure."""

from __future__ import annotations

import time

NOTHING = "–"  # noqa: RUF001  an en dash: there is no number
_DAY_S = 86_400
_UNITS = ((_DAY_S, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SIZES = ("B", "kB", "MB", "GB", "TB")


def count(number: float | None) -> str:
    """Return `12,345`, from ten million on `12.3 M`."""
    if number is None:
        return NOTHING
    for limit, divisor, unit in ((1e10, 1e9, "G"), (1e7, 1e6, "M")):
        if number >= limit:
            return f"{number / divisor:,.1f} {unit}"
    return f"{number:,.0f}"


def count_of(number: int, noun: str) -> str:
    """Return `1 worker` or `2 workers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def rate(per_s: float | None) -> str:
    """Return a number per second, with one decimal below ten."""
    if per_s is None:
        return NOTHING
    if per_s and per_s < 0.05:
        return "<0.1"
    return f"{per_s:.1f}" if 0 < per_s < 9.95 else count(per_s)


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that fits: `12 ms`, `1.5 s`, `3 min 12 s`."""
    if seconds is None:
        return NOTHING
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms" if seconds else "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    left = round(seconds)
    parts: list[str] = []
    for unit_s, unit in _UNITS:
        number, left = divmod(left, unit_s)
        if number or parts:
            parts.append(f"{number} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def size(size_bytes: float | None) -> str:
    """Return a number of bytes in the unit that fits."""
    if size_bytes is None:
        return NOTHING
    for unit in _SIZES[:-1]:
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} {_SIZES[-1]}"


def share(part: float | None) -> str:
    """Return a share as per cent."""
    return NOTHING if part is None else f"{part:.0%}".replace("%", " %")


def clock(at_unix_s: float, now_unix_s: float) -> str:
    """Return the time of day in UTC, with the date when it is not today."""
    at = time.gmtime(at_unix_s)
    is_today = at[:3] == time.gmtime(now_unix_s)[:3]
    return time.strftime("%H:%M:%S UTC" if is_today else "%Y-%m-%d %H:%M:%S UTC", at)
