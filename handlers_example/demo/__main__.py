"""Start the shop on two workers, send it orders, wait until every order is accounted for, stop it, and sum up.

    python -m handlers_example.demo

It runs on the embedded broker, or on the broker that MXWORKER_BROKER_URL names. The demo creates and deletes its own
queues. Exit codes: 0 every order has met its right end, 1 some have not, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from handlers_example.demo.service import ServiceFailed
from handlers_example.demo.story import DemoFailed, Plan, demonstrate
from mxworker.brokers import BrokerUrl
from mxworker.devbroker.process import start_broker
from mxworker.errors import BrokerError, ConfigError, PublishError

_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130
_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _read_url(_context: click.Context, _option: click.Parameter, text: str | None) -> BrokerUrl | None:
    if text is None:
        return None
    try:
        return BrokerUrl.parse(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def _new_folder(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise click.BadParameter(f"'{path}' is not empty.")
    except OSError as error:
        raise click.BadParameter(f"'{path}' cannot be used: {error.strerror}.") from error
    return path.resolve()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--orders", type=click.IntRange(100), default=10_000, show_default=True, help="How many orders to send.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=_new_folder,
    help="A new or empty folder for the files of the shop; default: a temporary one, deleted at the end.",
)
@click.option(
    "--patience",
    type=click.FloatRange(1),
    default=30.0,
    show_default=True,
    help="Give up after this many seconds without any progress.",
)
@click.option(
    "--broker-url",
    envvar="MXWORKER_BROKER_URL",
    show_envvar=True,
    callback=_read_url,
    help="The address of RabbitMQ; default: an embedded broker, which ends with the demo.",
)
def main(orders: int, out: Path | None, patience: float, broker_url: BrokerUrl | None) -> None:
    """Run a shop on two workers: send it orders, some of them bad, and account for every order."""
    for library in ("aio_pika", "aiormq", "mxworker"):  # they would report a lost broker a second time
        logging.getLogger(library).addHandler(logging.NullHandler())
    with _broker(broker_url) as url:
        folder = out or Path(tempfile.mkdtemp(prefix="mxworker-demo-"))
        code = asyncio.run(_run(Plan(url, orders, folder, patience)))
    if out is None and code != _FAILED:
        shutil.rmtree(folder)
    elif code != _INTERRUPTED:
        click.echo(f"What the shop wrote, and its log: {folder}", err=True)
    if code == 0:
        click.echo(_how_to_go_on())
    sys.exit(code)


@contextmanager
def _broker(named: BrokerUrl | None) -> Iterator[BrokerUrl]:
    """Lend the broker that was named, otherwise an embedded one that ends with the block."""
    if named is not None:
        yield named
        return
    os.environ.pop("INVOCATION_ID", None)  # a terminal or a runner that systemd has started makes no service of a demo
    try:
        broker = start_broker(is_controlled=False)
    except (ConfigError, BrokerError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_USAGE if isinstance(error, ConfigError) else _FAILED)
    with broker:
        yield BrokerUrl.parse(broker.url)


async def _run(plan: Plan) -> int:
    """Run the demo until it ends or a signal comes; return the exit code."""
    cancel_on_first_signal()
    try:
        summary = await demonstrate(plan)
    except asyncio.CancelledError:
        click.echo("Interrupted. The service has finished its running handlers and stopped.", err=True)
        return _INTERRUPTED
    except (DemoFailed, ServiceFailed, BrokerError, PublishError) as error:
        click.echo(f"Error: {error}", err=True)
        return _INTERRUPTED if _task().cancelling() else _FAILED
    click.echo(f"{summary}\n\nEvery order has met its right end.")
    return 0


def cancel_on_first_signal() -> None:
    """Let the first of INT, TERM and HUP cancel the running task; ignore later ones.

    The service gets a terminal's Ctrl-C too: a second one makes it stop sooner, which ends our wait for it.
    `Task.cancelling()` cannot tell whether a signal is the first one, because a timeout that ends in the same loop turn
    counts there too.
    """
    task, loop = _task(), asyncio.get_running_loop()

    def cancel() -> None:
        for signum in _INTERRUPTING:
            loop.add_signal_handler(signum, lambda: None)
        task.cancel()

    for signum in _INTERRUPTING:
        loop.add_signal_handler(signum, cancel)


def _how_to_go_on() -> str:
    """Return the next steps, with commands that work in the directory where the demo was started."""
    command = Path(sys.executable).with_name("mxworker")
    mxworker = os.path.relpath(command) if command.exists() else "mxworker"
    return (
        "\n"
        "The handlers are in handlers_example/shop.py. README.md explains how they work.\n"
        "To run them without RabbitMQ, and to reload them when you edit them:\n"
        f"  {mxworker} dev handlers_example.shop\n"
        "To run them on your own RabbitMQ:\n"
        "  export MXWORKER_BROKER_URL=amqp://guest:guest@localhost/\n"
        f"  {mxworker} run handlers_example.shop"
    )


def _task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task


if __name__ == "__main__":
    main()
