"""Find and import the application: `module:attribute` or `path/file.py:attribute`.

User code is imported only here, in the worker process, and never in the master. Errors are worded for the author of the
code, see `app_errors`. Names in them are `foreign` text, since a file may have any name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mxworker.api.compilation import Handler
from mxworker.api.handlers import Handlers, compile_handlers, settings_in
from mxworker.config.overrides import NO_OVERRIDES, Overrides
from mxworker.config.process import Consumption
from mxworker.errors import AppLoadError, ConfigError
from mxworker.payloads.compression import compression_of
from mxworker.system.foreign_errors import type_name
from mxworker.system.printable import foreign
from mxworker.worker.app_errors import (
    faults_told,
    import_failure,
    is_taken,
    mistaken_for,
    module_file,
    package_mistaken_for,
    shorten,
)
from mxworker.worker.code_access import CodeNotOurs, check_imports, check_places

DEFAULT_ATTRIBUTE = "handlers"


def load(app: str, app_dir: str | None, may_be_insecure: bool = False) -> Handlers:
    """Return the `Handlers` object that `app` names.

    With `app_dir` that directory comes first on the import path, and a file is searched there first. Without it the
    current directory comes last, so that a file there never takes the place of an installed module. Raises
    AppLoadError, and ConfigError for code that others could change, now or in a later import, unless it
    `may_be_insecure`.
    """
    target, _, attribute = app.partition(":")
    attribute = attribute or DEFAULT_ATTRIBUTE
    folder = Path(app_dir or ".").resolve()
    if not may_be_insecure:
        check_places(app, app_dir)
        check_imports(folder, "" if target.endswith(".py") else target)
    if app_dir is not None:
        sys.path.insert(0, str(folder))
    else:
        sys.path.append(str(folder))
    if target.endswith(".py"):
        module = _import_file(target, folder)
    else:
        _check_name(app, target, attribute, folder)
        module = _import_module(target, attribute, folder)
    return _pick(module, target, attribute, folder)


def prepare(settings: Consumption) -> tuple[Handlers, Consumption, tuple[Handler, ...]]:
    """Load the application, and return it, the settings with those of its code, and the handlers to run.

    Raises AppLoadError, or ConfigError for settings that do not go with the application.
    """
    with faults_told(settings.app):
        application = load(settings.app, settings.app_dir, settings.may_be_insecure)
        settings = settings.with_code(*settings_in(application))
        compression_of(settings.publisher)  # it may need an extra
        handlers = select(
            application, settings.queues, settings.overrides, settings.exclude_queues, settings.queue_overrides
        )
    return application, settings, handlers


def select(
    handlers: Handlers,
    queues: tuple[str, ...],
    overrides: Overrides,
    exclude_queues: tuple[str, ...] = (),
    queue_overrides: Mapping[str, Overrides] = NO_OVERRIDES,
) -> tuple[Handler, ...]:
    """Return the compiled handlers of `queues`, or of all when it is empty, without those of `exclude_queues`.

    Raises ConfigError for an unknown queue, and when none is left.
    """
    compiled = compile_handlers(handlers, overrides, queue_overrides)
    _check_queues(handlers, queues, "--queues")
    _check_queues(handlers, exclude_queues, "--exclude-queues")
    _check_queues(handlers, queue_overrides, "the [queues] tables of the configuration file")
    wanted = set(queues or handlers.queues).difference(exclude_queues)
    if not wanted:
        raise ConfigError("no queue is left to consume.\n  Check --queues and --exclude-queues.")
    return tuple(handler for handler in compiled if handler.queue.name in wanted)


def _check_queues(handlers: Handlers, names: Iterable[str], where: str) -> None:
    unknown = [name for name in names if name not in handlers.queues]
    if unknown:
        raise ConfigError(
            f"no handler consumes queue '{foreign(unknown[0])}'.  The app consumes: {', '.join(handlers.queues)}.\n"
            f"  Check {where}."
        )


def _check_name(app: str, target: str, attribute: str, folder: Path) -> None:
    """Raise AppLoadError when `target` cannot be the name of a module."""
    if not target.strip():
        raise AppLoadError(f"'{foreign(app)}' names no module.\n  Try:  mxworker run app:{foreign(attribute)}")
    if "/" not in target and not target.startswith("."):
        return
    file = f"{target.rstrip('/')}.py"
    if (folder / file).is_file():
        attempt = f"{file}:{attribute}"
    elif (folder / target / "__init__.py").is_file():
        attempt = f"{Path(target).name}:{attribute} --app-dir {shorten((folder / target).parent.resolve())}"
    else:
        raise AppLoadError(
            f"'{foreign(target)}' is a path, and there is no file '{foreign(file)}' (looked in {foreign(folder)}).\n"
            "  Name a module with dots, as in shop.app:handlers, or a file with .py, as in shop/app.py:handlers."
        )
    raise AppLoadError(
        f"'{foreign(target)}' is a path, which has to end with .py.\n  Try:  mxworker run {foreign(attempt)}"
    )


def _import_module(name: str, attribute: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except CodeNotOurs:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            if mistake := package_mistaken_for(name, folder):
                file = shorten(folder.joinpath(*name.split(".")))
                raise AppLoadError(
                    f"{mistake}.\n  Rename your directory, or name the file:  mxworker run {file}.py:{attribute}"
                ) from None
            raise AppLoadError(
                f"there is no module '{foreign(name)}' on the Python path or in {foreign(folder)}.\n"
                f"  {foreign(_where(name, attribute, folder))}"
            ) from None
        raise AppLoadError(import_failure(name, error, [folder])) from error
    except BaseException as error:  # an import runs the user's code, which may raise anything, SystemExit included
        raise AppLoadError(import_failure(name, error, [folder])) from error


def _where(name: str, attribute: str, folder: Path) -> str:
    """Return a hint where a module that was not found may be, or what its name may mean."""
    top, _, last = name.rpartition(".")
    sources = folder / "src"
    if module_file(sources, name) is not None or (sources / name.partition(".")[0]).is_dir():
        return f"Try:  mxworker run {name}:{attribute} --app-dir {shorten(sources)}"
    if isinstance(getattr(sys.modules.get(top), last, None), Handlers):
        return f"Try:  mxworker run {top}:{last}"
    plain = name.replace("-", "_")
    if plain != name and module_file(folder, plain) is not None:
        return f"Try:  mxworker run {plain}:{attribute}"
    return f"Start mxworker where {name.partition('.')[0]}.py is, or name its directory with --app-dir."


def _import_file(target: str, folder: Path) -> ModuleType:
    path = next((path for path in (folder / target, Path(target)) if path.is_file()), None)
    if path is None:
        raise AppLoadError(f"there is no file '{foreign(target)}' (looked in {foreign(folder)}).")
    # Under the name of another module it would hide that one.
    name = f"mxworker_app_{path.stem}" if is_taken(path.stem, path) else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppLoadError(f"'{foreign(target)}' cannot be imported: it is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except CodeNotOurs:
        raise
    except BaseException as error:  # as above
        raise AppLoadError(import_failure(target, error, [folder, path.parent])) from error
    return module


def _pick(module: ModuleType, target: str, attribute: str, folder: Path) -> Handlers:
    found, is_there = _attribute(module, attribute)
    if isinstance(found, Handlers):
        if len(found) == 0:
            named = foreign(f"'{target}:{attribute}' has no handlers.  Register one with @{attribute}.consume(...).")
            raise AppLoadError(named)
        return found
    if not target.endswith(".py") and (mistake := mistaken_for(module, folder)):
        file = module_file(folder, target)
        assert file is not None
        raise AppLoadError(
            f"{mistake}.\n  Rename your file, or name it as one:  mxworker run {shorten(file)}:{foreign(attribute)}"
        )
    registries = {name: value for name, value in vars(module).items() if isinstance(value, Handlers)}
    shown = ", ".join(f"{name} (Handlers, {_consumers(value)})" for name, value in registries.items())
    target, attribute, shown = foreign(target), foreign(attribute), foreign(shown)
    if not is_there:
        what = f"module '{target}' has no attribute '{attribute}'."
    elif callable(found):
        what = f"'{target}:{attribute}' is not a Handlers object but {_article(found)}, which mxworker does not call."
    else:
        what = f"'{target}:{attribute}' is not a Handlers object but {type_name(found)}."
    defines = f"It defines: {shown}." if shown else "It defines no Handlers object."
    if registries:
        attempt = f"\n  Try:  mxworker run {target}:{foreign(next(iter(registries)))}"
    elif callable(found):
        made_by = found.__name__ if found is Handlers else attribute
        attempt = f"\n  Write  handlers = {made_by}()  in it, and try:  mxworker run {target}:handlers"
    elif getattr(module, "__file__", None) is None and list(getattr(module, "__path__", ())):
        attempt = f"\n  '{target}' is a directory of modules: name one, as in  mxworker run {target}.app:{attribute}"
    else:
        attempt = ""
    raise AppLoadError(f"{what}  {defines}{attempt}")


def _attribute(module: ModuleType, path: str) -> tuple[Any, bool]:
    """Return the object at `path`, attributes joined by dots, in `module`, and whether it exists."""
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except Exception:  # a module may have a __getattr__ of its own
            return None, False
    return found, True


def _article(found: object) -> str:
    return "a class" if isinstance(found, type) else f"a {type_name(found)}"


def _consumers(handlers: Handlers) -> str:
    return f"{len(handlers)} consumer" + ("" if len(handlers) == 1 else "s")
