"""The embedded broker of a service: a child of the outermost process, started before all others and ended after them.

That process is the master of `run` or the outer process of `dev`, so the broker outlives workers, reloads and drains.
The kernel ends it when that process is killed. A Ctrl-C of the terminal does not reach it. When the broker ends alone,
its messages are lost, and that process starts an empty one in its place.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mxworker.cli.config.options import BY_KEY
from mxworker.cli.config.sources import Rank, rank
from mxworker.cli.settings import URL_LEAVES, url_source
from mxworker.errors import BrokerError, ConfigError
from mxworker.system.log_events import log_event

if TYPE_CHECKING:
    from mxworker.devbroker.keeping import KeptBroker
    from mxworker.devbroker.process import BrokerProcess

log = logging.getLogger("mxworker")

DEFAULT_PORT = 5672
_EMBEDDED = BY_KEY["embedded"]


@contextmanager
def lent_broker(flags: dict[str, Any], is_wanted: bool) -> Iterator[tuple[dict[str, Any], KeptBroker | None]]:
    """Yield the flags, if `is_wanted` with the URL of an embedded broker that runs until the block ends.

    Beside them is that broker, or None. You must call this from the main thread, and the broker's `act` in each turn of
    your loop. Raises ConfigError in production, beside a URL that does not only come from a file, and when no
    broker starts.
    """
    if not is_wanted:
        yield flags, None
        return
    from mxworker.devbroker.process import refuse_production

    source = url_source(flags)
    if source is not None and not _is_overridden():
        raise ConfigError(f"--embedded starts a broker, and {source} names another one.\n  Leave one of them out.")
    refuse_production(os.environ)
    broker = _started()
    try:
        yield {**flags, "embedded": False, "broker_url": (broker.url,), "broker_url_file": None}, broker
    finally:
        broker.stop()


def _is_overridden() -> bool:
    """Tell whether the operator asks for a broker of our own in place of one that only a file names."""
    return rank(_EMBEDDED) > Rank.FILE and all(rank(leaf) <= Rank.FILE for leaf in URL_LEAVES)


def _started() -> KeptBroker:
    """Start a broker on the default port or the next free one."""
    from mxworker.devbroker.keeping import KeptBroker
    from mxworker.devbroker.process import start_broker
    from mxworker.devbroker.settings import Settings
    from mxworker.observer.http.addresses import LOOPBACK, Address, address_of, listen_nearby

    try:
        listening = listen_nearby(Address(LOOPBACK, DEFAULT_PORT))
    except OSError as error:
        raise ConfigError(f"the embedded broker cannot listen on {LOOPBACK}: {error.strerror}.") from error
    settings = Settings(port=address_of(listening).port)
    try:
        broker = start_broker(settings, listening=listening, is_controlled=False)
    except BrokerError as error:
        listening.close()
        raise ConfigError(f"{error}.") from error
    _tell(broker)
    return KeptBroker(broker, settings, listening)


def _tell(broker: BrokerProcess) -> None:
    """Say what it is and where: in a box for people, in a JSON log as one event."""
    from mxworker.devbroker.serving import boxed
    from mxworker.system.log import is_json, say

    moved = (f"Port {DEFAULT_PORT} is in use, so it took {broker.port}.",) if broker.port != DEFAULT_PORT else ()
    if is_json():
        text = "the embedded broker listens at %s; messages are lost when this ends"
        log.warning(text, broker.url, extra=log_event("embedded_broker_started", url=broker.url))
    elif log.isEnabledFor(logging.WARNING):
        say(
            boxed(
                "The embedded broker is for development. Messages are lost when this ends.",
                f"Clients connect to {broker.url}",
                *moved,
            )
        )
