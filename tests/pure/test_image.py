"""What can be said of the image without building it."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from tests.harness.repository import REPOSITORY

LINES = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def instructions(name: str) -> list[str]:
    """Return the arguments of each such instruction, in order."""
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_exists_and_is_let_through() -> None:
    copied = {source for arguments in instructions("COPY") for source in arguments.split()[:-1]}
    let_through = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_through
    assert all((REPOSITORY / source).exists() for source in copied)


def test_the_build_finds_what_the_project_file_names() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    copied = " ".join(instructions("COPY")).split()
    assert {project["readme"], *project["license-files"]} <= set(copied)
    assert "fast" in project["optional-dependencies"]


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD"])
def test_no_shell_stands_between_docker_and_the_master(name: str) -> None:
    for arguments in instructions(name):
        assert all(isinstance(word, str) for word in json.loads(arguments))
    assert json.loads(instructions("ENTRYPOINT")[-1]) == ["mxworker"]


def test_user_is_a_number_that_kubernetes_can_tell_from_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions("USER")[-1])
