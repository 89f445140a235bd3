"""Refuses code that others could change: whoever can write to the code, or to a directory above it, acts as our user.

Two things are checked. Before anything of the application is imported, the directories in which it is searched. Then,
before a module from there is executed, its file, the directories of its package, and its cached bytecode. Code that is
installed with the interpreter is not checked: whoever can change that needs no application.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType

from mxworker.errors import ConfigError
from mxworker.system.file_access import changer_of, end_of_change, may_change
from mxworker.system.permissions import Access
from mxworker.system.printable import foreign

ALL_THE_SAME = "--insecure-app-dir"


class CodeNotOurs(ConfigError):
    """Others could change the code that would be executed."""


def check_places(app: str, app_dir: str | None) -> None:
    """Raise CodeNotOurs when others could put code where `app` is looked for, or change the file that it is.

    A place that does not exist is passed over; loading the application reports it.
    """
    target = app.partition(":")[0]
    folder = Path(app_dir or ".")
    if app_dir is not None:
        _check(folder, f"--app-dir {app_dir}")
    if app_dir is None or _has_current_directory():
        _check(Path(), "the present directory")
    if target.endswith(".py"):
        file = next((path for path in (folder / target, Path(target)) if path.is_file()), Path(target))
        _check(file.parent, app)
        check_file(file, app)


def check_file(file: Path, what: str) -> None:
    """Raise CodeNotOurs when others could change the module `file` of the application `what`, or its bytecode."""
    _check(file, what)
    if file.suffix == ".py":
        cached = Path(cache_from_source(os.fspath(file)))
        _check(cached.parent, what)
        _check(cached, what)


def check_imports(folder: Path, name: str) -> None:
    """Make imports raise CodeNotOurs from now on for modules of the application that others could change.

    Modules of the application are those found in `folder`, and those of the package `name`. So are the modules of the
    current directory, if it is on the import path already.
    """
    others = [
        finder for finder in sys.meta_path if not isinstance(finder, _CheckedImports)
    ]  # two of them would call each other
    sys.meta_path[:] = [_CheckedImports(folder, name), *others]


class _CheckedImports:
    """The first finder of `sys.meta_path`, which checks what the other finders find."""

    def __init__(self, folder: Path, name: str) -> None:
        folders = [folder, Path.cwd()] if _has_current_directory() else [folder]
        self._folders = frozenset(map(str, folders))
        self._top = name.partition(".")[0]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find. Raises CodeNotOurs when other users could change it."""
        found = next(filter(None, self._specs(name, path, target)), None)
        if found is not None and found.origin != "frozen":
            files = [found.origin] if found.has_location and found.origin else []
            folders = list(found.submodule_search_locations or ())
            if name.partition(".")[0] == self._top or any(map(self._is_in_folder, files or folders)):
                for folder in folders:
                    _check(Path(folder), f"'{name}'")
                for file in files:
                    check_file(Path(file), f"'{name}'")
        return found

    def _specs(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> Iterator[ModuleSpec | None]:
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is not self and find is not None:
                yield find(name, path, target)

    def _is_in_folder(self, file: str) -> bool:
        """Whether a file is found through one of the folders, and not through a longer entry of the import path."""
        above = [entry for entry in _import_path() if file.startswith(f"{entry.rstrip('/')}/")]
        return max(above, key=len, default="") in self._folders


def _has_current_directory() -> bool:
    """Whether the current directory is on the import path, which `python -m` does without -P."""
    with suppress(FileNotFoundError):  # it was removed
        return str(Path.cwd()) in _import_path()
    return False


def _import_path() -> list[str]:
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    return [entry for entry in map(_absolute, entries) if entry is not None]


def refusal(access: Access, chosen: str) -> str:
    """Return the text of the error about others who could change a file, and so choose what is `chosen` by it."""
    return (
        f"{may_change(access)}, and so choose {chosen}.\n"
        f"  {end_of_change(access)}\n"
        f"  Where nobody else can do harm, as in a container, say so with {ALL_THE_SAME}."
    )


def _absolute(entry: str) -> str | None:
    if entry.startswith("/"):
        return entry
    with suppress(FileNotFoundError):
        return str(Path(entry).absolute())
    return None


def _check(place: Path, what: str) -> None:
    try:
        access = changer_of(place)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise CodeNotOurs(f"'{foreign(place)}' cannot be checked for who may write to it: {error.strerror}.") from error
    if access is not None:
        raise CodeNotOurs(refusal(access, f"what {foreign(what)} runs"))
