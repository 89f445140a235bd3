"""`mxworker ctl profile`: have a worker of a running service profile itself, and write the result to a file here.

This process writes the file, so it belongs to whoever asks, wherever the service runs and whatever it may write. The
file is new and only its owner may read it; an existing file or link of its name is an error. It is made before the
profile is asked for, so that nobody waits for a result that has no place.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import click

from mxworker.cli.asking import asked, fail, of_service, understood
from mxworker.cli.help import Command
from mxworker.cli.options import DURATION
from mxworker.control import protocol
from mxworker.control.protocol import PROFILE_S
from mxworker.errors import ExitCode
from mxworker.system.printable import foreign

_SECONDS = 10.0
_MOST_BYTES = 64 * 1024 * 1024
_LOOK_EVERY_S = 0.2
_SUFFIXES = {"cpu": ".speedscope.json", "memory": ".txt"}
_HOTTEST = 5


@dataclass(frozen=True, slots=True)
class _Asked:
    """A profile that the service takes; `ask` sends requests to it."""

    ask: Callable[[protocol.Request], dict[str, Any]]
    kind: str
    seconds: float
    number: int
    worker: int


def _lasting(flag: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option for a kind of profile; its value is how long the profile takes."""
    usual = f"{_SECONDS:g}s"
    return click.option(
        flag, type=DURATION, is_flag=False, flag_value=usual, show_default="not taken", help=text.format(usual)
    )


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.OK: "the profile was written",
        ExitCode.RUNTIME: "it was refused, the worker ended meanwhile, or the service does not answer",
        ExitCode.USAGE: "a usage error, or it is not clear which service is meant",
        ExitCode.FORCED: "Ctrl-C has ended the profile",
    },
    examples=("mxworker ctl profile --cpu", "mxworker ctl profile --memory 30s --worker 2 --output leak.txt"),
)
@_lasting(
    "--cpu", "Sample for this long ({} when not said) where the worker spends CPU time, for https://speedscope.app."
)
@_lasting(
    "--memory", "List the lines whose memory grows in this time ({} when not said). Allocations cost more meanwhile."
)
@click.option(
    "--worker",
    type=int,
    metavar="N",
    show_default="the one with most deliveries in flight",
    help="The number of the worker to profile.",
)
@click.option("--output", metavar="PATH", show_default="a new file in the current directory", help="The file to write.")
@of_service
def profile(
    name: str | None,
    control_socket: str | None,
    cpu: float | None,
    memory: float | None,
    worker: int | None,
    output: str | None,
) -> None:
    """Profile a worker while it works, and write the result to a file."""
    wanted = [(kind, seconds) for kind, seconds in (("cpu", cpu), ("memory", memory)) if seconds is not None]
    if len(wanted) != 1:
        raise click.UsageError("Say either --cpu or --memory.")
    ((kind, seconds),) = wanted
    if not PROFILE_S[0] <= seconds <= PROFILE_S[1]:
        raise click.UsageError(f"A profile takes from {PROFILE_S[0]:g} to {PROFILE_S[1]:g} seconds.")

    def ask(request: protocol.Request) -> dict[str, Any]:
        return asked(request, name, control_socket)

    path = output or f"mxworker-{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}{_SUFFIXES[kind]}"
    try:
        with _new_file(path) as fd, _profile_of(ask, kind, seconds, worker) as taken:
            size = _wait(taken)
            result = _fetched(taken, size)
            _write(fd, result)
    except KeyboardInterrupt:
        fail("the profile was ended, and nothing was written.", ExitCode.FORCED)
    click.echo(f"{'CPU' if kind == 'cpu' else 'Memory'} profile of worker {taken.worker}: {foreign(path)}")
    if kind == "cpu":
        with understood():
            click.echo("".join(f"  {line}\n" for line in _summary(json.loads(result), seconds)), nl=False)


@contextmanager
def _new_file(path: str) -> Iterator[int]:
    """Make a file that did not exist, and remove it again when the profile fails."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        fail(f"{foreign(path)} cannot be made: {error.strerror}. Name another file with --output.")
    try:
        yield fd
    except BaseException:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - a path as the operator gave it
        raise
    finally:
        os.close(fd)


@contextmanager
def _profile_of(
    ask: Callable[[protocol.Request], dict[str, Any]], kind: str, seconds: float, worker: int | None
) -> Iterator[_Asked]:
    """Begin a profile, and end it in any case."""
    answer = ask(protocol.Profile(kind, seconds, worker))
    with understood():
        taken = _Asked(ask, kind, seconds, int(answer["number"]), int(answer["worker"]))
    try:
        yield taken
    except KeyboardInterrupt:
        ask(protocol.ProfileEnd(taken.number))
        raise
    ask(protocol.ProfileEnd(taken.number))


def _wait(taken: _Asked) -> int:
    """Wait until the result is complete, and return its size. Exit with an error when the profile has failed."""
    with _progress(taken) as show:
        began: float | None = None
        while True:
            answer = taken.ask(protocol.ProfileState(taken.number))
            with understood():
                if answer["state"] == "done":
                    return int(answer["size"])
                if answer["state"] == "running" and began is None:
                    began = time.monotonic()
            show(0.0 if began is None else time.monotonic() - began)
            time.sleep(_LOOK_EVERY_S)


@contextmanager
def _progress(taken: _Asked) -> Iterator[Callable[[float], None]]:
    """Yield a function that shows how many seconds have passed: in a bar on a terminal, and else not at all."""
    if not sys.stderr.isatty():
        yield lambda passed_s: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} s")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{taken.kind} profile of worker {taken.worker}", total=taken.seconds)
        yield lambda passed_s: progress.update(bar, completed=min(passed_s, taken.seconds))


def _fetched(taken: _Asked, size: int) -> bytes:
    """Return the result, which the service sends in parts."""
    result = bytearray()
    while len(result) < size <= _MOST_BYTES:
        answer = taken.ask(protocol.ProfilePart(taken.number, len(result)))
        with understood():
            part = base64.b64decode(answer["part"], validate=True)
            if not part:
                raise ValueError("the result ends too early")
            result += part
    if size > _MOST_BYTES:
        fail(f"the result has {size} bytes, which is more than {_MOST_BYTES}.")
    return bytes(result)


def _write(fd: int, result: bytes) -> None:
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(result)
    except OSError as error:
        fail(f"the profile cannot be written: {error.strerror}.")


def _summary(document: dict[str, Any], seconds: float) -> Iterator[str]:
    """Yield lines that say how much CPU time was used, and in which functions most of it."""
    frames = document["shared"]["frames"]
    spent_us: Counter[tuple[str, str]] = Counter()
    for thread in document["profiles"]:
        for sample, weight_us in zip(thread["samples"], thread["weights"], strict=True):
            frame = frames[sample[-1]]
            spent_us[frame["name"], frame.get("file", "")] += weight_us
    total_us = spent_us.total()
    yield f"{total_us / 1e6:.2f} s of CPU time in {seconds:g} s"
    for (function, file), us in spent_us.most_common(_HOTTEST):
        yield f"{us / total_us:6.1%}  {foreign(function)}  {foreign(file)}"
