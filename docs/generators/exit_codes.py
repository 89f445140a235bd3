"""The exit codes of a service, made from their enumeration."""

from __future__ import annotations

from docs.generators.markdown import page as page_of
from docs.generators.markdown import table
from mxworker.cli.help import EXIT_CODES
from mxworker.errors import ExitCode

_INTRODUCTION = """\
These are the exit codes of `mxworker run` and `mxworker dev`. They do not change between releases. Other commands use
the same numbers; the [command line](command-line.md) says what they mean there."""
_END = """\
After 2 and 3 each further start ends in the same way until somebody changes something, so the units in `systemd/` do
not start the service again. After 4 they do: a broker that was away comes back.

These are ends of the service. A worker that dies after the service was ready is replaced, and the service goes on."""


def page() -> str:
    """Return the page."""
    rows = [(str(code.value), f"`{code.name}`", EXIT_CODES[code]) for code in ExitCode]
    return page_of("Exit codes", _INTRODUCTION, table(("code", "name", "meaning"), rows), _END)
