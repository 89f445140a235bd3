"""Turn the options and the environment into settings that were checked."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mxworker.brokers import Brokers, Tls
from mxworker.cli.options import present_directory
from mxworker.config.limits import Limits
from mxworker.config.overrides import Overrides
from mxworker.config.process import Consumption, Supervision
from mxworker.config.publisher import PublisherSettings
from mxworker.control.protocol import Identity
from mxworker.errors import ConfigError
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

log = logging.getLogger("mxworker")

URL = "MXWORKER_BROKER_URL"
URL_FILE = f"{URL}_FILE"


def hide_urls(title: str) -> None:
    """Hide the URLs, which hold passwords, from other users and from the subprocesses of handlers.

    The process title overwrites the command line and the environment that the kernel shows, up to the first gap, so
    the variable is removed after that. From now on neither this process nor a child of it dumps a core.
    """
    from setproctitle import setproctitle

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    setproctitle(title)
    os.environ.pop(URL, None)


@contextmanager
def errors_told() -> Iterator[None]:
    """Report a ConfigError without a traceback, and exit with its code."""
    try:
        yield
    except ConfigError as error:
        from mxworker.system.log import tell_error

        tell_error(f"Error: {error}", log_event("command_refused", exit_code=error.exit_code))
        sys.exit(error.exit_code)


def check(app: str, flags: dict[str, Any]) -> None:
    """Check all settings but those of the broker. Raises ConfigError."""
    _check(flags)
    _check_code(app, flags)


def url_source(flags: dict[str, Any]) -> str | None:
    """Return the name of what gives the broker URL, None when nothing does."""
    if flags["broker_url"]:
        ctx = click.get_current_context()
        is_typed = ctx.get_parameter_source("broker_url") is click.core.ParameterSource.COMMANDLINE
        return "--broker-url" if is_typed else URL
    return URL_FILE if os.environ.get(URL_FILE) else None


def checked_brokers(ctx: click.Context, flags: dict[str, Any]) -> Brokers:
    """Check the settings of the broker and return them. Raises ConfigError."""
    brokers = _brokers(flags, ctx.info_name or "run")
    is_typed = ctx.get_parameter_source("broker_url") is click.core.ParameterSource.COMMANDLINE
    if is_typed and any(map(_has_password, flags["broker_url"])):
        text = "a password on the command line is visible to others; %s names a file to read it from"
        log.warning(text, URL_FILE, extra=log_event("password_on_command_line"))
    return brokers


def warn_of_root() -> None:
    """Warn about a service that runs as root, unless a service manager started it: then somebody configured that.

    In a user namespace root is an ordinary user. In a container without a user namespace it is not, PID 1 or not.
    """
    is_managed = os.getppid() == 1 or "NOTIFY_SOCKET" in os.environ
    if os.geteuid() == 0 and not is_managed and _is_root_outside():
        log.warning(
            "this runs as root, which handlers seldom need: a fault in a handler can damage the whole machine. Run the "
            "service as its own user: User= or DynamicUser= in a systemd unit, USER in an image, or from a shell "
            "'runuser -u NAME -- mxworker run ...'",
            extra=log_event("running_as_root"),
        )


def _is_root_outside() -> bool:
    """Tell whether root here is root outside too: each line is inside, outside, length (user_namespaces(7))."""
    try:
        first = Path("/proc/self/uid_map").read_text("ascii").split()[:2]
    except OSError:
        return True
    return first[:2] == ["0", "0"]


def _brokers(flags: dict[str, Any], command: str) -> Brokers:
    """Return the brokers, after checking the files for TLS."""
    urls = flags["broker_url"] or _urls_from_file()
    if not urls:
        raise ConfigError(
            "no broker URL.\n"
            f"  Try:  mxworker {command} APP --broker-url amqp://user:password@host/\n"
            f"  or set {URL}, or let {URL_FILE} name a file that holds it.\n"
            "  Without RabbitMQ, for development:  mxworker run APP --embedded, or mxworker dev APP"
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
    """Refuse code that others could change, or with --insecure-app-dir log a warning."""
    from mxworker.worker.code_access import ALL_THE_SAME, CodeNotOurs, check_places

    try:
        check_places(app, flags["app_dir"])
    except CodeNotOurs as error:
        if not flags["insecure_app_dir"]:
            raise
        facts = log_event("insecure_code_accepted")
        log.warning("%s: %s", ALL_THE_SAME, str(error).partition("\n")[0], extra=facts)


def identity(app: str, flags: Mapping[str, Any]) -> Identity:
    """Return the identity of the service: the operator's name for it, or one derived from the app and its directory."""
    if flags["name"]:
        return Identity(flags["name"])
    start = present_directory()
    target = app.partition(":")[0]
    home = Path(target).parent if target.endswith(".py") else Path(flags["app_dir"] or "")
    return Identity.of_app(app, (start / home).resolve(), start)


def wanted_queues(flags: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the queues to consume, () for all."""
    return tuple(name.strip() for name in (flags["queues"] or "").split(",") if name.strip())


def supervision(name: str, workers: int, flags: dict[str, Any]) -> Supervision:
    """Return the settings of the master."""
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
    """Return the settings of a worker."""
    return Consumption(
        app=app,
        brokers=brokers,
        app_dir=flags["app_dir"],
        may_be_insecure=flags["insecure_app_dir"],
        queues=wanted_queues(flags),
        overrides=Overrides(flags["concurrency"], flags["prefetch"], flags["handler_timeout"]),
        prefetch_budget_bytes=flags["prefetch_budget"],
        max_body_bytes=flags["max_body_size"],
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
