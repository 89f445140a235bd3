"""Debian trees in a cache folder, with versions of RabbitMQ that this machine does not have.

`tests/debian-tree.sh` makes a tree (`make rabbitmq BROKER=4`). A node runs from it in a mount namespace of its own,
in which /usr and /etc are those of the tree and all else is as outside: the same data directory, /proc, ports and pids.
The kernel drops the mounts with the last process of the node, so a run that is killed leaves none.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

# The major version of RabbitMQ, and the Debian that brings it.
DEBIAN = {"3": "debian-12", "4": "debian-13"}
_ENTER = 'mount --bind "$0/usr" /usr && mount --bind "$0/etc" /etc && exec "$@"'


def tree_for(major: str) -> Path:
    """Return where the tree with that RabbitMQ is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "mxworker" / DEBIAN[major]


def entering(tree: Path) -> tuple[str, ...]:
    """Return what to put before a command so that it runs with the programs of `tree`; it keeps its pid."""
    return ("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _ENTER, str(tree))


@functools.cache
def why_not_enterable(tree: Path) -> str | None:
    """Return what the machine says when it does not allow mounts; None when it does."""
    tried = subprocess.run([*entering(tree), "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else tried.stderr.strip() or f"exit code {tried.returncode}"
