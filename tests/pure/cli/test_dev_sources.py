"""Which directories `mxworker dev` watches, and how it names what changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxworker.cli.dev.outer import in_words
from mxworker.cli.dev.sources import changes, folders
from mxworker.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("here/src", "elsewhere", "shared/deep"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("app", "app_dir", "more", "watched"),
    [
        ("app:handlers", None, [], ["here"]),
        ("app", "src", [], ["here/src"]),
        ("src/app.py:handlers", None, [], ["here"]),
        ("../elsewhere/app.py", None, [], ["elsewhere", "here"]),
        ("app", None, ["../shared", "src", "../shared/deep", "."], ["here", "shared"]),
        ("no/such/app.py", None, [], ["here"]),
    ],
)
def test_watched_is_what_the_app_is_imported_from(
    here: Path, app: str, app_dir: str | None, more: list[str], watched: list[str]
) -> None:
    assert folders(app, app_dir, more) == tuple(here / name for name in watched)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (["a.py"], "a.py changed"),
        (["a.py", "b.py", "c.py"], "a.py, b.py, c.py changed"),
        (["a.py", "b.py", "c.py", "d.py", "e.py"], "a.py, b.py, c.py and 2 more changed"),
        (["a\n\x1b\u202e.py"], "a\\x0a\\x1b\\x202e.py changed"),
    ],
)
def test_at_most_three_changed_files_are_named(changed: list[str], text: str) -> None:
    assert in_words(changed) == text


def test_directory_that_cannot_be_watched_is_an_error_of_the_operator(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the files of the app cannot be watched: "):
        next(changes([tmp_path / "nowhere"]))
