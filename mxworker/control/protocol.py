"""Requests over the control socket, their answers, and where the socket is.

A request is one JSON object on one line: `{"do": "scale", "workers": 4}`. So is its answer: `{"ok": true, ...}`, or
`{"ok": false, "error": "..."}` with a text for the operator. A request with an unknown field is refused.

Pure: `master.control_server` answers requests, `client` sends them. Both find the socket by the same rule, from the
same environment.
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

from mxworker.config.bounds import LOG_LEVELS, MAX_WORKERS
from mxworker.errors import MxWorkerError
from mxworker.system.printable import well_formed

REQUEST_BYTES = 4096
ANSWER_BYTES = 16 * 1024 * 1024
"""The most bytes of an answer. The metrics of 64 handlers and 32 workers take 0.3 MB, those of 512 workers 1 MB.

Only a service whose workers run many generations of differently named handlers has more, and at most 16 times as much.
"""
PROFILE_KINDS = ("cpu", "memory")
PROFILE_S = (0.1, 600.0)
"""The least and the most seconds that a profile takes."""
PROFILE_PART_BYTES = 512 * 1024
"""The size of a part of the result of a profile, which in base64 fits into an answer."""
LOCK_BYTES = 32 * 1024
"""The most that is read of a lock, which is more than two paths and a name."""
ADDRESS_BYTES = 107  # unix(7): sun_path has 108 bytes, the last of which is NUL
PEER_CREDENTIALS = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid and gid of the peer

_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
_NAME_CHARACTERS = 60  # so that the address fits into ADDRESS_BYTES in its usual directory
_HASHED = r"\.[0-9a-f]{8}"
_HASHED_CHARACTERS = 9
SYSTEM_DIRECTORY = Path("/run/mxworker")
"""The directory with the socket of a system unit with RuntimeDirectory=mxworker, which a shell is not told."""


class RequestRefused(MxWorkerError):
    """A request is invalid or cannot be done. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Status:
    """Return the status of the service."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Return the metrics of the service, beside its status."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Replace all workers one by one, so that they load new code."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop consuming `queue`, or all queues."""

    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Undo a `Pause` of the same `queue`, or of all queues."""

    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Change the number of workers."""

    workers: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain and exit, as on SIGTERM."""


@dataclass(frozen=True, slots=True)
class Dump:
    """Make each worker log its running handlers with their stacks."""


@dataclass(frozen=True, slots=True)
class LogLevel:
    """Change the log level of the master and the workers."""

    level: str


@dataclass(frozen=True, slots=True)
class Profile:
    """Take a profile of a worker, by default of the one with most deliveries in flight."""

    kind: str
    """`cpu` or `memory`."""
    seconds: float
    worker: int | None = None


@dataclass(frozen=True, slots=True)
class ProfileState:
    """Return how far a profile is. The one who asked for it must ask this again and again, or it is ended."""

    number: int


@dataclass(frozen=True, slots=True)
class ProfilePart:
    """Return the part of the result of a profile that begins at this byte, in base64."""

    number: int
    at: int


@dataclass(frozen=True, slots=True)
class ProfileEnd:
    """End a profile, or forget its result."""

    number: int


Request = (
    Status
    | Metrics
    | Reload
    | Pause
    | Resume
    | Scale
    | Stop
    | Dump
    | LogLevel
    | Profile
    | ProfileState
    | ProfilePart
    | ProfileEnd
)

_KINDS: Mapping[str, type[Request]] = {
    "status": Status,
    "metrics": Metrics,
    "reload": Reload,
    "pause": Pause,
    "resume": Resume,
    "scale": Scale,
    "stop": Stop,
    "dump": Dump,
    "log-level": LogLevel,
    "profile": Profile,
    "profile-state": ProfileState,
    "profile-part": ProfilePart,
    "profile-end": ProfileEnd,
}


def parse(line: bytes) -> Request:
    """Parse a request. Raises RequestRefused."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RequestRefused(f"a request is a JSON object on one line; this one is not JSON: {error}.") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("do"), str):
        raise RequestRefused('a request is a JSON object that says what to "do", such as {"do": "status"}.')
    do = fields.pop("do")
    if do not in _KINDS:
        raise RequestRefused(f"{_shown(do)} is not a known request. Known are: {', '.join(_KINDS)}.")
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


def _is_kind_of_profile(value: object) -> bool:
    return isinstance(value, str) and value in PROFILE_KINDS


def _is_time_of_profile(value: object) -> bool:
    return type(value) in (int, float) and PROFILE_S[0] <= value <= PROFILE_S[1]  # type: ignore[operator]


def _is_slot(value: object) -> bool:
    return value is None or _is_count(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


_NUMBER = {"number": (True, _is_count, "the number of a profile")}
_QUEUE = {"queue": (False, _is_queue, "the name of a queue")}

# The fields of each request. For each field: whether it is needed, a check of its value, and the values in words.
_FIELDS: Mapping[str, Mapping[str, tuple[bool, Callable[[object], bool], str]]] = {
    "pause": _QUEUE,
    "resume": _QUEUE,
    "scale": {"workers": (True, _is_number_of_workers, f"a number from 1 to {MAX_WORKERS}")},
    "log-level": {"level": (True, _is_log_level, f"one of {', '.join(LOG_LEVELS)}")},
    "profile": {
        "kind": (True, _is_kind_of_profile, f"one of {', '.join(PROFILE_KINDS)}"),
        "seconds": (True, _is_time_of_profile, f"a number from {PROFILE_S[0]} to {PROFILE_S[1]}"),
        "worker": (False, _is_slot, "the number of a worker"),
    },
    "profile-state": _NUMBER,
    "profile-part": {**_NUMBER, "at": (True, _is_count, "a number of bytes")},
    "profile-end": _NUMBER,
}


def line_of(request: Request) -> bytes:
    """Return the line that `parse` turns into `request`, with its line end."""
    do = next(name for name, kind in _KINDS.items() if type(request) is kind)
    fields = {name: getattr(request, name) for name in _FIELDS.get(do, {})}
    return orjson.dumps({"do": do, **fields}) + b"\n"


def refusal(text: str) -> dict[str, Any]:
    """Return the answer that refuses a request."""
    return {"ok": False, "error": text}


def answer_line(answer: Mapping[str, Any]) -> bytes:
    """Return `answer` as a line of at most ANSWER_BYTES bytes; a longer answer becomes a refusal."""
    line = orjson.dumps(answer) + b"\n"
    if len(line) > ANSWER_BYTES:
        return orjson.dumps(refusal(f"the answer would be longer than {ANSWER_BYTES} bytes.")) + b"\n"
    return line


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _listed(fields: Mapping[str, object]) -> str:
    return f"It has: {', '.join(fields)}." if fields else "It has none."


# ---- the place of the socket


@dataclass(frozen=True, slots=True)
class Identity:
    """The name of a service, and the directories in which a command without a name finds it."""

    name: str
    home: str = ""
    """The directory of the application when the name was derived from it. Two directories may give the same name."""
    start: str = ""
    """The directory in which the service was started."""

    @classmethod
    def of_app(cls, app: str, home: Path, start: Path) -> Identity:
        """Return the identity of a service that was given no name: `directory/app`. Both paths must be absolute.

        The root directory has no name, so a service there is named after the application alone.
        """
        target, colon, attribute = app.partition(":")
        short = f"{Path(target).name if target.endswith('.py') else target}{colon}{attribute}"
        return cls(f"{home.name}/{short}", as_text(home), as_text(start)) if home.name else cls(short)

    @property
    def file_name(self) -> str:
        """The file name of the socket, which differs for each directory."""
        return file_name(self.name, self.home)

    @property
    def as_option(self) -> str:
        """The option that names this service on a command line."""
        return f"--name {shlex.quote(self.name)}"

    def is_of(self, directory: str) -> bool:
        """Tell whether the service belongs to `directory`."""
        return bool(self.home) and directory in (self.home, self.start)


def as_text(directory: Path) -> str:
    """Return a directory in the form of an `Identity`, where bytes that are no UTF-8 are escaped."""
    return well_formed(str(directory))


def lock_line(identity: Identity, pid: int) -> bytes:
    """Return the content of the lock beside a socket, which tells other processes whose socket it is."""
    return orjson.dumps(
        {"pid": pid, "name": well_formed(identity.name), "home": identity.home, "start": identity.start}
    )


def parse_lock(line: bytes) -> tuple[Identity, int] | None:
    """Return the service and the pid in a lock, None when the lock cannot be parsed."""
    try:
        fields = orjson.loads(line)
        return Identity(str(fields["name"]), str(fields["home"]), str(fields["start"])), int(fields["pid"])
    except (ValueError, TypeError, KeyError):
        return None


def file_name(name: str, home: str = "") -> str:
    """Return the file name of the socket of the service `name`, which is another one for each name.

    `home` is the directory that the name was derived from; the file name then differs for each directory, too. A given
    name that can be a file name is one. Otherwise characters that do not fit become `-`, a long name is cut, and a
    checksum tells names apart that then look alike.
    """
    stem = _stem(name)
    if not home and stem == name:
        return f"{stem}.sock"
    checksum = zlib.crc32(f"{home}\0{name}".encode("utf-8", "surrogatepass"))
    return f"{stem[: _NAME_CHARACTERS - _HASHED_CHARACTERS]}.{checksum:08x}.sock"


def may_be_of(file: str, name: str) -> bool:
    """Tell whether `file` may be the file name for a service `name` derived from some directory.

    It may be that of another name that looks alike, too.
    """
    stem = re.escape(_stem(name)[: _NAME_CHARACTERS - _HASHED_CHARACTERS])
    return re.fullmatch(f"{stem}{_HASHED}\\.sock", file) is not None


def _stem(name: str) -> str:
    """Return `name` in the form of a file name."""
    return _UNFIT.sub("-", name)[:_NAME_CHARACTERS].lstrip(".")


def directories(environment: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Return the directories for sockets. A service uses the first one that it can use.

    They are the runtime directory of the systemd unit (systemd.exec(5): several are separated by colons), that of the
    user's session, and a directory in /tmp with the user ID.
    """
    unit = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    session = environment.get("XDG_RUNTIME_DIR", "")
    found = [Path(unit)] if unit.startswith("/") else []
    if session.startswith("/"):
        found.append(Path(session, "mxworker"))
    return (*found, Path(f"/tmp/mxworker-{uid}"))  # noqa: S108  its owner and mode are checked
