"""Where RabbitMQ is installed, and a slim copy of it that starts in half the time.

As root, Debian's scripts in /usr/sbin switch to the user rabbitmq, who cannot write where we want; so the package's own
scripts are used. Nothing here starts a process.

While booting, RabbitMQ loads every module of every application in its `plugins` folder, enabled or not. A *home* of
symbolic links to just those applications that `rabbit` needs was measured at 4.7 s until ready instead of 8.1 s
(RabbitMQ 3.10.8, Erlang 25, two cores).

MXWORKER_TEST_RABBITMQ asks for a major version of RabbitMQ (`make test BROKER=4`, `pytest --broker=4`). It is this
machine's when that is the version, otherwise that of a Debian tree (see `debian_tree`).
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.rabbit.debian_tree import DEBIAN, entering, tree_for, why_not_enterable

OWN_BROKER = "MXWORKER_TEST_BROKER_URL"
WANTED = "MXWORKER_TEST_RABBITMQ"
EMBEDDED = "embedded"
"""The value of `WANTED` for mxworker's own broker, on which the tests run that need no node."""
_PACKAGED_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
HOW_TO_GET = (
    "Install it ('apt-get install --no-install-recommends rabbitmq-server', which 'make test' does when it may), "
    f"or name a running broker in {OWN_BROKER}."
)
_VERSION = re.compile(r'\{\s*vsn\s*,\s*"([^"]+)"')
_APPLICATIONS = re.compile(r"\{\s*applications\s*,\s*\[(.*?)\]", re.DOTALL)


class RabbitMQMissing(Exception):
    """RabbitMQ, or a tool that a private node needs, is not installed."""


@dataclass(frozen=True)
class Installation:
    """One RabbitMQ: the folder of its `sbin` and `plugins`, its version if known, what to put before its commands."""

    home: Path
    version: str
    enter: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"RabbitMQ {self.version or 'of unknown version'} ({self.home})"


def find_rabbitmq() -> Installation:
    """Return the RabbitMQ to run; RabbitMQMissing says how to get one."""
    wanted = os.environ.get(WANTED)
    if wanted and wanted not in DEBIAN:
        raise RabbitMQMissing(f"There is no RabbitMQ {wanted!r} to be had; those known are {', '.join(DEBIAN)}.")
    home = _home_of_this_machine()
    if home and (not wanted or _version(home).split(".")[0] == wanted):
        _check_tools("erl", "epmd", "setpriv")
        return Installation(home, _version(home))
    if wanted:
        return _in_tree(wanted)
    raise RabbitMQMissing(f"RabbitMQ is not installed. {HOW_TO_GET}")


def _home_of_this_machine() -> Path | None:
    on_path = shutil.which("rabbitmq-server")
    for server in (_PACKAGED_SERVER, Path(on_path or "rabbitmq-server")):
        home = server.resolve().parent.parent
        if (home / "sbin" / "rabbitmq-server").exists() and (home / "plugins").is_dir():
            return home
    return None


def _in_tree(major: str) -> Installation:
    tree = tree_for(major)
    home = next(tree.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"), None)
    if home is None:
        raise RabbitMQMissing(f"There is no RabbitMQ {major} in {tree}; make it with 'make rabbitmq BROKER={major}'.")
    _check_tools("unshare", "setpriv")
    if said := why_not_enterable(tree):
        raise RabbitMQMissing(f"RabbitMQ {major} in {tree} needs root and the right to mount: {said}")
    return Installation(home, _version(home), entering(tree))


def _check_tools(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise RabbitMQMissing(f"'{tool}' is not on the PATH, and a private RabbitMQ needs it. {HOW_TO_GET}")


def _version(home: Path) -> str:
    """Return the version of the application `rabbit`; empty where the layout is another one."""
    for application in home.glob("plugins/*/ebin/rabbit.app"):
        if match := _VERSION.search(application.read_text()):
            return match[1]
    return None


def broker() -> str:
    """Return what the run uses as its broker, for its header."""
    if os.environ.get(OWN_BROKER):
        return f"the one that {OWN_BROKER} names"
    if is_embedded():
        return "the embedded one"
    try:
        return str(find_rabbitmq())
    except RabbitMQMissing:
        return "none"


def is_embedded() -> bool:
    """Tell whether the run uses the embedded broker."""
    return os.environ.get(WANTED) == EMBEDDED


def missing_broker() -> str | None:
    """Return what to do to get a broker; None when there is one, named or installed."""
    if os.environ.get(OWN_BROKER) or is_embedded():
        return None
    try:
        find_rabbitmq()
    except RabbitMQMissing as missing:
        return str(missing)
    return None


def make_slim_home(home: Path, slim: Path) -> Path:
    """Return `slim`, filled with links to what `rabbit` needs of `home`; or `home` where its layout is another one."""
    applications = {path.stem: path for path in home.glob("plugins/*/ebin/*.app")}
    if "rabbit" not in applications:
        return home
    (slim / "plugins").mkdir(parents=True, exist_ok=True)
    for name in _needed_by("rabbit", applications):
        folder = applications[name].parent.parent
        _link(slim / "plugins" / folder.name, folder)
    for name in ("sbin", "escript"):
        _link(slim / name, home / name)
    return slim


def _needed_by(name: str, applications: dict[str, Path]) -> set[str]:
    """Return `name` and all it depends on, as far as RabbitMQ brings it (the rest is Erlang's)."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found or current not in applications:
            continue
        found.add(current)
        if match := _APPLICATIONS.search(applications[current].read_text()):
            waiting += [part.strip().strip("'") for part in match[1].split(",")]
    return found


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(target)
