"""From what was typed, and what stands in the environment, to settings that are known to be usable."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mxworker.brokers import Brokers, Tls
from mxworker.cli.options import present_directory
from mxworker.config import Consumption, PublisherSettings, Supervision
from mxworker.control.protocol import Identity
from mxworker.errors import ConfigError
from mxworker.limits import Limits
from mxworker.system.printable import foreign

log = logging.getLogger("mxworker")

URL = "MXWORKER_BROKER_URL"
URL_FILE = f"{URL}_FILE"


def hide_urls(title: str) -> None:
    """Wipe the URLs, for the passwords in them, from where others read them, and from what handlers' subprocesses get.

    The title overwrites the command line and the environment where the kernel shows them. It does so up to the first
    gap, so that the variable is taken out after it. From now on neither this process nor a child of it leaves a core.
    """
    from setproctitle import setproctitle

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    setproctitle(title)
    os.environ.pop(URL, None)


@contextmanager
def errors_told() -> Iterator[None]:
    """Say what is wrong with a setting, without a traceback, and exit."""
    try:
        yield
    except ConfigError as error:
        from mxworker.system.log import tell_error

        tell_error(f"Error: {error}", exit_code=error.exit_code)
        sys.exit(error.exit_code)


def checked(ctx: click.Context, flags: dict[str, Any]) -> Brokers:
    """Return the brokers, with all settings found to be usable. Raises ConfigError."""
    brokers = _brokers(flags, ctx.info_name or "run")
    _check(flags)
    _check_code(ctx.params["app"], flags)
    is_typed = ctx.get_parameter_source("broker_url") is click.core.ParameterSource.COMMANDLINE
    if is_typed and any(map(_has_password, flags["broker_url"])):
        log.warning("a password on the command line is visible to others; %s names a file to read it from", URL_FILE)
    return brokers


def warn_of_root() -> None:
    """Warn of a service as root, unless a service manager started it so: that was written down by somebody.

    In a user namespace root is an ordinary user. In a container without one it is not, PID 1 or not.
    """
    is_managed = os.getppid() == 1 or "NOTIFY_SOCKET" in os.environ
    if os.geteuid() == 0 and not is_managed and _is_root_outside():
        log.warning(
            "this runs as root, which handlers seldom need: a fault in one of them costs the machine. Run it as a "
            "user of its own: User= or DynamicUser= in a systemd unit, USER in an image, or from a shell "
            "'runuser -u NAME -- mxworker run ...'"
        )


def _is_root_outside() -> bool:
    """Whether root is root for the kernel, too: user_namespaces(7), a line says inside, outside, length."""
    try:
        first = Path("/proc/self/uid_map").read_text("ascii").split()[:2]
    except OSError:
        return True
    return first[:2] == ["0", "0"]


def _brokers(flags: dict[str, Any], command: str) -> Brokers:
    """Return the brokers, with every file that TLS needs found to be usable."""
    urls = flags["broker_url"] or _urls_from_file()
    if not urls:
        raise ConfigError(
            "no broker URL.\n"
            f"  Try:  mxworker {command} APP --broker-url amqp://user:password@host/\n"
            f"  or set {URL}, or let {URL_FILE} name a file that holds it."
        )
    tls = Tls(flags["tls_ca"], flags["tls_cert"], flags["tls_key"])
    brokers = Brokers.parse(urls, flags["broker_shuffle"], tls)
    if brokers.urls[0].is_tls:
        from mxworker.amqp.connecting.tls import check_files

        check_files(tls)
    return brokers


def _urls_from_file() -> list[str]:
    from mxworker.system.secret_files import check_secret

    path = os.environ.get(URL_FILE)
    if not path:
        return []
    try:
        check_secret(URL_FILE, path)
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{URL_FILE} names '{foreign(path)}', which cannot be read: {foreign(error)}.") from error
    return [line for line in lines if line.strip()]


def _has_password(url: str) -> bool:
    return "@" in url and ":" in url.partition("://")[2].rpartition("@")[0]


def _check(flags: dict[str, Any]) -> None:
    for name in ("handler_timeout", "heartbeat_timeout", "boot_timeout"):
        if flags[name] is not None and flags[name] <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be longer than 0.")
    for name in ("max_messages", "max_rss", "max_age"):
        if flags[name] is not None and flags["burst"]:
            raise ConfigError(
                f"--burst and --{name.replace('_', '-')} exclude each other: in a burst no worker is replaced."
            )
    if flags["heartbeat_timeout"] < 2:
        raise ConfigError("--heartbeat-timeout must be at least 2s: workers beat once a second.")


def _check_code(app: str, flags: dict[str, Any]) -> None:
    """Refuse code that others could change; the operator may say that it is meant, which is told."""
    from mxworker.worker.code_access import ALL_THE_SAME, CodeNotOurs, check_places

    try:
        check_places(app, flags["app_dir"])
    except CodeNotOurs as error:
        if not flags["insecure_app_dir"]:
            raise
        log.warning("%s: %s", ALL_THE_SAME, str(error).partition("\n")[0])


def identity(app: str, flags: dict[str, Any]) -> Identity:
    """Return what the service is called: as the operator says, or by the app and the directory that it is in."""
    if flags["name"]:
        return Identity(flags["name"])
    start = present_directory()
    target = app.partition(":")[0]
    home = Path(target).parent if target.endswith(".py") else Path(flags["app_dir"] or "")
    return Identity.of_app(app, (start / home).resolve(), start)


def supervision(name: str, workers: int, flags: dict[str, Any]) -> Supervision:
    """Return what the master has to know."""
    return Supervision(
        name=name,
        workers=workers,
        drain_timeout_s=flags["drain_timeout"],
        heartbeat_timeout_s=flags["heartbeat_timeout"],
        boot_timeout_s=flags["boot_timeout"],
        burst=flags["burst"],
        quarantine_after=flags["quarantine_after"],
    )


def consumption(app: str, brokers: Brokers, flags: dict[str, Any]) -> Consumption:
    """Return what a worker has to know."""
    return Consumption(
        app=app,
        brokers=brokers,
        app_dir=flags["app_dir"],
        may_be_insecure=flags["insecure_app_dir"],
        queues=tuple(name.strip() for name in (flags["queues"] or "").split(",") if name.strip()),
        concurrency=flags["concurrency"],
        prefetch=flags["prefetch"],
        prefetch_budget_bytes=flags["prefetch_budget"],
        max_body_bytes=flags["max_body_size"],
        handler_timeout_s=flags["handler_timeout"],
        process_concurrency=flags["process_concurrency"],
        drain_timeout_s=flags["drain_timeout"],
        heartbeat_timeout_s=flags["heartbeat_timeout"],
        boot_timeout_s=flags["boot_timeout"],
        connect_wait_s=flags["connect_wait"],
        burst=flags["burst"],
        limits=Limits(flags["max_messages"], flags["max_rss"], flags["max_age"]),
        quarantine_after=flags["quarantine_after"],
        publisher=PublisherSettings(retry_unconfirmed=True, max_body_bytes=flags["max_publish_size"]),
    )
