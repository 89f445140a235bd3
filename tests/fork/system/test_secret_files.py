"""A file with a password in it is refused when others may read or change it; those of service managers are taken."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxworker.errors import ConfigError
from mxworker.system.secret_files import check_secret
from tests.harness.interpreter import run_python
from tests.harness.places import open_directory
from tests.harness.repository import REPOSITORY

OTHER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can enter."""
    with open_directory() as place:
        yield place


def secret(path: Path, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("amqp://user:password@rabbit/\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_file_of_our_own_is_taken(place: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    check_secret("URL", str(secret(place / "url", mode)))
    assert caplog.messages == []


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o444])
def test_file_that_everybody_can_read_is_refused(place: Path, mode: int) -> None:
    path = secret(place / "url", mode)
    with pytest.raises(ConfigError) as caught:
        check_secret("URL", str(path))
    assert str(caught.value) == (
        f"URL names a secret, and everybody on this machine may read '{path}'.\n  Try:  chmod 600 {path}"
    )


@pytest.mark.parametrize("mode", [0o602, 0o622])
def test_file_that_everybody_can_change_is_refused(place: Path, mode: int) -> None:
    path = secret(place / "url", mode)
    with pytest.raises(ConfigError, match=f"but everybody on this machine may write to '{path}'"):
        check_secret("URL", str(path))


def test_file_that_everybody_can_put_another_in_the_place_of_is_refused(place: Path) -> None:
    path = secret(place / "url", 0o600)
    place.chmod(0o777)
    with pytest.raises(ConfigError, match=f"but everybody on this machine may write to '{place}'"):
        check_secret("URL", str(path))


def test_link_leads_to_the_file_that_counts(place: Path) -> None:
    secret(place / "open", 0o644)
    closed = place / "closed"
    closed.mkdir(0o700)
    (closed / "url").symlink_to("../open")
    with pytest.raises(ConfigError, match=f"may read '{place}/open'"):
        check_secret("URL", str(closed / "url"))


@needs_root
def test_file_of_another_user_is_refused(place: Path) -> None:
    path = secret(place / "url", 0o600)
    os.chown(path, OTHER, OTHER)
    with pytest.raises(ConfigError, match=f"but user {OTHER}, who owns it, may write to '{path}'"):
        check_secret("URL", str(path))


@needs_root
def test_file_that_a_group_can_read_is_warned_of(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = secret(place / "url", 0o640)
    os.chown(path, 0, OTHER)
    with caplog.at_level(logging.WARNING):
        check_secret("URL", str(path))
    assert caplog.messages == [
        f"URL names a secret, and the members of group {OTHER} may read '{path}'. If you do not want that, try:  "
        f"chmod 600 {path}"
    ]


def test_directory_that_others_cannot_enter_keeps_them_from_reading(place: Path) -> None:
    """As that of systemd's LoadCredential: /run/credentials/UNIT is the service's alone."""
    path = secret(place / "credentials" / "mxworker.service" / "broker-url", 0o444)
    path.parent.chmod(0o500)
    check_secret("URL", str(path))


@needs_root
def test_secret_of_kubernetes_is_taken(place: Path) -> None:
    """Its files are root's with mode 0644, behind a link that is exchanged as a whole."""
    volume = place / "volume"
    secret(volume / "..2026_11_28" / "url", 0o644)
    (volume / "..data").symlink_to("..2026_11_28")
    (volume / "url").symlink_to("..data/url")
    volume.chmod(0o1777)
    check_secret("URL", str(volume / "url"))
    os.chown(volume / "..data", OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(ConfigError, match=r"\.\.data"):
        check_secret("URL", str(volume / "url"))


@needs_root
def test_secret_of_docker_is_taken() -> None:
    """It is in /run/secrets, open to all, as root's or, bind-mounted, as that of whoever has it outside."""
    script = """
        mount -t tmpfs -o mode=755 none /run && mkdir /run/secrets || exit 77
        for name in url theirs; do echo amqp://user:password@rabbit/ >/run/secrets/$name; done
        chmod 444 /run/secrets/url
        chown 54321 /run/secrets/theirs
        "$0" -P -c 'from mxworker.system.secret_files import check_secret as check
for name in "url", "theirs": check("URL", f"/run/secrets/{name}")' || exit 1
        chmod 777 /run/secrets
        ! "$0" -P -c 'from mxworker.system.secret_files import check_secret as check
check("URL", "/run/secrets/theirs")' 2>/dev/null
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare(1) is missing; it is in the package util-linux")
    ended = subprocess.run(
        [unshare, "--mount", "sh", "-c", script, sys.executable],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # In a chroot the root is no mount, and what is mounted there could reach the machine outside.
    cannot = ("Operation not permitted", "cannot change root filesystem propagation")
    if ended.returncode in (77, 1) and any(why in ended.stderr for why in cannot):
        pytest.skip(f"nothing can be mounted here: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", ["run", "dev"])
def test_command_refuses_a_url_file_that_everybody_can_read(command: str, place: Path) -> None:
    path = secret(place / "url", 0o644)
    options = ("-m", "mxworker", command, "app", "--log-format=text")
    ended = run_python(*options, cwd=place, MXWORKER_BROKER_URL_FILE=str(path))
    assert ended.returncode == 2
    assert (
        f"Error: MXWORKER_BROKER_URL_FILE names a secret, and everybody on this machine may read '{path}'."
        in ended.stderr
    )
    assert "password" not in ended.stderr


def test_pipe_is_taken() -> None:
    """As of a shell: MXWORKER_BROKER_URL_FILE=<(pass show rabbit)."""
    reading, writing = os.pipe()
    check_secret("URL", f"/dev/fd/{reading}")
    os.close(reading)
    os.close(writing)
