"""How much of a bounded thing is in use. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_NEARLY_ALL = 0.9


@dataclass(frozen=True, slots=True)
class Use:
    """How many things of a kind are in use, of how many at most."""

    what: str
    used: int
    most: int

    @property
    def is_nearly_all(self) -> bool:
        """Whether nine tenths are in use."""
        return self.used >= self.most * _NEARLY_ALL

    def __str__(self) -> str:
        return f"{self.used} of {self.most} {self.what} are in use"
