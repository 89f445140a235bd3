"""The pages of the reference say what the code says: each is what its generator makes, or has a test of its own."""

from __future__ import annotations

import re

import click
import pytest

from docs.generators.pages import FOLDER, PAGES, text_of
from mxworker.cli import main

WITH_A_TEST_OF_ITS_OWN = {"log-events.md", "README.md"}  # test_log_events.py, test_links.py


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_its_generator_makes(name: str) -> None:
    assert (FOLDER / name).read_text() == text_of(name), "run 'make docs', and commit the page"


def test_every_page_of_the_reference_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*PAGES, *WITH_A_TEST_OF_ITS_OWN}


def test_every_command_is_on_its_page() -> None:
    headings = re.findall(r"^#+ (mxworker[a-z -]*?)(?: [A-Z\[].*)?$", text_of("command-line.md"), re.MULTILINE)
    assert headings == list(commands(main, "mxworker"))


def commands(command: click.Command, path: str) -> list[str]:
    inner = command.commands if isinstance(command, click.Group) else {}
    return [path, *(each for name in sorted(inner) for each in commands(inner[name], f"{path} {name}"))]
