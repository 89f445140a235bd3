"""Operators read of the signals that the master takes, and so does who reads its code: of all, and of no other."""

from __future__ import annotations

import re
import signal

import pytest

from mxworker.master import commands
from mxworker.master.signals import TAKEN
from tests.harness.repository import REPOSITORY

OPERATORS = (REPOSITORY / "docs/operations.md").read_text()
NAMES = {signum.name.removeprefix("SIG") for signum in map(signal.Signals, TAKEN - {signal.SIGCHLD})}


@pytest.mark.parametrize(
    ("text", "row"),
    [(OPERATORS, r"^\| ([A-Z][A-Z0-9, ]+?)(?: \(.*?\))? \|"), (commands.__doc__ or "", r"^    ([A-Z][A-Z0-9 ]+?)  ")],
    ids=["operations.md", "commands.py"],
)
def test_the_signals_that_are_taken_are_those_that_are_told(text: str, row: str) -> None:
    told = {name for names in re.findall(row, text, re.MULTILINE) for name in re.findall(r"[A-Z]+\d?", names)}
    assert told == NAMES
