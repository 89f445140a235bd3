"""The source files of an application under development, and how their changes are noticed.

Python files and configuration files are watched, in the directories that the application is imported from. Version
control, caches, virtual environments and temporary files of editors are not watched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from watchfiles import DefaultFilter, watch

from mxworker.errors import ConfigError
from mxworker.system.printable import foreign

LOOK_MS = 100
"""How often `changes` yields an empty list. Signals and the end of the service are noticed that soon."""

_CONFIGURATION = frozenset({"mxworker.toml", "pyproject.toml"})
_IGNORED_FOLDERS = (*DefaultFilter.ignore_dirs, ".ruff_cache", "venv", "site-packages")
_QUIET_MS = 50  # after this long without another change, the save of several files counts as complete
_ONE_SAVE_MS = 500  # changes that go on longer, such as the checkout of another branch, are yielded in parts


def folders(app: str, app_dir: str | None, more: Sequence[str]) -> tuple[Path, ...]:
    """Return the directories to watch: those from which `app` and its modules are imported, and `more`.

    `app` is imported from `app_dir` or the current directory, as in `worker.loading`, or from the directory of an app
    that is a file. A directory inside another one is left out, because it is watched with that one.
    """
    wanted = [Path(app_dir or "."), *map(Path, more)]
    target = app.partition(":")[0]
    if target.endswith(".py"):
        wanted.append(Path(target).parent)
    found = {path.resolve() for path in wanted if path.is_dir()}
    return tuple(sorted(path for path in found if not found.intersection(path.parents)))


def changes(watched: Sequence[Path]) -> Iterator[list[str]]:
    """Yield the files that changed, as relative paths where possible; an empty list every `LOOK_MS`. Never ends.

    No change after the first yield is missed. Raises ConfigError when the directories cannot be watched.
    """
    try:
        yield from _watch(watched)
    except PermissionError:  # unreadable files are not imported; but this also hides an error about the kernel's limit
        yield from _watch(watched, passes_over_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the files of the app cannot be watched: {foreign(error)}.\n"
            "  If there are too many, raise fs.inotify.max_user_watches, or let --app-dir name a smaller directory."
        ) from error


def _watch(watched: Sequence[Path], passes_over_errors: bool = False) -> Iterator[list[str]]:
    is_kept = DefaultFilter(ignore_dirs=_IGNORED_FOLDERS)
    for news in watch(
        *watched,
        watch_filter=lambda change, path: _is_source(path) and is_kept(change, _from_root(path, watched)),
        debounce=_ONE_SAVE_MS,
        step=_QUIET_MS,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        ignore_permission_denied=passes_over_errors,
    ):
        yield sorted({_for_people(path) for _, path in news})


def _is_source(path: str) -> bool:
    return path.endswith(".py") or Path(path).name in _CONFIGURATION


def _from_root(path: str, watched: Sequence[Path]) -> str:
    """Return the path relative to its watched directory: a name above that directory is no reason to ignore a file."""
    root = next((root for root in watched if Path(path).is_relative_to(root)), None)
    return path if root is None else str(Path(path).relative_to(root))


def _for_people(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
