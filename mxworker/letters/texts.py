"""Letters as text for people, and as JSON. All foreign text is printable then.

Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mxworker.letters.letter import Letter, Original
from mxworker.letters.summary import KINDS, Summary, in_order
from mxworker.system.printable import CUT, foreign, printable
from mxworker.wire.properties import Properties

KEY_CHARACTERS = 12
BODY_CHARACTERS = 65_536

_MOST_ROWS = 20
_ERROR_CHARACTERS = 160
_UNITS = ("kB", "MB", "GB")
_NAMES = ("content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to", "expiration")
_MORE_NAMES = ("message_id", "timestamp", "type", "user_id", "app_id")


def summary_text(name: str, matching: Summary, there: int) -> str:
    """Return the counts of the matching letters, of the `there` letters of a queue."""
    return "\n".join(_summary_lines(name, matching, there))


def _summary_lines(name: str, matching: Summary, there: int) -> Iterator[str]:
    of_all = "" if matching.letters == there else f" of {there:,}"
    yield f"{name}: {matching.letters:,}{of_all} {_plural(matching.letters, 'letter')}, {_size(matching.body_bytes)}"
    if matching.oldest is not None and matching.newest is not None:
        yield f"from {_moment(matching.oldest)} to {_moment(matching.newest)} UTC"
    for kind in KINDS:
        rows = in_order(kind, matching.by[kind])
        if not rows:
            continue
        shown = rows[-_MOST_ROWS:] if kind == "hour" else rows[:_MOST_ROWS]
        yield f"\nby {kind}"
        yield from (f"  {count:>9,}  {foreign(text)}" for text, count in shown)
        if len(rows) > len(shown):
            where = "earlier" if kind == "hour" else "more"
            yield f"  {sum(count for _, count in rows) - sum(count for _, count in shown):>9,}  {where}"


def summary_json(name: str, matching: Summary, there: int) -> dict[str, Any]:
    """Return the counts as values of JSON."""
    return {
        "queue": name,
        "there": there,
        "letters": matching.letters,
        "body_bytes": matching.body_bytes,
        "oldest": _iso(matching.oldest),
        "newest": _iso(matching.newest),
        **{f"by_{kind.replace(' ', '_')}": dict(in_order(kind, matching.by[kind])) for kind in KINDS},
    }


def line(letter: Letter) -> str:
    """Return a letter on one line: when, which, why, where, and what was wrong."""
    error = ": ".join(foreign(text) for text in (letter.error_type, letter.error) if text)
    facts = ", ".join(_facts(letter))
    return (
        f"{_moment(letter.failed_at)}  {letter.key[:KEY_CHARACTERS]}  {foreign(letter.reason or '-')}  "
        f"{foreign(letter.handler or '-')}  {_cut(error or '-', _ERROR_CHARACTERS)}  ({facts})"
    )


def _facts(letter: Letter) -> Iterator[str]:
    if letter.message_id is not None:
        yield f"id {foreign(letter.message_id)}"
    if letter.attempts is not None:
        yield f"{letter.attempts} {_plural(letter.attempts, 'attempt')}"
    if letter.replays:
        yield f"{letter.replays} {_plural(letter.replays, 'replay')}"
    yield _size(letter.body_bytes)


def letter_json(letter: Letter) -> dict[str, Any]:
    """Return the facts of a letter as values of JSON."""
    return {
        "key": letter.key,
        "message_id": letter.message_id,
        "queue": letter.queue,
        "handler": letter.handler,
        "reason": letter.reason,
        "error_type": letter.error_type,
        "error": letter.error,
        "failed_at": _iso(letter.failed_at),
        "attempts": letter.attempts,
        "replays": letter.replays,
        "delivery_count": letter.delivery_count,
        "content_type": letter.content_type,
        "body_bytes": letter.body_bytes,
    }


def audit_line(done: str, letter: Letter, source: str, target: str, at: float) -> str:
    """Return the line that tells what was done to a letter."""
    identity = f"{letter.key} id {foreign(letter.message_id)}" if letter.message_id is not None else letter.key
    return f"{_moment(at)}  {done} {identity} from {source} to {target}"


def audit_json(done: str, letter: Letter, source: str, target: str, at: float) -> dict[str, Any]:
    """Return what was done to a letter as values of JSON."""
    return {
        "event": done,
        "at": _iso(at),
        "key": letter.key,
        "message_id": letter.message_id,
        "from": source,
        "to": target,
        "replays": letter.replays,
    }


def page(letter: Letter, original: Original) -> str:
    """Return all of a letter, with its headers and the beginning of its body."""
    return "\n".join(_page_lines(letter, original))


def _page_lines(letter: Letter, original: Original) -> Iterator[str]:
    facts = {**letter_json(letter), "failed_at": _moment(letter.failed_at)}
    yield f"letter {letter.key}"
    yield from _rows({name: value for name, value in facts.items() if name != "key"})
    yield "properties"
    properties = Properties(original.raw_properties)
    yield from _rows({name: getattr(properties, name) for name in (*_NAMES, *_MORE_NAMES)})
    yield "headers"
    yield from _rows(letter.headers)
    yield f"body, {_size(len(original.body))}"
    yield _body(original.body)


def _rows(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"  {foreign(name):<20} {foreign(value)}" for name, value in values.items() if value is not None)


def _body(body: bytes) -> str:
    try:
        text = "\n".join(f"  {printable(line)}" for line in body.decode().split("\n"))
    except UnicodeDecodeError:
        text = f"  {body[:BODY_CHARACTERS].hex(' ')}"
    return _cut(text, BODY_CHARACTERS)


def page_json(letter: Letter, original: Original) -> dict[str, Any]:
    """Return all of a letter as values of JSON."""
    properties = Properties(original.raw_properties)
    return {
        **letter_json(letter),
        "properties": {
            name: value for name in (*_NAMES, *_MORE_NAMES) if (value := getattr(properties, name)) is not None
        },
        "headers": _plain(letter.headers),
        **body_json(original.body),
    }


def body_json(body: bytes) -> dict[str, str]:
    """Return a body as a value of JSON, with its name: text if it is UTF-8, and Base64 otherwise."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _plain(value: Any) -> Any:
    """Return a value of a header as values of JSON."""
    match value:
        case Mapping():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _moment(at: float | None) -> str:
    return " " * 18 + "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


def _size(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} {_plural(size_bytes, 'byte')}"
    power = min(len(_UNITS), (len(str(size_bytes)) - 1) // 3)
    return f"{size_bytes / 1000**power:.1f} {_UNITS[power - 1]}"


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + CUT
