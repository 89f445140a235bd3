"""Finds and reads configuration files: one that is named, or the one of the current directory, and shipped profiles."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mxworker.errors import ConfigError
from mxworker.system.printable import foreign

if TYPE_CHECKING:
    from mxworker.cli.config.document import Document

FILE = "mxworker.toml"
PROJECT = "pyproject.toml"
_IN_PROJECT = ("tool", "mxworker")
_MOST_BYTES = 1024 * 1024
_PROFILES = Path(__file__).parent / "profiles"


def named(path: str) -> tuple[Document, Path]:
    """Return the document in a file that the operator has named. Raises ConfigError."""
    root = _IN_PROJECT if Path(path).name == PROJECT else ()
    document = _document(Path(path), root, _read(Path(path)))
    if document is None:
        raise ConfigError(f"'{foreign(path)}' has no table [{'.'.join(_IN_PROJECT)}].")
    return document, Path(path)


def found() -> tuple[Document, Path] | None:
    """Return the document of the current directory, None when it has none. Raises ConfigError."""
    own, project = Path(FILE), Path(PROJECT)
    text = _read(project) if _exists(project) else ""
    may_have_table = "mxworker" in text  # most have none, and need not be valid
    in_project = _document(project, _IN_PROJECT, text) if may_have_table else None
    if not _exists(own):
        return None if in_project is None else (in_project, project)
    if in_project is not None:
        raise ConfigError(
            f"both {FILE} and [{'.'.join(_IN_PROJECT)}] of {PROJECT} have settings, and only one of them would count.\n"
            f"  Move the settings into one of them, or name one with --config."
        )
    document = _document(own, (), _read(own))
    assert document is not None
    return document, own


def profile(name: str) -> Document:
    """Return the document of a shipped profile. Raises ConfigError for an unknown one."""
    known = profiles()
    if name not in known:
        raise ConfigError(f"there is no profile '{foreign(name)}'; there are {', '.join(known)}.")
    from mxworker.cli.config.document import parse

    text = (_PROFILES / f"{name}.toml").read_text("utf-8")
    document = parse(text, f"profile {name}", Path())
    assert document is not None
    return document


def profiles() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(path.stem for path in _PROFILES.glob("*.toml"))


def _document(path: Path, root: tuple[str, ...], text: str) -> Document | None:
    from mxworker.cli.config.document import parse

    return parse(text, foreign(path), path.parent, root)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"'{foreign(path)}' has more than {_MOST_BYTES // 1024} KiB, which is no configuration.")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"'{foreign(path)}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{foreign(path)}' cannot be read: it is not UTF-8 ({error.reason}).") from error


def _exists(path: Path) -> bool:
    """Tell whether there is such a file; one that we may not look at counts, and fails when it is read.

    Raises ConfigError for what is no regular file: reading a pipe could wait forever.
    """
    if not os.path.lexists(path):
        return False
    with suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"'{foreign(path)}' is no regular file, and so no configuration.")
    return True
