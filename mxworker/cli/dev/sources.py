"""The files that belong to an application under development, and the news that they changed.

Watched are Python files and the configuration, in the directories that the application is imported from. Not watched
are version control, caches, virtual environments and what editors put beside the file they save.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from watchfiles import DefaultFilter, watch

from mxworker.errors import ConfigError
from mxworker.system.printable import foreign

LOOK_MS = 100
"""How often `changes` comes back with nothing, which is how soon a signal or the end of the service is noticed."""

_CONFIGURATION = frozenset({"mxworker.toml", "pyproject.toml"})
_IGNORED_FOLDERS = (*DefaultFilter.ignore_dirs, ".ruff_cache", "venv", "site-packages")
_QUIET_MS = 50  # nothing more for this long, and a save of several files is taken to be complete
_ONE_SAVE_MS = 500  # what goes on longer, a checkout of another branch for one, is told in parts


def folders(app: str, app_dir: str | None, more: Sequence[str]) -> tuple[Path, ...]:
    """Return the directories to watch: where `app` and its modules are looked for, and `more`.

    That is `app_dir` or the current directory, as in `worker.loading`, and the directory of an app that is a file. One
    that lies in another is left out: it is watched with that.
    """
    wanted = [Path(app_dir or "."), *map(Path, more)]
    target = app.partition(":")[0]
    if target.endswith(".py"):
        wanted.append(Path(target).parent)
    found = {path.resolve() for path in wanted if path.is_dir()}
    return tuple(sorted(path for path in found if not found.intersection(path.parents)))


def changes(watched: Sequence[Path]) -> Iterator[list[str]]:
    """Yield the files that changed, as a person writes them; nothing every `LOOK_MS`. Never ends by itself.

    From the first time that it yields on, no change is missed. Raises ConfigError when the directories cannot be
    watched.
    """
    try:
        yield from _watch(watched)
    except PermissionError:  # what we may not read is not imported; but then the kernel's limit is not told, either
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
    """Return the path below its watched directory: what lies above is no reason to ignore it."""
    root = next((root for root in watched if Path(path).is_relative_to(root)), None)
    return path if root is None else str(Path(path).relative_to(root))


def _for_people(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
