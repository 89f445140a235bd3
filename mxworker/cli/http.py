"""The observer, and what the options about HTTP mean for it."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxworker.cli.config import sources
from mxworker.cli.config.options import BY_KEY
from mxworker.errors import ConfigError
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

if TYPE_CHECKING:
    from mxworker.board.page import Board
    from mxworker.master.observer import Observing
    from mxworker.observer.http.access import Access

log = logging.getLogger("mxworker")

_TOKEN_CHARACTERS = 16
_DELETE = 0x7F


@dataclass(frozen=True, slots=True)
class Http:
    """A listening socket, and who may see what."""

    listening: socket.socket
    access: Access

    @property
    def url(self) -> str:
        """The address to open in a browser on this machine or, if it is not for that one alone, on others."""
        from mxworker.observer.http.addresses import address_of

        return f"http://{address_of(self.listening)}/"

    def observing(self, board: Board, metrics_directory: Path | None, heartbeat_timeout_s: float) -> Observing:
        """Return what the observer runs."""
        from mxworker.master.observer import Observing
        from mxworker.observer import main as observer  # before the fork, so that its pages are shared

        settings = observer.Settings(self.listening, self.access, metrics_directory, heartbeat_timeout_s)
        return Observing(lambda: observer.run(settings, board), frozenset({self.listening.fileno()}), self.url)


def http_listen(flags: dict[str, Any]) -> Http | None:
    """Take the address for HTTP; return None when there shall be none. Raises ConfigError."""
    from mxworker.observer.http.access import Access, name_in
    from mxworker.observer.http.addresses import Address, address_of, is_only_here, listen_at, listen_nearby

    if flags["no_http"] and (flags["http"] is None or _is_stronger("no-http", "http")):
        return None
    token = _token(flags["http_token_file"])
    hosts = {name_in(name) or name.lower() for name in flags["http_host"]}
    if flags["http"] is not None:
        asked = Address.parse(flags["http"])
        listening = listen_at(asked)
        hosts.add(name_in(asked.host) or asked.host)
    else:
        try:
            listening = listen_nearby(Address())
        except OSError as error:
            facts = log_event("http_missing", error=str(error))
            log.warning("no HTTP: %s cannot be used: %s", Address(), error, extra=facts)
            return None
        taken, usual = address_of(listening).port, Address().port
        if taken != usual:
            facts = log_event("http_moved", port=taken)
            log.info("port %d is in use, so HTTP is served on port %d", usual, taken, extra=facts)
    address = address_of(listening)
    if token is None and not is_only_here(listening):
        listening.close()
        raise ConfigError(
            f"other machines can reach {foreign(address)}, so its status page needs a token.\n"
            "  Try:  openssl rand -hex 32 > token && chmod 600 token, and --http-token-file token\n"
            "  or serve this machine alone:  --http 127.0.0.1:9191"
        )
    return Http(listening, Access(address.host, frozenset(hosts), token))


@contextmanager
def metrics_directory(socket: Path | None) -> Iterator[Path | None]:
    """Make the directory for the application's own metrics, beside the control socket, and remove it at the end.

    The socket has a lock, so no other service uses the directory. Files that were left over are removed: counters begin
    with the service. Without a socket the directory is a temporary one. None when none can be made.
    """
    try:
        if socket is None:
            directory = Path(tempfile.mkdtemp(prefix="mxworker-"))
        else:
            directory = socket.with_name(f"{socket.name}.metrics")
            directory.mkdir(exist_ok=True)
            directory.chmod(0o700)
            _remove_metrics(directory)
    except OSError as error:
        facts = log_event("user_metrics_missing", error=str(error))
        log.warning("the application's own metrics are not collected: %s", error, extra=facts)
        yield None
        return
    try:
        yield directory
    finally:
        with suppress(OSError):
            _remove_metrics(directory)
            directory.rmdir()


def _remove_metrics(directory: Path) -> None:
    """Remove the files of prometheus_client, and nothing else that may be there."""
    for path in directory.glob("*.db"):
        path.unlink(missing_ok=True)


def _is_stronger(one: str, other: str) -> bool:
    """Tell which of two options that exclude each other counts: that of the stronger source."""
    ranks = [sources.rank(BY_KEY[key]) for key in (one, other)]
    if ranks[0] == ranks[1]:
        raise ConfigError("--http and --no-http exclude each other.")
    return ranks[0] > ranks[1]


def _token(path: str | None) -> bytes | None:
    """Return the token in a file, after checking who else may read it."""
    from mxworker.system.secret_files import check_secret

    if path is None:
        return None
    what = sources.name_of(BY_KEY["http-token-file"])
    check_secret(what, path)
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{what} names '{foreign(path)}', which cannot be read: {error.strerror}.") from error
    fault = ""
    if len(token) < _TOKEN_CHARACTERS:
        fault = f"fewer than {_TOKEN_CHARACTERS} characters"
    elif any(byte < ord(" ") or byte == _DELETE for byte in token):  # no header can have them
        fault = "line ends or control characters in it"
    if fault:
        raise ConfigError(
            f"{what} names '{foreign(path)}', whose token has {fault}.\n  Try:  openssl rand -hex 32 > {foreign(path)}"
        )
    return token
