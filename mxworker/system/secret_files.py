"""Files that hold a password or a key are refused when others may read or change them."""

from __future__ import annotations

import logging
import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from mxworker.errors import ConfigError
from mxworker.system.file_access import changer_of, end_of_change, may_change, may_read, reader_of, user_name, way_to
from mxworker.system.log_events import log_event
from mxworker.system.permissions import Entry, Who
from mxworker.system.printable import foreign

log = logging.getLogger("mxworker")

_DOCKER = Path("/run/secrets")
"""The directory in which Docker and Podman put the secrets of a container."""
_KUBERNETES = "..data"
"""The link through which Kubernetes replaces all files of a volume at once."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_secret(what: str, path: str) -> None:
    """Raise ConfigError when others may read or change a secret file; log a warning when a group may read it.

    `what` is the setting that names `path`. The mode of a file does not count in a directory that others cannot enter,
    such as that of systemd's credentials. It does not count either in a volume that root made for the secrets of a
    container: the orchestrator sets those modes so that any user of the container can read its secrets. A path that is
    no regular file, such as a pipe, is not checked.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return
        way = way_to(Path(path))
    except OSError as error:
        raise ConfigError(f"{what} names '{foreign(path)}', which cannot be read: {error.strerror}.") from error
    if _is_of_docker(way):
        return
    check_change(what, path)
    access = reader_of(Path(path))
    if access is None or _is_of_kubernetes(way):
        return
    text = f"{what} names a secret, and {may_read(access)}."
    mend = _end_of_reading(way[-1], access.who)
    if access.who is Who.EVERYBODY:
        raise ConfigError(f"{text}\n  Try:  {mend}")
    log.warning("%s If you do not want that, try:  %s", text, mend, extra=log_event("secret_readable"))


def _end_of_reading(file: Entry, who: Who) -> str:
    path = foreign(shlex.quote(str(file.path)))
    if file.uid == os.geteuid():
        return f"chmod 600 {path}"
    return f"chmod o-r {path}" if who is Who.EVERYBODY else f"chown {user_name(os.geteuid())} {path}; chmod 600 {path}"


def check_change(what: str, path: str) -> None:
    """Raise ConfigError when others may change the file at `path`, which the setting `what` names."""
    try:
        access = changer_of(Path(path))
    except OSError as error:
        raise ConfigError(f"{what} names '{foreign(path)}', which cannot be read: {error.strerror}.") from error
    if access is not None:
        raise ConfigError(f"{what} names '{foreign(path)}', but {may_change(access)}.\n  {end_of_change(access)}")


def _is_of_docker(way: Sequence[Entry]) -> bool:
    """Tell whether root put the file there. A bind-mounted file keeps the owner that it has outside the container."""
    folder = next((entry for entry in way if entry.path == _DOCKER and stat.S_ISDIR(entry.mode)), None)
    if folder is None or folder.uid != 0:
        return False
    return not folder.mode & _OTHERS_WRITE or bool(folder.mode & stat.S_ISVTX and way[-1].uid == 0)


def _is_of_kubernetes(way: Sequence[Entry]) -> bool:
    links = [entry for entry in way if entry.path.name == _KUBERNETES and stat.S_ISLNK(entry.mode)]
    return bool(links) and all(entry.uid == 0 for entry in (*links, way[-1]))
