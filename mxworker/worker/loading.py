"""Find and import the application: `module:attribute` or `path/file.py:attribute`.

User code is imported here and nowhere else, in the worker process, never in the master. What goes wrong is told the
way its author needs it: the frames of their code first, none of ours.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import stat
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import mxworker
from mxworker.compilation import Handler, Overrides
from mxworker.errors import AppLoadError, ConfigError
from mxworker.failures import text_of
from mxworker.handlers import Handlers

DEFAULT_ATTRIBUTE = "handlers"
_OUR_FOLDER = f"{Path(mxworker.__file__).parent}{os.sep}"
_ASYNCIO = f"{Path(asyncio.__file__).parent}{os.sep}"
_BETWEEN = ("importlib/__init__.py", "/contextlib.py")


def load(app: str, app_dir: str | None) -> Handlers:
    """Return the `Handlers` object that `app` names.

    With `app_dir` that directory comes first on the import path. Without it the current directory comes last, so that
    a file there never takes the place of an installed module. Raises AppLoadError.
    """
    target, _, attribute = app.partition(":")
    if app_dir is not None:
        sys.path.insert(0, str(Path(app_dir).resolve()))
    else:
        sys.path.append(str(Path.cwd()))
    module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target)
    return _pick(module, target, attribute or DEFAULT_ATTRIBUTE)


def check_app_dir(app_dir: str) -> None:
    """Raise ConfigError when everybody on the machine could put code into `app_dir`, or put another in its place.

    In a directory with the sticky bit, such as /tmp, nobody can move what others own (inode(7)), but anybody can add.
    """
    folder = Path(app_dir).resolve()
    for place in (folder, *folder.parents):
        mode = place.stat().st_mode
        if mode & stat.S_IWOTH and (place == folder or not mode & stat.S_ISVTX):
            raise ConfigError(
                f"everybody on this machine may write to '{place}', and so choose what --app-dir {app_dir} runs.\n"
                f"  Try:  chmod o-w {place}"
            )


def select(handlers: Handlers, queues: tuple[str, ...], overrides: Overrides) -> tuple[Handler, ...]:
    """Return the compiled handlers of `queues`, of all when empty. Raises ConfigError for an unknown queue."""
    compiled = handlers.compile(overrides)
    unknown = [queue for queue in queues if queue not in handlers.queues]
    if unknown:
        raise ConfigError(
            f"no handler consumes queue '{unknown[0]}'.  The app consumes: {', '.join(handlers.queues)}.\n"
            "  Check --queues."
        )
    return tuple(handler for handler in compiled if not queues or handler.queue.name in queues)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise AppLoadError(
                f"there is no module '{name}' on the Python path or in {Path.cwd()}.\n"
                f"  Start mxworker where {name.partition('.')[0]}.py is, or name its directory with --app-dir."
            ) from None
        raise AppLoadError(_import_failure(name, error)) from error
    except BaseException as error:  # an import runs the user's code, which may raise anything, SystemExit included
        raise AppLoadError(_import_failure(name, error)) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise AppLoadError(f"there is no file '{path}' (looked in {Path.cwd()}).")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise AppLoadError(f"'{path}' cannot be imported: it is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # as above
        raise AppLoadError(_import_failure(str(path), error)) from error
    return module


def _pick(module: ModuleType, target: str, attribute: str) -> Handlers:
    found = getattr(module, attribute, None)
    if isinstance(found, Handlers):
        if len(found) == 0:
            raise AppLoadError(f"'{target}:{attribute}' has no handlers.  Register one with @{attribute}.consume(...).")
        return found
    registries = {name: value for name, value in vars(module).items() if isinstance(value, Handlers)}
    shown = ", ".join(f"{name} (Handlers, {_consumers(value)})" for name, value in registries.items())
    if found is None and not hasattr(module, attribute):
        what = f"module '{target}' has no attribute '{attribute}'."
    else:
        what = f"'{target}:{attribute}' is not a Handlers object but {type(found).__name__}."
    defines = f"It defines: {shown}." if shown else "It defines no Handlers object."
    attempt = f"\n  Try:  mxworker run {target}:{next(iter(registries))}" if registries else ""
    raise AppLoadError(f"{what}  {defines}{attempt}")


def _consumers(handlers: Handlers) -> str:
    return f"{len(handlers)} consumer" + ("" if len(handlers) == 1 else "s")


def _import_failure(target: str, error: BaseException) -> str:
    return failure_in_app(f"'{target}' was found but failed to import:", error)


def failure_in_app(headline: str, error: BaseException) -> str:
    """Return `headline`, and under it the frames of the application that led to `error`."""
    lines = [headline]
    cause = f"{type(error).__name__}: {text_of(error)}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{_shorten(error.filename)}:{error.lineno}"
        return "\n".join([*lines, f"  {place}  {(error.text or '').strip()}    SyntaxError: {error.msg}"])
    shown = _shown(traceback.extract_tb(error.__traceback__))
    if not shown:
        return "\n".join([*lines, f"  {cause}"])
    shown[-1] += f"    {cause}"
    return "\n".join(lines + shown)


def place_in_app(headline: str, frames: Iterable[traceback.FrameSummary]) -> str:
    """Return `headline`, and under it those of `frames` that are the application's; the innermost is the last."""
    return "\n".join([headline, *_shown(frame for frame in frames if not frame.filename.startswith(_ASYNCIO))])


def _shown(frames: Iterable[traceback.FrameSummary]) -> list[str]:
    users = [frame for frame in frames if _is_users(frame.filename)]
    return [f"  {_shorten(frame.filename)}:{frame.lineno}  {frame.line or ''}" for frame in users]


def _is_users(filename: str) -> bool:
    """Whether a frame is of the application, or of a library it uses: not of ours, nor of what leads from us to it."""
    return not filename.startswith(("<frozen ", _OUR_FOLDER)) and not filename.endswith(_BETWEEN)


def _shorten(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
