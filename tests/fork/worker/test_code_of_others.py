"""Code that another user could change is not executed, whichever way leads to it. Some need root, for a second user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.interpreter import run_python
from tests.harness.places import open_directory
from tests.harness.repository import REPOSITORY
from tests.harness.scales import FULL_ONLY, crossed

OTHER, STRANGER = 65534, 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and act as another user")

HANDLERS = """import helper
from mxworker import Handlers
handlers = Handlers()
@handlers.consume("q")
async def order(payload): ...
"""
LOADING = """
import os, sys
from mxworker.errors import AppLoadError, ConfigError
from mxworker.worker.loading import load
app, app_dir, late, uid = sys.argv[1:]
if uid:  # from here on: the interpreter may lie where only root can read
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
try:
    handlers = load(app, app_dir or None)
    if late:
        os.chmod("late.py", 0o666)
        import late
except (AppLoadError, ConfigError) as error:
    print(error)
    sys.exit(error.exit_code)
print("loaded", *handlers.queues)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with an application, in one where others may put things, too."""
    with open_directory(0o1777) as place:
        folder = place / "shop"
        (folder / "package" / "inner").mkdir(parents=True)
        for file in ("app.py", "package/app.py", "package/inner/app.py", "package/inner/__init__.py"):
            (folder / file).write_text(HANDLERS)
        for file in ("helper.py", "late.py"):
            (folder / file).write_text("")
        yield folder


def loading(
    folder: Path, app: str = "app", app_dir: str = "", late: str = "", uid: int | None = None, source: str = LOADING
) -> str:
    ended = run_python("-c", source, app, app_dir, late, "" if uid is None else str(uid), cwd=folder)
    assert ended.stderr == ""
    assert ended.returncode == (0 if ended.stdout.startswith("loaded") else 2), ended.stdout
    return ended.stdout.rstrip()


def give_away(path: Path, uid: int = OTHER, gid: int = OTHER) -> None:
    for found in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.chown(found, uid, gid, follow_symlinks=False)


APPS = ["app", "app.py", "package.app", "package/inner/app.py", "package.inner"]


@pytest.mark.parametrize(("app", "app_dir"), crossed(APPS, ["", "."]))
def test_code_of_our_own_is_loaded(app: str, app_dir: str, folder: Path) -> None:
    assert loading(folder, app, app_dir) == "loaded q"


OPEN = [
    ("app", "app.py", 0o666),
    ("app.py", "app.py", 0o666),
    ("package.app", "package", 0o777),
    ("package.app", "package", 0o1777),
    ("package.inner.app", "package", 0o777),
    ("package.inner.app", "package/inner/__init__.py", 0o646),
    ("package/app.py", "package", 0o1777),
    ("package/inner/app.py", "package", 0o777),
]


@pytest.mark.parametrize(
    ("app", "opened", "app_dir"),
    [
        *crossed(APPS, [(".", 0o777), (".", 0o1777), ("helper.py", 0o666)], ["", "."]),
        *(pytest.param(app, opened, "") for app, *opened in OPEN),
        *(pytest.param(app, opened, ".", marks=FULL_ONLY) for app, *opened in OPEN),
    ],
)
def test_code_that_everybody_could_change_is_refused(
    app: str, opened: tuple[str, int], app_dir: str, folder: Path
) -> None:
    place, mode = opened
    (folder / place).chmod(mode)
    told = loading(folder, app, app_dir)
    assert told.startswith(f"everybody on this machine may write to '{folder / place}', and so choose what ")
    assert f"chmod o-w {folder / place}\n" in told or "use a separate directory" in told
    assert "--insecure-app-dir" in told


@pytest.mark.parametrize("app", ["app", "app.py"])
@pytest.mark.parametrize(("place", "mode"), [("", 0o777), ("app", 0o666)])
def test_bytecode_that_everybody_could_change_is_refused(app: str, place: str, mode: int, folder: Path) -> None:
    assert loading(folder, "app") == "loaded q"
    cached = folder / "__pycache__"
    assert loading(folder, app) == "loaded q"
    path = cached / f"{place}.{sys.implementation.cache_tag}.pyc" if place else cached
    path.chmod(mode)
    assert f"may write to '{path}'" in loading(folder, app)


def test_what_is_imported_later_is_checked_too(folder: Path) -> None:
    assert f"may write to '{folder}/late.py'" in loading(folder, late="yes")


def test_directory_above_that_everybody_could_change_is_refused(folder: Path) -> None:
    folder.parent.chmod(0o777)
    assert f"may write to '{folder.parent}'" in loading(folder)


@pytest.mark.parametrize("place", [".", "app.py"])
def test_place_that_a_link_leads_to_is_checked(place: str, folder: Path) -> None:
    theirs = folder.parent / "theirs"
    theirs.mkdir()
    shutil.copytree(folder, theirs / "shop")
    theirs.chmod(0o777)
    if place == ".":
        (folder / "link").symlink_to("../theirs/shop")
        told = loading(folder, "app", "link")
    else:
        (folder / "app.py").unlink()
        (folder / "app.py").symlink_to("../theirs/shop/app.py")
        told = loading(folder)
    assert f"may write to '{theirs}'" in told


THEIRS = [
    ("app", "."),
    ("app.py", "."),
    ("app", "app.py"),
    ("app.py", "app.py"),
    ("app", "helper.py"),
    ("package.app", "package"),
    ("package.inner", "package/inner/__init__.py"),
    ("package/app.py", "package"),
]


@needs_root
@pytest.mark.parametrize(("code", "where"), crossed(THEIRS, [("", None), (".", OTHER), ("", OTHER)]))
def test_code_of_another_user_is_refused(code: tuple[str, str], where: tuple[str, int | None], folder: Path) -> None:
    """Root refuses what a user could change, and a user what another user could change."""
    (app, place), (app_dir, uid) = code, where
    os.chown(folder / place, STRANGER, STRANGER)
    told = loading(folder, app, app_dir, uid=uid)
    assert told.startswith(f"user {STRANGER}, who owns it, may write to '{folder / place}', and so choose what ")
    assert f"chown -h {'root' if uid is None else 'nobody'} {folder / place}\n" in told


@needs_root
@pytest.mark.parametrize("owner", [0, OTHER])
def test_user_runs_their_own_code_and_that_of_root(owner: int, folder: Path) -> None:
    give_away(folder, owner, owner)
    assert loading(folder, uid=OTHER) == "loaded q"


@needs_root
@pytest.mark.parametrize("place", [".", "app.py"])
def test_code_that_a_group_could_change_is_refused(place: str, folder: Path) -> None:
    path = folder / place
    os.chown(path, 0, STRANGER)
    path.chmod(path.stat().st_mode | 0o020)
    told = loading(folder)
    assert told.startswith(f"the members of group {STRANGER} may write to '{path}'")
    assert f"chmod g-w {path}\n" in told


@needs_root
def test_group_of_a_user_alone_is_no_other(folder: Path) -> None:
    """As with the umask 002 of distributions that give each user a group."""
    give_away(folder, STRANGER, STRANGER)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o020)
    assert loading(folder, uid=STRANGER) == "loaded q"


def test_second_load_in_a_process_checks_too(folder: Path) -> None:
    """Whoever loads twice, as a test of an application may, has one check of imports, not two in a circle."""
    twice = LOADING.replace("handlers = load(", "load(app, app_dir or None)\n    handlers = load(")
    assert loading(folder, late="yes", source=twice).startswith("everybody on this machine may write to '")
    assert loading(folder, source=twice) == "loaded q"


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_app_dir_is_checked_though_the_current_directory_was_removed(mode: int, folder: Path) -> None:
    folder.chmod(mode)
    (folder.parent / "gone").mkdir()
    told = loading(folder.parent / "gone", app_dir=str(folder), source=f"import os; os.rmdir(os.getcwd())\n{LOADING}")
    assert told.startswith("loaded q" if mode == 0o755 else f"everybody on this machine may write to '{folder}'")


@needs_root
def test_link_of_another_user_among_shared_files_is_refused(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    assert loading(folder, "app", str(link)).startswith(f"user nobody, who owns it, may write to '{link}'")


# ---- the commands


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of mxworker in `folder`; there is no broker."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "mxworker", *arguments, "--log-format=text", "--connect-wait=10ms"],
        cwd=folder,
        env={
            "PYTHONPATH": str(REPOSITORY),
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(folder.parent),
            "MXWORKER_BROKER_URL": "amqp://localhost:1/",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "arguments"), crossed(["run", "dev"], [("app",), ("app.py",), ("app", "--app-dir=.")])
)
def test_command_refuses_code_that_everybody_could_change(name: str, arguments: tuple[str, ...], folder: Path) -> None:
    folder.chmod(0o777)
    ended = command(folder, name, *arguments)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith(f"Error: everybody on this machine may write to '{folder}', and so choose what ")
    assert f"Try:  chmod o-w {folder}\n" in ended.stderr


@pytest.mark.parametrize("name", ["run", "dev"])
def test_current_directory_on_the_import_path_is_checked_beside_the_app_dir(name: str, folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    ended = command(elsewhere, name, "app", f"--app-dir={folder}", PYTHONPATH=f"{REPOSITORY}:{elsewhere}")
    assert ended.returncode == 2, ended.stderr
    assert f"may write to '{elsewhere}', and so choose what the present directory runs" in ended.stderr


def test_module_that_everybody_could_change_ends_a_run_with_2(folder: Path) -> None:
    (folder / "helper.py").chmod(0o666)
    ended = command(folder, "run", "app", "--workers=2")
    assert ended.returncode == 2
    assert f"Error: everybody on this machine may write to '{folder}/helper.py'" in ended.stderr


@pytest.mark.parametrize("how", [{}, {"MXWORKER_INSECURE_APP_DIR": "1"}])
def test_operator_may_say_that_insecure_code_is_meant(how: dict[str, str], folder: Path) -> None:
    folder.chmod(0o777)
    (folder / "helper.py").chmod(0o666)
    ended = command(folder, "run", "app", "--workers=1", *([] if how else ["--insecure-app-dir"]), **how)
    assert ended.returncode == 4, ended.stderr  # it got as far as to the broker
    assert f"--insecure-app-dir: everybody on this machine may write to '{folder}'" in ended.stderr
