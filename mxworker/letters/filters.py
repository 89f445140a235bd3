"""Which letters an operator means. Every filter that is given must hold; no filter means all letters.

Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from mxworker.config.units import parse_duration_s
from mxworker.errors import ConfigError
from mxworker.letters.letter import Letter


@dataclass(frozen=True, slots=True)
class Filters:
    """The conditions for letters.

    `handlers`, `reasons` and `ids` hold when one of them does. `error` is the error type, or a part of the error's text
    in any case. `since` and `until` are seconds since 1970; a letter whose time is not known fits neither. An id is a
    message id, a key, or the first 6 characters or more of a key. `headers` must all be there, compared as text.
    """

    handlers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    error: str | None = None
    since: float | None = None
    until: float | None = None
    ids: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def match(self, letter: Letter) -> bool:
        """Tell whether all conditions hold for a letter."""
        return (
            (not self.handlers or letter.handler in self.handlers)
            and (not self.reasons or letter.reason in self.reasons)
            and (self.error is None or _has_error(letter, self.error))
            and (self.since is None or (letter.failed_at is not None and letter.failed_at >= self.since))
            and (self.until is None or (letter.failed_at is not None and letter.failed_at < self.until))
            and (not self.ids or any(_has_id(letter, one) for one in self.ids))
            and all(_as_text(letter.headers.get(name)) == value for name, value in self.headers)
        )


SHORTEST_KEY = 6
_KEY = re.compile(rf"[0-9a-f]{{{SHORTEST_KEY},}}")
_MOMENTS = 'Write a time as 2026-11-29T08:30 (UTC), or as a duration for "so long ago": 90s, 30m, 2h'


def parse_moment(text: str, now: float) -> float:
    """Return a moment in seconds since 1970: a time of ISO 8601, or a duration before `now`. Raises ConfigError.

    A time without a zone is in UTC.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now - parse_duration_s(text)
        except ConfigError:
            raise ConfigError(f"'{text}' is no time. {_MOMENTS}.") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def parse_header(text: str) -> tuple[str, str]:
    """Return name and value of `name=value`. Raises ConfigError."""
    name, is_there, value = text.partition("=")
    if not name or not is_there:
        raise ConfigError(f"'{text}' is no header. Write it as name=value.")
    return name, value


def _has_error(letter: Letter, error: str) -> bool:
    return letter.error_type == error or (letter.error is not None and error.lower() in letter.error.lower())


def _has_id(letter: Letter, one: str) -> bool:
    return one == letter.message_id or (_KEY.fullmatch(one) is not None and letter.key.startswith(one))


def _as_text(value: object) -> str | None:
    """Return a header's value as people write it; None when there is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else str(value)
