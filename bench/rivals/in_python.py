"""Rivals in Python: one environment has them all, in the versions of requirements.txt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import Programs, Work
from bench.environments import python_of, versions

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def requirements() -> list[str]:
    """Return the lines of requirements.txt that are not comments."""
    return [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


@dataclass(frozen=True, slots=True)
class InPython:
    """Makes a rival in Python ready. Its folder has a module for each work: `bench.rivals.FOLDER.consume` and so on."""

    folder: str
    distributions: Sequence[str]
    """Whose versions the report shows."""
    works: frozenset[Work]
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __call__(self) -> Programs:
        """Install all rivals in Python, which takes a minute in the first run. Raises Unavailable."""
        executable = python_of("rivals", requirements())
        return Programs(versions(executable, *self.distributions), self.commands(executable), self.environment)

    def commands(self, executable: str) -> Mapping[Work, Sequence[str]]:
        """Return the command for each work."""
        return {work: (executable, "-m", f"bench.rivals.{self.folder}.{work}") for work in self.works}
