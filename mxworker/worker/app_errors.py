"""Error texts for applications that cannot be loaded: they show the frames of the author's code, and none of ours.

The texts also have hints: a file of the author's may have the name of another module, and a module that was not found
may be in another directory. Names of files and modules, and lines of code, are `foreign` text.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from mxworker.errors import AppLoadError, MxWorkerError
from mxworker.system.foreign_errors import lines_of, type_name
from mxworker.system.printable import foreign
from mxworker.system.stacks import COMPILED_LOOP, OUR_FOLDER

log = logging.getLogger(__name__)

_OUR_NAME = __name__.partition(".")[0]
_AROUND = ("<frozen ", "<string>", OUR_FOLDER, COMPILED_LOOP, f"{Path(asyncio.__file__).parent}{os.sep}")
_BETWEEN = ("importlib/__init__.py", "/contextlib.py")
_SOURCES = "src"


# ---- what went wrong


@contextmanager
def faults_told(app: str) -> Iterator[None]:
    """Turn every failure inside the block that is no error of ours into an AppLoadError."""
    try:
        yield
    except MxWorkerError:
        raise
    except Exception as error:
        log.debug("%s cannot be made ready", app, exc_info=True)  # with our frames, for a bug of ours
        headline = f"'{foreign(app)}' cannot be made ready, by a fault in it or in mxworker (see --log-level debug):"
        raise AppLoadError(failure_in_app(headline, error)) from error


def import_failure(target: str, error: BaseException, folders: Iterable[Path]) -> str:
    """Return why `target` failed to import; modules are searched in `folders` first."""
    text = failure_in_app(f"'{foreign(target)}' was found but failed to import:", error)
    hint = next((hint for folder in folders if (hint := _hint(error, folder))), "") or _general_hint(error)
    return f"{text}\n  {hint}" if hint else text


def failure_in_app(headline: str, error: BaseException) -> str:
    """Return `headline`, and under it the frames of the application that led to `error`."""
    lines = [headline]
    cause = f"{type_name(error)}: " + "\n    ".join(lines_of(error))
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{shorten(error.filename)}:{error.lineno}"
        return "\n".join(
            [*lines, f"  {place}  {foreign((error.text or '').strip())}    SyntaxError: {foreign(error.msg)}"]
        )
    shown = _shown(traceback.extract_tb(error.__traceback__))
    if not shown:
        return "\n".join([*lines, f"  {cause}"])
    shown[-1] += f"    {cause}"
    return "\n".join(lines + shown)


def place_in_app(headline: str, frames: Iterable[traceback.FrameSummary]) -> str:
    """Return `headline`, and under it those of `frames` that are the application's, the innermost last."""
    return "\n".join([headline, *_shown(frames)])


def _shown(frames: Iterable[traceback.FrameSummary]) -> list[str]:
    users = [frame for frame in frames if _is_users(frame.filename)]
    return [f"  {shorten(frame.filename)}:{frame.lineno}  {foreign(frame.line or '')}" for frame in users]


def _is_users(filename: str) -> bool:
    """Whether a frame belongs to the application or a library that it uses, and not to the way from us to it."""
    return not filename.startswith(_AROUND) and not filename.endswith(_BETWEEN)


def shorten(filename: str | Path) -> str:
    """Return a path relative to the current directory if it is below it, printable."""
    path = Path(filename)
    return foreign(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else filename)


# ---- two modules of one name


def module_file(folder: Path, name: str) -> Path | None:
    """Return the file of the module `name`, which may have dots, in `folder`; None when there is none."""
    stem = folder.joinpath(*name.split("."))
    files = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def mistaken_for(module: ModuleType, folder: Path) -> str:
    """Return what hides the file in `folder` that has the name of `module`; "" when nothing does."""
    file = module_file(folder, module.__name__)
    if file is None or _is_file(module, file):
        return ""
    name = module.__name__
    return f"'{foreign(name)}' is {_in_words(name, _origin(module))}, and not {foreign(file)}"


def package_mistaken_for(name: str, folder: Path) -> str:
    """Return what hides the package of the module `name` in `folder`; "" when nothing does."""
    top = name.partition(".")[0]
    package = sys.modules.get(top)
    if package is None or module_file(folder, name) is None or str(folder / top) in getattr(package, "__path__", ()):
        return ""
    return f"'{top}' is {_in_words(top, _origin(package))}, and not {foreign(str(folder / top))}"


def is_taken(name: str, file: Path) -> bool:
    """Whether an import of `name` gives another module than `file`."""
    if name in sys.stdlib_module_names or name == _OUR_NAME:
        return True
    if name in sys.modules:
        return not _is_file(sys.modules[name], file)
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.origin is not None and not _is_same(Path(spec.origin), file)
    return False


def _hint(error: BaseException, folder: Path) -> str:
    """Return a hint when the names of the files in `folder` explain `error`, and "" otherwise."""
    if isinstance(error, ImportError) and error.msg.startswith("attempted relative import with no known parent"):
        return _inside_of_package(folder)
    for name in _modules_in(error):
        if isinstance(error, ModuleNotFoundError) and name not in sys.modules:
            return _where_else(name, folder)
        file = module_file(folder, name)
        if file is None:
            continue
        module = sys.modules.get(name)
        if module is not None and not _is_file(module, file):
            return f"{mistaken_for(module, folder)}: rename your file."
        if (other := _other(name, folder)) is not None:
            return _stands_before(name, file, other)
    return next(_standing_before(folder), "")


def _general_hint(error: BaseException) -> str:
    """Return what to do about a common mistake that no file explains; "" for others."""
    text = str(error)
    match error:
        case SystemExit():
            return 'A module with handlers ends nothing: put the script below  if __name__ == "__main__":'
        case ModuleNotFoundError(name=str() as name):
            module = foreign(name.partition(".")[0])
            return f"Install what has '{module}' where mxworker is installed, or correct the name."
        case ImportError() if "partially initialized module" in text:
            return "Two modules import each other: move what both need into a third one, or import inside a function."
        case ImportError() if text.startswith("attempted relative import with no known parent"):
            return "A module outside of a package imports without dots, as in  from models import Order"
        case TypeError() if text.startswith("Handlers.") and "missing 1 required positional argument" in text:
            return "Make an object of the class first, with parentheses:  handlers = Handlers()"
    return ""


def _inside_of_package(folder: Path) -> str:
    """Return how to load a module of the package that `folder` is; "" when it is no package."""
    if not (folder / "__init__.py").is_file():
        return ""
    return (
        f"This is a module of the package '{folder.name}': name it with that, and the directory above with --app-dir."
    )


def _modules_in(error: BaseException) -> Iterator[str]:
    """Yield the names of the modules from which a name could not be imported."""
    if isinstance(error, ImportError) and error.name:
        yield error.name.partition(".")[0]
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        yield error.obj.__name__.partition(".")[0]


def _standing_before(folder: Path) -> Iterator[str]:
    """Yield a text for each file in `folder` that was imported instead of a module of Python's own."""
    for name in sorted(sys.stdlib_module_names & sys.modules.keys()):
        file = module_file(folder, name)
        if file is not None and _is_file(sys.modules[name], file) and (other := _other(name, folder)) is not None:
            yield _stands_before(name, file, other)


def _stands_before(name: str, file: Path, other: str) -> str:
    return f"{foreign(file)} was imported as '{foreign(name)}' instead of {_in_words(name, other)}: rename your file."


def _where_else(name: str, folder: Path) -> str:
    """Return where in or below `folder` a module is that was not found; "" when it is in neither."""
    place = next((place for place in (folder, folder / _SOURCES) if module_file(place, name) is not None), None)
    return f"'{foreign(name)}' is in {shorten(place)}: add --app-dir {shorten(place)}." if place is not None else ""


def _other(name: str, folder: Path) -> str | None:
    """Return where another module `name` is, outside of `folder`; None when there is none."""
    if name in sys.builtin_module_names:
        return ""
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != folder.resolve()]
    with suppress(Exception):  # a finder may be the code of others
        spec = PathFinder.find_spec(name, elsewhere)
        return spec.origin if spec is not None else None
    return None


def _in_words(name: str, origin: str | None) -> str:
    where = f", {foreign(origin)}" if origin else ""
    if name.partition(".")[0] == _OUR_NAME:
        return f"mxworker itself{where}"
    return f"Python's own module{where}" if name in sys.stdlib_module_names else f"an installed module{where}"


def _origin(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


def _is_file(module: ModuleType, file: Path) -> bool:
    origin = _origin(module)
    return origin is not None and _is_same(Path(origin), file)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)
