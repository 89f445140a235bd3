"""Which file an application's name means: one that has the name of another module is told, and takes no module's place.

Each case is a process of its own, for what is imported once stays.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.hostile_text import assert_harmless
from tests.harness.interpreter import run_python
from tests.harness.repository import REPOSITORY

HANDLERS = """from mxworker import Handlers
handlers = Handlers()
@handlers.consume("q")
async def order(payload): ...
"""
LOADING = """
import sys
from mxworker.errors import AppLoadError
from mxworker.worker.loading import load
app, app_dir = sys.argv[1:]
try:
    handlers = load(app, app_dir or None)
except AppLoadError as error:
    print(error)
    sys.exit(3)
import logging, queue, csv
queue.SimpleQueue, logging.config, csv.reader
print("loaded", *handlers.queues)
"""
STDLIB = Path(os.__file__).parent


def loading(folder: Path, files: Mapping[str, str], app: str, app_dir: str = "") -> str:
    """Load an application in a new process, in `folder` with these files; return what comes of it."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    ended = run_python("-c", f"import logging.config\n{LOADING}", app, app_dir, cwd=folder)
    assert ended.returncode in (0, 3), ended.stderr
    assert ended.stderr == ""
    return ended.stdout.rstrip()


# ---- a name that is no name


def test_app_and_file_may_be_called_anything_and_are_told_on_one_line(tmp_path: Path) -> None:
    odd = "x\n\x1b[2J\u202eError: forged.py"
    missing = loading(tmp_path, {}, f"{odd}:handlers")
    broken = loading(tmp_path, {odd: "def broken(:\n"}, f"{odd}:handlers")
    raising = loading(tmp_path, {odd: "raise ValueError('x\\n\\x1bError: forged')  # \u202e\n"}, f"{odd}:handlers")
    empty = loading(tmp_path, {odd: "from mxworker import Handlers\nhandlers = Handlers()\n"}, odd)
    other = loading(tmp_path, {odd: HANDLERS}, f"{odd}:no\n\x1bsuch")
    unfit = f"{HANDLERS}\nasync def bad(): ...\nbad.__name__ = 'x\\n\\x1bError: forged'\nhandlers.consume('a')(bad)\n"
    compiling = f"{unfit}from mxworker.api.handlers import compile_handlers\ncompile_handlers(handlers)\n"
    handler = loading(tmp_path, {odd: compiling}, f"{odd}:handlers")
    module = loading(tmp_path, {}, "a\n\x1bb:handlers")
    path = loading(tmp_path, {}, "a/\n\x1bb:handlers")
    for told in (missing, broken, raising, empty, other, handler, module, path):
        assert not told.startswith("loaded")
        assert_harmless(told)


# ---- a name that another module has


@pytest.mark.parametrize("app_dir", ["", "."])
@pytest.mark.parametrize(
    ("name", "whose", "where"),
    [
        ("queue", "Python's own module", STDLIB / "queue.py"),
        ("logging", "Python's own module", STDLIB / "logging" / "__init__.py"),
        ("mxworker", "mxworker itself", REPOSITORY / "mxworker" / "__init__.py"),
    ],
)
def test_module_that_has_the_name_of_another_is_told_with_both_paths(
    name: str, whose: str, where: Path, app_dir: str, tmp_path: Path
) -> None:
    assert loading(tmp_path, {f"{name}.py": HANDLERS}, name, app_dir) == (
        f"'{name}' is {whose}, {where}, and not {tmp_path / name}.py.\n"
        f"  Rename your file, or name it as one:  mxworker run {name}.py:handlers"
    )


def test_package_that_has_the_name_of_another_module_is_told(tmp_path: Path) -> None:
    told = loading(tmp_path, {"queue/__init__.py": HANDLERS}, "queue")
    assert f"and not {tmp_path}/queue/__init__.py." in told


@pytest.mark.parametrize("file", ["email/shop.py", "mxworker/shop/__init__.py", "yarl/a/shop.py"])
def test_module_in_a_package_that_has_the_name_of_another_is_told_with_both_paths(file: str, tmp_path: Path) -> None:
    package = file.partition("/")[0]
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    told = loading(tmp_path, {file: HANDLERS}, name)
    assert told.startswith(f"'{package}' is ")
    assert f"{package}/__init__.py, and not {tmp_path / package}.\n  Rename your directory" in told


@pytest.mark.parametrize("app", ["app", "app.py"])
def test_module_inside_of_its_package_is_told_where_to_start(app: str, tmp_path: Path) -> None:
    told = loading(tmp_path, {"__init__.py": "", "app.py": f"from .prices import PRICE\n{HANDLERS}"}, app)
    assert told.endswith(
        f"This is a module of the package '{tmp_path.name}': name it with that, and the directory above with --app-dir."
    )


def test_module_without_a_file_is_told(tmp_path: Path) -> None:
    assert loading(tmp_path, {"time.py": HANDLERS}, "time").startswith(
        f"'time' is Python's own module, and not {tmp_path}/time.py."
    )


@pytest.mark.parametrize("name", ["queue", "logging", "mxworker", "csv", "my-app"])
@pytest.mark.parametrize("folder", ["", "shop/"])
def test_file_of_any_name_is_loaded_and_takes_no_module_s_place(name: str, folder: str, tmp_path: Path) -> None:
    assert loading(tmp_path, {f"{folder}{name}.py": HANDLERS}, f"{folder}{name}.py:handlers") == "loaded q"


def test_file_with_a_name_of_its_own_is_the_module_of_that_name(tmp_path: Path) -> None:
    source = f"{HANDLERS}import app\nassert app.handlers is handlers\n"
    assert loading(tmp_path, {"app.py": source}, "app.py") == "loaded q"


def test_file_is_looked_for_in_the_app_dir_first(tmp_path: Path) -> None:
    assert loading(tmp_path, {"shop/app.py": HANDLERS}, "app.py", "shop") == "loaded q"


# ---- a name in an import of the application


def test_import_that_found_python_s_own_is_told_with_both_paths(tmp_path: Path) -> None:
    files = {"app.py": f"from queue import orders\n{HANDLERS}", "queue.py": "orders = 'orders'\n"}
    assert loading(tmp_path, files, "app").splitlines() == [
        "'app' was found but failed to import:",
        "  app.py:1  from queue import orders    ImportError: cannot import name 'orders' from 'queue' "
        f"({STDLIB}/queue.py)",
        f"  'queue' is Python's own module, {STDLIB}/queue.py, and not {tmp_path}/queue.py: rename your file.",
    ]


def test_attribute_that_python_s_own_lacks_is_told_with_both_paths(tmp_path: Path) -> None:
    files = {"app.py": f"import logging\nlogging.shop()\n{HANDLERS}", "logging.py": "def shop(): ...\n"}
    assert f"and not {tmp_path}/logging.py: rename your file." in loading(tmp_path, files, "app")


def test_submodule_that_python_s_own_lacks_is_told_with_both_paths(tmp_path: Path) -> None:
    files = {"app.py": f"import queue.orders\n{HANDLERS}", "queue/__init__.py": "", "queue/orders.py": ""}
    assert f"and not {tmp_path}/queue/__init__.py: rename your file." in loading(tmp_path, files, "app")


def test_file_that_was_imported_instead_of_python_s_own_is_told_with_both_paths(tmp_path: Path) -> None:
    files = {"app.py": f"import csv\ncsv.reader\n{HANDLERS}", "csv.py": "orders = 'orders'\n"}
    told = loading(tmp_path, files, "app", ".")
    assert told.splitlines()[-1] == (
        f"  {tmp_path}/csv.py was imported as 'csv' instead of Python's own module, {STDLIB}/csv.py: rename your file."
    )


def test_file_in_whose_place_a_library_wanted_python_s_own_is_told(tmp_path: Path) -> None:
    files = {
        "app.py": f"import library\n{HANDLERS}",
        "library.py": "import wave\nraise RuntimeError('no wave')\n",
        "wave.py": "",
    }
    assert f"{tmp_path}/wave.py was imported as 'wave' instead of" in loading(tmp_path, files, "app", ".")


def test_file_that_hides_an_installed_module_from_itself_is_told(tmp_path: Path) -> None:
    files = {"msgspec.py": f"import msgspec\nmsgspec.Struct\n{HANDLERS}"}
    told = loading(tmp_path, files, "msgspec", ".")
    assert f"{tmp_path}/msgspec.py was imported as 'msgspec' instead of an installed module, /" in told


def test_file_that_has_nothing_to_do_with_it_is_not_told(tmp_path: Path) -> None:
    files = {"app.py": f"raise LookupError('no shop')\n{HANDLERS}", "queue.py": "", "logging.py": ""}
    assert loading(tmp_path, files, "app").splitlines() == [
        "'app' was found but failed to import:",
        "  app.py:1  raise LookupError('no shop')    LookupError: no shop",
    ]


# ---- where the module is


@pytest.mark.parametrize("file", ["src/shop.py", "src/shop/__init__.py", "src/shop/app.py"])
def test_sources_in_src_are_found_for_the_reader(file: str, tmp_path: Path) -> None:
    name = "shop.app" if file.endswith("app.py") else "shop"
    told = loading(tmp_path, {file: HANDLERS}, name)
    assert told == (
        f"there is no module '{name}' on the Python path or in {tmp_path}.\n"
        f"  Try:  mxworker run {name}:handlers --app-dir src"
    )
    assert loading(tmp_path, {}, name, "src") == "loaded q"


def test_module_of_the_application_in_src_is_found_for_the_reader(tmp_path: Path) -> None:
    told = loading(tmp_path, {"app.py": f"import shop\n{HANDLERS}", "src/shop.py": ""}, "app")
    assert told.splitlines()[-1] == "  'shop' is in src: add --app-dir src."


def test_module_beside_a_file_is_found_for_the_reader(tmp_path: Path) -> None:
    told = loading(tmp_path, {"shop/app.py": f"import models\n{HANDLERS}", "shop/models.py": ""}, "shop/app.py")
    assert told.splitlines()[-1] == "  'models' is in shop: add --app-dir shop."


@pytest.mark.parametrize(
    ("app", "attempt"),
    [
        ("shop/app:handlers", "mxworker run shop/app.py:handlers"),
        ("./app:handlers", "mxworker run ./app.py:handlers"),
        ("app.handlers", "mxworker run app:handlers"),
        ("app.orders:handlers", "mxworker run app:orders"),
        ("my-app", "mxworker run my_app:handlers"),
        ("", "mxworker run app:handlers"),
        (":orders", "mxworker run app:orders"),
        ("packed/inner", "mxworker run inner:handlers --app-dir packed"),
        ("app:make", "Write  handlers = make()  in it, and try:  mxworker run app:handlers"),
        ("app:handler", "mxworker run app:handlers"),
        ("folder", "'folder' is a directory of modules: name one, as in  mxworker run folder.app:handlers"),
    ],
)
def test_name_that_is_nearly_right_is_told_how_it_should_be(app: str, attempt: str, tmp_path: Path) -> None:
    made = "from mxworker import Handlers\ndef make(): return Handlers()\n"
    files = {
        "shop/app.py": HANDLERS,
        "my_app.py": HANDLERS,
        "packed/inner/__init__.py": HANDLERS,
        "folder/one.py": HANDLERS,
        "app.py": made if app == "app:make" else HANDLERS + "orders = handlers\n",
    }
    told = loading(tmp_path, files, app)
    assert told.splitlines()[-1].removeprefix("  Try:  ").strip() == attempt


def test_attribute_with_dots_is_looked_up(tmp_path: Path) -> None:
    source = f"{HANDLERS}class Shop:\n    orders = handlers\n"
    assert loading(tmp_path, {"app.py": source}, "app:Shop.orders") == "loaded q"
    assert "has no attribute 'Shop.nothing'" in loading(tmp_path, {}, "app:Shop.nothing")


def test_factory_is_not_called_and_that_is_said(tmp_path: Path) -> None:
    source = "from mxworker import Handlers\ndef make():\n    raise LookupError\n"
    assert loading(tmp_path, {"app.py": source}, "app:make").startswith(
        "'app:make' is not a Handlers object but a function, which mxworker does not call.  It defines no Handlers"
    )
