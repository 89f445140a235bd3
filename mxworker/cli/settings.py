"""Turn the options and the environment into settings that were checked."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import click

from mxworker.brokers import Brokers, Tls, has_password
from mxworker.cli.config import sources
from mxworker.cli.config.options import BY_KEY, LEAVES
from mxworker.cli.config.sources import Rank
from mxworker.cli.help import Command
from mxworker.cli.options import present_directory
from mxworker.config.kinds import Shared
from mxworker.config.leaf import Leaf, leaves, with_values
from mxworker.config.overrides import AS_IN_CODE, Overrides
from mxworker.config.process import Consumption, Supervision
from mxworker.config.tree import DEFAULTS, Settings
from mxworker.control.protocol import Identity
from mxworker.errors import ConfigError
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

log = logging.getLogger("mxworker")

_URL = BY_KEY["broker-url"]
_URL_FILE = BY_KEY["broker-url-file"]
URL_LEAVES = (_URL, _URL_FILE)
URL = _URL.variable
URL_FILE = _URL_FILE.variable


def hide_urls(title: str) -> None:
    """Hide the URLs, which hold passwords, from other users and from the subprocesses of handlers.

    The process title overwrites the command line and the environment that the kernel shows, up to the first gap, so
    the variable is removed after that. From now on neither this process nor a child of it dumps a core.
    """
    from setproctitle import setproctitle

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    setproctitle(title)
    os.environ.pop(URL, None)


class ServiceCommand(Command):
    """A command that runs a service. In a JSON log a mistake in its command line is a record, as other errors are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        given = args.copy()
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if isinstance(error, click.NoSuchOption) and error.option_name.removeprefix("--") == "reload":
                error = click.UsageError(
                    f"there is no option '{error.option_name}'.\n  Try:  mxworker dev APP, which reloads.", ctx
                )
            from mxworker.system.log import is_text, set_up

            log_format = _format_in(given)
            if is_text(log_format):
                raise error from None
            set_up("error", log_format)
            _refuse(error.format_message(), error.exit_code)


def _format_in(args: list[str]) -> str:
    """Return the format of the log that a command line asks for, which could not be read as a whole."""
    leaf = BY_KEY["log-format"]
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--") else [arg])]
    named = [word for flag, word in pairwise(words) if flag == leaf.flag]
    asked = (*named, os.environ.get(leaf.variable, ""))
    return next((each for each in asked if leaf.kind.allows(each)), "auto")


@contextmanager
def errors_told() -> Iterator[None]:
    """Report a ConfigError without a traceback, and exit with its code."""
    try:
        yield
    except ConfigError as error:
        _refuse(f"Error: {error}", error.exit_code)


def _refuse(text: str, exit_code: int) -> NoReturn:
    from mxworker.system.log import tell_error

    tell_error(text, log_event("command_refused", exit_code=exit_code))
    sys.exit(exit_code)


def check(app: str, flags: dict[str, Any]) -> None:
    """Check all settings but those of the broker. Raises ConfigError."""
    sources.check()
    _check(flags)
    _check_code(app, flags)


def url_source(flags: dict[str, Any]) -> str | None:
    """Return the name of what gives the broker URL, None when nothing does."""
    given = [leaf for leaf in URL_LEAVES if flags[leaf.name]]
    return sources.name_of(max(given, key=sources.rank)) if given else None


def checked_brokers(ctx: click.Context, flags: dict[str, Any]) -> Brokers:
    """Check the settings of the broker and return them. Raises ConfigError."""
    brokers = _brokers(flags, ctx.info_name or "run")
    if is_password_typed(flags):
        text = "a password on the command line is visible to others; %s names a file to read it from"
        log.warning(text, URL_FILE, extra=log_event("password_on_command_line"))
    return brokers


def is_password_typed(flags: Mapping[str, Any]) -> bool:
    """Tell whether the command line has a password of the broker, which other users see."""
    return sources.rank(_URL) is Rank.FLAG and any(map(has_password, flags["broker_url"]))


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
    urls = _urls(flags)
    if not urls:
        raise ConfigError(
            "no broker URL.\n"
            f"  Try:  mxworker {command} APP --broker-url amqp://user:password@host/\n"
            f"  or set {URL}, or let {URL_FILE} name a file that holds it.\n"
            "  Without RabbitMQ, for development:  mxworker run APP --embedded, or mxworker dev APP"
        )
    tls = tls_of(flags)
    brokers = Brokers.parse(urls, flags["broker_shuffle"], tls, int(flags["broker_heartbeat"]))
    if brokers.urls[0].is_tls:
        from mxworker.amqp.connecting.tls import check_files

        check_files(tls)
    return brokers


def tls_of(flags: Mapping[str, Any]) -> Tls:
    """Return the files for TLS."""
    return Tls(flags["tls_ca"], flags["tls_cert"], flags["tls_key"])


def _urls(flags: dict[str, Any]) -> list[str]:
    """Return the URLs of what counts more: those that are given, or those in the file that is named."""
    urls, path = list(flags["broker_url"]), flags["broker_url_file"]
    if urls and path and sources.rank(_URL) == sources.rank(_URL_FILE):
        if sources.rank(_URL) is not Rank.VARIABLE:
            raise ConfigError(f"{sources.name_of(_URL)} and {sources.name_of(_URL_FILE)} exclude each other.")
        return urls
    if not path or (urls and sources.rank(_URL) > sources.rank(_URL_FILE)):
        return urls
    return _urls_from(path)


def _urls_from(path: str) -> list[str]:
    from mxworker.system.secret_files import check_secret

    what = sources.name_of(_URL_FILE)
    try:
        check_secret(what, path)
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} names '{foreign(path)}', which cannot be read: {foreign(error)}.") from error
    return [line for line in lines if line.strip()]


def _check(flags: dict[str, Any]) -> None:
    for name in ("max_messages", "max_rss", "max_age"):
        if flags[name] is not None and flags["burst"]:
            raise ConfigError(
                f"--burst and --{name.replace('_', '-')} exclude each other: in a burst no worker is replaced."
            )


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


def tree(flags: Mapping[str, Any], workers: int) -> Settings:
    """Return the settings tree of a service with so many workers. Raises ConfigError for what cannot go together."""
    from mxworker.payloads.compression import compression_of

    values = {leaf.path: _value(leaf, flags[leaf.name], workers) for leaf in LEAVES}
    settings: Settings = with_values(DEFAULTS, values)
    compression_of(settings.publisher)  # it may need an extra
    return settings


def _value(leaf: Leaf, value: Any, workers: int) -> Any:
    if isinstance(value, Shared):
        return value.of(workers)
    return leaf.default if value is None else value


def supervision(name: str, workers: int, settings: Settings) -> Supervision:
    """Return the settings of the master."""
    return Supervision(
        name=name,
        workers=workers,
        drain_timeout_s=settings.limits.drain_timeout_s,
        heartbeat_timeout_s=settings.supervision.heartbeat_timeout_s,
        boot_timeout_s=settings.supervision.boot_timeout_s,
        burst=settings.application.burst,
        quarantine_after=settings.limits.quarantine_after,
    )


def queue_overrides(settings: Settings, workers: int) -> dict[str, Overrides]:
    """Return the values for handlers of queues that have a table of their own in a file.

    A flag or a variable, which is for all queues, counts more than such a table.
    """
    free = [leaf for leaf in leaves(AS_IN_CODE) if sources.rank(leaf) <= Rank.FILE]
    return {
        queue: replace(
            settings.handlers,
            **{leaf.path[-1]: _value(leaf, values[leaf.key], workers) for leaf in free if leaf.key in values},
        )
        for queue, values in sources.sources().queues().items()
    }


def consumption(app: str, brokers: Brokers, settings: Settings, of_queue: Mapping[str, Overrides]) -> Consumption:
    """Return the settings of a worker."""
    return Consumption(
        app=app,
        brokers=brokers,
        app_dir=settings.application.app_dir,
        may_be_insecure=settings.application.insecure_app_dir,
        queues=settings.application.queues,
        exclude_queues=settings.application.exclude_queues,
        overrides=settings.handlers,
        queue_overrides=of_queue,
        prefetch_budget_bytes=settings.concurrency.prefetch_budget_bytes,
        max_body_bytes=settings.limits.max_body_bytes,
        process_concurrency=settings.concurrency.process_concurrency,
        drain_timeout_s=settings.limits.drain_timeout_s,
        heartbeat_timeout_s=settings.supervision.heartbeat_timeout_s,
        boot_timeout_s=settings.supervision.boot_timeout_s,
        connect_wait_s=settings.broker.connect_wait_s,
        burst=settings.application.burst,
        limits=settings.limits.replace_after,
        quarantine_after=settings.limits.quarantine_after,
        pool=settings.pool,
        publisher=settings.publisher,
        given=frozenset(leaf.path for leaf in LEAVES if sources.rank(leaf) > Rank.DEFAULT),
    )
