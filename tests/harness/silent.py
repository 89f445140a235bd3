"""Values that have no text: what asks for one gets an exception."""

from __future__ import annotations


class Silent:
    """Raises `error` instead of showing itself."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        raise self._error

    __repr__ = __str__


class Mute(Exception):
    """An exception whose text would end the process."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__
