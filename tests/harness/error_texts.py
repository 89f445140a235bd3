"""The texts on docs/error-texts.md, each below the heading by which it is found."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.harness.repository import REPOSITORY

PAGE = "docs/error-texts.md"
_ENTRY = re.compile(
    r"^### (?P<name>.+?)\n\n<!-- tested by: (?P<test>\S+) -->\n```text\n(?P<text>.*?)```$", re.MULTILINE | re.DOTALL
)


class Entry(NamedTuple):
    """A text, and the module of tests that produces it."""

    text: str
    test: str


ENTRIES = {
    found["name"]: Entry(found["text"], found["test"]) for found in _ENTRY.finditer((REPOSITORY / PAGE).read_text())
}


def names_of(module: str) -> list[str]:
    """Return the names of the texts that a module of tests has to produce."""
    return [name for name, entry in ENTRIES.items() if module.replace(".", "/") in entry.test]


def check(name: str, said: object, **shown_as: str) -> None:
    """Assert that `said` is the text of that name. `shown_as` has what stands on the page for a value of this run."""
    text = str(said).strip()
    for shown, real in shown_as.items():
        text = text.replace(real, _SHOWN[shown])
    assert text == ENTRIES[name].text.strip(), f"it says now:\n{text}"


_SHOWN = {
    "folder": "/srv/shop",
    "runtime": "/run/user/1000",
    "queue": "orders",
    "user": "shop",
    "port": "5672",
    "node": "rabbit",
}
"""What stands on the page for a value that differs from run to run."""
