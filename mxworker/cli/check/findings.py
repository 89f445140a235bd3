"""What `mxworker check` has to say: each finding with a stable name, whom it concerns, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from mxworker.cli.check.names import NAMES, OF_THE_BROKER
from mxworker.errors import ExitCode


class Level(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The service would not start, or would lose messages."""
    WARNING = "warning"
    """It would run, but not as one may expect."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or may be."""

    name: str
    level: Level
    subject: str
    """Whom it concerns: a queue, a handler, or a setting, in words."""
    text: str
    """What is wrong, as a sentence about the subject."""
    remedy: str
    """What to do, one way on each line."""

    def __post_init__(self) -> None:
        assert self.name in NAMES, self.name


def error(name: str, subject: str, text: str, remedy: str) -> Finding:
    """Return an error."""
    return Finding(name, Level.ERROR, subject, text, remedy)


def warning(name: str, subject: str, text: str, remedy: str) -> Finding:
    """Return a warning."""
    return Finding(name, Level.WARNING, subject, text, remedy)


def without(findings: Iterable[Finding], ignored: Collection[str]) -> list[Finding]:
    """Return the findings whose names are not ignored, errors first."""
    kept = [finding for finding in findings if finding.name not in ignored]
    return sorted(kept, key=lambda finding: finding.level is not Level.ERROR)


def exit_code(findings: Iterable[Finding], is_strict: bool) -> ExitCode:
    """Return the exit code: an error about the broker counts more than any other finding."""
    counting = [finding for finding in findings if is_strict or finding.level is Level.ERROR]
    if any(finding.name in OF_THE_BROKER for finding in counting):
        return ExitCode.BROKER
    return ExitCode.RUNTIME if counting else ExitCode.OK
