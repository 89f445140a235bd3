"""Requests over the control socket, their answers, and where the socket is.

One request is one JSON object on one line: `{"do": "scale", "workers": 4}`. So is its answer: `{"ok": true, ...}`, or
`{"ok": false, "error": "..."}` with a text for the operator. What a request does not know is refused, never ignored.

Pure: `master.control` serves, `remote` asks. Both find the socket by the same rule, from the same environment.
"""

from __future__ import annotations

import re
import shlex
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mxworker.config import MAX_WORKERS
from mxworker.errors import MxWorkerError
from mxworker.system.printable import well_formed

REQUEST_BYTES = 4096
ANSWER_BYTES = 1024 * 1024
LOCK_BYTES = 32 * 1024
"""What is read of a lock: more than two paths and a name take."""
ADDRESS_BYTES = 107  # unix(7): sun_path has 108 bytes, the last of which is NUL
PEER_CREDENTIALS = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid and gid of who is at the other end
LOG_LEVELS = ("debug", "info", "warning", "error")

_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
_NAME_CHARACTERS = 60  # so that, in its usual directory, the address stays short enough
_HASHED = r"\.[0-9a-f]{8}"
_HASHED_CHARACTERS = 9
SYSTEM_DIRECTORY = Path("/run/mxworker")
"""Where a system unit with RuntimeDirectory=mxworker has its socket, for an operator whose shell is not told so."""


class RequestRefused(MxWorkerError):
    """A request cannot be understood, or cannot be done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Status:
    """Tell how the service is."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Replace all workers, one by one, by ones that load the code anew."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Consume `queue` no more, or no queue."""

    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Take back a `Pause` of the same `queue`, or the one of all."""

    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Have so many workers."""

    workers: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain and end, as SIGTERM does."""


@dataclass(frozen=True, slots=True)
class Dump:
    """Have each worker log what it runs, with stacks."""


@dataclass(frozen=True, slots=True)
class LogLevel:
    """Log from `level` on, master and workers."""

    level: str


Request = Status | Reload | Pause | Resume | Scale | Stop | Dump | LogLevel

_KINDS: Mapping[str, type[Request]] = {
    "status": Status,
    "reload": Reload,
    "pause": Pause,
    "resume": Resume,
    "scale": Scale,
    "stop": Stop,
    "dump": Dump,
    "log-level": LogLevel,
}


def parse(line: bytes) -> Request:
    """Return the request that `line` is; raise RequestRefused for anything else."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RequestRefused(f"a request is a JSON object on one line; this is none: {error}.") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("do"), str):
        raise RequestRefused('a request is a JSON object that says what to "do", such as {"do": "status"}.')
    do = fields.pop("do")
    if do not in _KINDS:
        raise RequestRefused(f"nobody here knows how to do {_shown(do)}. Known are: {', '.join(_KINDS)}.")
    known = _FIELDS.get(do, {})
    for name in fields:
        if name not in known:
            raise RequestRefused(f"{do} has no field {_shown(name)}. {_listed(known)}")
    for name, (is_needed, _, _) in known.items():
        if is_needed and name not in fields:
            raise RequestRefused(f"{do} needs the field '{name}'.")
    for name, value in fields.items():
        _, fits, what = known[name]
        if not fits(value):
            raise RequestRefused(f"{do}: '{name}' is {_shown(value)}, but must be {what}.")
    return _KINDS[do](**fields)


def _is_queue(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_number_of_workers(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_WORKERS


def _is_log_level(value: object) -> bool:
    return isinstance(value, str) and value in LOG_LEVELS


_QUEUE = {"queue": (False, _is_queue, "the name of a queue")}

# By request: its fields; for each, whether it is needed, which values fit, and how to say that.
_FIELDS: Mapping[str, Mapping[str, tuple[bool, Callable[[object], bool], str]]] = {
    "pause": _QUEUE,
    "resume": _QUEUE,
    "scale": {"workers": (True, _is_number_of_workers, f"a number from 1 to {MAX_WORKERS}")},
    "log-level": {"level": (True, _is_log_level, f"one of {', '.join(LOG_LEVELS)}")},
}


def line_of(request: Request) -> bytes:
    """Return the line that `parse` turns into `request`, with its end."""
    do = next(name for name, kind in _KINDS.items() if type(request) is kind)
    fields = {name: getattr(request, name) for name in _FIELDS.get(do, {})}
    return orjson.dumps({"do": do, **fields}) + b"\n"


def refusal(text: str) -> dict[str, Any]:
    """Return the answer to a request that was refused."""
    return {"ok": False, "error": text}


def answer_line(answer: Mapping[str, Any]) -> bytes:
    """Return `answer` as a line of at most ANSWER_BYTES bytes; one that would be longer becomes a refusal."""
    line = orjson.dumps(answer) + b"\n"
    if len(line) > ANSWER_BYTES:
        return orjson.dumps(refusal(f"the answer would be longer than {ANSWER_BYTES} bytes.")) + b"\n"
    return line


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _listed(fields: Mapping[str, object]) -> str:
    return f"It has: {', '.join(fields)}." if fields else "It has none."


# ---- where the socket is


@dataclass(frozen=True, slots=True)
class Identity:
    """What a service is called, and the directories in which somebody who gives no name means it."""

    name: str
    home: str = ""
    """The directory of the application, when the name was made of it: those of two directories may be the same."""
    start: str = ""
    """The directory that the service was started in."""

    @classmethod
    def of_app(cls, app: str, home: Path, start: Path) -> Identity:
        """Return that of a service without a name of its own: `directory/app`. Both paths are absolute.

        The root directory has no name, and what is started there is called as the application alone.
        """
        target, colon, attribute = app.partition(":")
        short = f"{Path(target).name if target.endswith('.py') else target}{colon}{attribute}"
        return cls(f"{home.name}/{short}", as_text(home), as_text(start)) if home.name else cls(short)

    @property
    def file_name(self) -> str:
        """The file name of its socket, which no two directories share."""
        return file_name(self.name, self.home)

    @property
    def as_option(self) -> str:
        """How to name it on a command line."""
        return f"--name {shlex.quote(self.name)}"

    def is_of(self, directory: str) -> bool:
        """Whether it belongs to `directory`."""
        return bool(self.home) and directory in (self.home, self.start)


def as_text(directory: Path) -> str:
    """Return a directory as an `Identity` has it; one whose name is no UTF-8 is written with escapes."""
    return well_formed(str(directory))


def lock_line(identity: Identity, pid: int) -> bytes:
    """Return what stands in the lock beside the socket of a service, for who asks whose it is."""
    return orjson.dumps(
        {"pid": pid, "name": well_formed(identity.name), "home": identity.home, "start": identity.start}
    )


def parse_lock(line: bytes) -> tuple[Identity, int] | None:
    """Return the service and the process that a lock is of; None when it does not say."""
    try:
        fields = orjson.loads(line)
        return Identity(str(fields["name"]), str(fields["home"]), str(fields["start"])), int(fields["pid"])
    except (ValueError, TypeError, KeyError):
        return None


def file_name(name: str, home: str = "") -> str:
    """Return the file name of the socket of the service `name`; what does not fit into one becomes `-`.

    With `home`, a directory of which the name is one of many, the file is that directory's alone.
    """
    stem = _UNFIT.sub("-", name)[:_NAME_CHARACTERS].lstrip(".")
    if not home:
        return f"{stem}.sock"
    checksum = zlib.crc32(home.encode("utf-8", "surrogateescape"))
    return f"{stem[: _NAME_CHARACTERS - _HASHED_CHARACTERS]}.{checksum:08x}.sock"


def may_be_of(file: str, name: str) -> bool:
    """Whether `file` is that of the socket of a service `name` in some directory."""
    stem = re.escape(file_name(name).removesuffix(".sock")[: _NAME_CHARACTERS - _HASHED_CHARACTERS])
    return re.fullmatch(f"{stem}{_HASHED}\\.sock", file) is not None


def directories(environment: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Return where sockets may be; a service puts its own into the first one that it can use.

    That is what systemd made for the unit (systemd.exec(5): several are separated by colons), what the session has for
    its user, or a directory in /tmp with the number of the user.
    """
    unit = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    session = environment.get("XDG_RUNTIME_DIR", "")
    found = [Path(unit)] if unit.startswith("/") else []
    if session.startswith("/"):
        found.append(Path(session, "mxworker"))
    return (*found, Path(f"/tmp/mxworker-{uid}"))  # noqa: S108  its owner and mode are checked
