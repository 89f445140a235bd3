"""A log record is one line that nothing in a message can break, tear or make too long."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.system.log import LineBudget, LineHandler
from mxworker.system.log_formats import JsonFormatter, TextFormatter
from mxworker.system.stderr import LINE_BYTES, pieces, put
from tests.harness.hostile_text import HOSTILE, hidden_in
from tests.harness.repository import REPOSITORY

NASTY = "a\nb\rc\x1b[31md\x00e\x7ff\x85g\x9bh\u2028i\u2029j\tk"
LINE_BREAKERS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=3000)  # lone surrogates too
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ANY_TEXT, inner, max_size=5),
    max_leaves=10,
)


def record(message: str, *args: object, error: BaseException | None = None, **extra: object) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("shop.orders", logging.WARNING, "shop.py", 7, message, args, info)
    made.__dict__.update(extra)
    return made


def raised(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert len(line.encode()) < LINE_BYTES
    assert not set(line) & set(LINE_BREAKERS)
    fields: dict[str, Any] = json.loads(line)
    return fields


def as_text(made: logging.LogRecord) -> str:
    line = TextFormatter().format(made)
    assert len(line.encode()) < LINE_BYTES
    return line


def written(made: logging.LogRecord, formatter: logging.Formatter) -> bytes:
    reader, writer = os.pipe()
    try:
        handler = LineHandler(writer)
        handler.setFormatter(formatter)
        handler.handle(made)
        os.set_blocking(reader, False)
        return os.read(reader, 10 * LINE_BYTES)
    finally:
        os.close(reader)
        os.close(writer)


# JSON


def test_a_json_line_says_when_how_bad_who_and_what() -> None:
    made = record("order %d", 5, queue="orders")
    made.created, made.msecs = 0.25, 250.0
    assert as_json(made) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "shop.orders",
        "pid": os.getpid(),
        "message": "order 5",
        "queue": "orders",
    }


def test_a_json_line_keeps_the_shape_of_small_extras() -> None:
    extras: dict[str, Any] = {"a": [1, {"b": None}], "c": True, "d": 1.5, "e": "x", "f": -3}
    fields = as_json(record("x", **extras))
    assert {key: fields[key] for key in extras} == extras


def test_control_characters_in_a_json_line_are_escaped_and_come_back() -> None:
    line = JsonFormatter().format(record(NASTY, tag=NASTY))
    assert line.isprintable()
    assert json.loads(line)["message"] == json.loads(line)["tag"] == NASTY


def test_an_extra_cannot_pose_as_one_of_our_fields() -> None:
    fields = as_json(record("x", time="never", level="info", logger="root", pid=1, traceback="none"))
    assert fields["level"] == "warning"
    assert fields["logger"] == "shop.orders"
    assert fields["pid"] == os.getpid()
    assert fields["time"] != "never"


def test_a_long_json_line_is_shortened_visibly_and_still_parses() -> None:
    fields = as_json(record("x" * 100_000, queue="orders"))
    assert fields["message"].startswith("x" * 1000)
    assert fields["message"].endswith("[cut]")
    assert fields["queue"] == "orders"


def test_a_message_that_fits_is_not_cut() -> None:
    assert as_json(record("x" * 2000))["message"] == "x" * 2000


@pytest.mark.parametrize("character", ["\x00", "\U0001f600", "\x9b", "\udcff", '"'])
def test_a_message_whose_characters_grow_when_encoded_still_fits(character: str) -> None:
    assert as_json(record(character * 5000))["message"].endswith("[cut]")


def test_a_traceback_keeps_its_end_where_the_error_is_named() -> None:
    fields = as_json(record("failed", error=raised("x" * 5000 + " the end")))
    assert fields["traceback"].startswith("[cut]")
    assert fields["traceback"].endswith("x the end")


def test_a_thousand_extras_do_not_displace_the_message() -> None:
    made = record("the message")
    made.__dict__.update({f"key{number}": "x" * 50 for number in range(1000)})
    fields = as_json(made)
    assert fields["message"] == "the message"
    assert fields["level"] == "warning"


@pytest.mark.parametrize(
    "value", [2**64, -(2**70), "\udcff", {"\udcff": 1}, {1: 2}, b"\xff", {1, 2}, object(), 10**400]
)
def test_a_value_that_json_does_not_know_is_written_somehow(value: object) -> None:
    assert "value" in as_json(record("x", value=value))


def test_a_value_that_holds_itself_is_written_somehow() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "value" in as_json(record("x", value=loop))


@given(message=ANY_TEXT, extra=st.dictionaries(ANY_TEXT, JSON_LIKE, max_size=5), error=st.none() | ANY_TEXT)
def test_any_record_is_one_json_line_that_fits(message: str, extra: dict[str, object], error: str | None) -> None:
    made = record("%s", message, error=None if error is None else raised(error))
    made.__dict__.update({f"x{key}": value for key, value in extra.items()})
    fields = as_json(made)
    assert fields["logger"] == "shop.orders"


def test_direction_and_width_are_escaped_in_every_format_and_come_back_in_json() -> None:
    made = record("%s", HOSTILE, tag=HOSTILE)
    line = JsonFormatter().format(made)
    assert hidden_in(line) == hidden_in(as_text(made)) == set()
    assert json.loads(line)["message"] == json.loads(line)["tag"] == HOSTILE


@pytest.mark.parametrize("style", [TextFormatter(), JsonFormatter()])
def test_finished_text_keeps_its_lines_and_writes_nothing_else_on_a_terminal(style: logging.Formatter) -> None:
    reader, writer = os.pipe()
    handler = LineHandler(writer)
    handler.setFormatter(style)
    handler.say("Error: first\n  \x1b[2Jsecond\u202e\r\n\tthird")
    os.close(writer)
    with open(reader, "rb") as lines:  # noqa: PTH123 - a descriptor
        assert lines.read().decode() == "Error: first\n  \\x1b[2Jsecond\\x202e\\x0d\n        third\n"


# Text


def test_a_text_line_says_when_how_bad_who_and_what() -> None:
    made = record("order %d", 5)
    made.msecs = 7.9
    clock = time.strftime("%H:%M:%S", time.localtime(made.created))
    assert as_text(made) == f"{clock}.007 WARNING shop.orders  order 5"


def test_control_characters_in_a_text_line_are_escaped() -> None:
    line = as_text(record("%s", NASTY))
    assert line.isprintable()
    assert r"a\x0ab\x0dc\x1b[31md\x00e\x7ff\x85g\x9bh\x2028i\x2029j\x09k" in line


def test_a_traceback_follows_indented_so_that_an_error_text_cannot_forge_a_line() -> None:
    forged = "x\n12:00:00.000 INFO    mxworker.master  all is well\x1b[2J"
    first, *rest = as_text(record("failed", error=raised(forged))).split("\n")
    assert first.endswith("failed")
    assert all(row.startswith("    ") for row in rest)
    assert all(row.isprintable() for row in rest)
    assert rest[-1].strip() == r"12:00:00.000 INFO    mxworker.master  all is well\x1b[2J"


def test_a_long_text_line_is_cut_visibly() -> None:
    assert as_text(record("ä" * 5000)).endswith("ä[cut]")


def test_a_long_message_and_a_long_traceback_share_the_line() -> None:
    first, _, rest = as_text(record("m" * 5000, error=raised("e" * 5000))).partition("\n")
    assert first.endswith("m[cut]")
    assert rest.startswith("[cut]")
    assert rest.endswith("e" * 1000)


@given(message=ANY_TEXT, error=st.none() | ANY_TEXT)
def test_any_record_is_text_that_fits(message: str, error: str | None) -> None:
    text = as_text(record("%s", message, error=None if error is None else raised(error)))
    rest = text.split("\n")[1:]
    assert not set(text.replace("\n", "")) & set(LINE_BREAKERS)
    assert bool(rest) is (error is not None)
    assert all(row.startswith(("    ", "[cut]")) for row in rest)


# The write


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
@pytest.mark.parametrize("message", ["short", "x" * 100_000, "\u2028" * 4000, NASTY])
def test_a_record_is_one_line_of_at_most_4096_bytes(formatter: logging.Formatter, message: str) -> None:
    raw = written(record(message), formatter)
    assert len(raw) <= 4096
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_record_without_a_name_is_written(formatter: logging.Formatter) -> None:
    assert b"charged" in written(logging.makeLogRecord({"msg": "charged"}), formatter)


def test_a_log_call_with_wrong_arguments_does_not_raise_and_names_its_place() -> None:
    raw = written(record("%d apples", "no"), JsonFormatter())
    assert json.loads(raw)["message"] == "a log call at shop.py:7 cannot be formatted: TypeError"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_object_that_cannot_be_shown_does_not_raise(formatter: logging.Formatter) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert b"cannot be formatted: RuntimeError" in written(record("%r", Broken()), formatter)


def test_an_extra_that_cannot_be_shown_does_not_raise() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert b"shop.py:7" in written(record("x", value=Broken()), JsonFormatter())


def test_a_reader_that_went_away_does_not_raise() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    handler = LineHandler(writer)
    handler.setFormatter(TextFormatter())
    handler.handle(record("nobody reads this"))
    os.close(writer)
    handler.handle(record("and nobody can write it"))


@pytest.fixture
def soon() -> Iterator[None]:
    """Fail a test that blocks, instead of hanging with it."""

    def fail(signum: int, frame: FrameType | None) -> None:
        raise AssertionError("it blocks")

    former = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture
def full_pipe(soon: None) -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe that takes nothing more, not even a byte."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (LINE_BYTES, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n" * size)
    os.set_blocking(writer, True)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_line_that_nobody_has_room_for_is_dropped_and_the_next_one_says_so(full_pipe: tuple[int, int]) -> None:
    reader, writer = full_pipe
    handler = LineHandler(writer)
    handler.setFormatter(JsonFormatter())
    handler.handle(record("first"))
    handler.say("of\nthree\nlines")
    assert os.read(reader, 1 << 20).strip() == b""
    handler.handle(record("then"))
    handler.handle(record("last"))
    os.set_blocking(reader, False)
    told, then, last = (json.loads(line) for line in os.read(reader, 1 << 20).splitlines())
    assert (told["level"], told["message"].partition(":")[0]) == (
        "warning",
        "lost 4 lines of this process before this one",
    )
    assert (then["message"], last["message"]) == ("then", "last")


def test_what_was_lost_can_be_told_without_another_line(full_pipe: tuple[int, int]) -> None:
    reader, writer = full_pipe
    handler = LineHandler(writer)
    handler.setFormatter(JsonFormatter())
    handler.tell_lost()
    handler.handle(record("first"))
    handler.tell_lost()
    assert handler.dropped_lines == 1
    assert os.read(reader, 1 << 20).strip() == b""
    for _ in range(2):
        handler.tell_lost()
    os.set_blocking(reader, False)
    (told,) = map(json.loads, os.read(reader, 1 << 20).splitlines())
    assert (told["event"], told["lines"]) == ("log_lines_lost", 1)
    assert handler.dropped_lines == 1


def test_a_fork_does_not_tell_of_what_its_parent_lost(full_pipe: tuple[int, int]) -> None:
    reader, writer = full_pipe
    handler = LineHandler(writer)
    handler.setFormatter(JsonFormatter())
    handler.handle(record("of the parent"))
    os.read(reader, 1 << 20)
    child = os.fork()
    if child == 0:
        handler.tell_lost()
        assert handler.dropped_lines == 0
        handler.handle(record("of the child"))
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(reader, 1 << 20))["message"] == "of the child"
    handler.handle(record("of the parent again"))
    assert b"lost 1 lines" in os.read(reader, 1 << 20)


def test_a_pipe_that_others_use_as_well_stays_as_it_is(full_pipe: tuple[int, int]) -> None:
    _, writer = full_pipe
    assert not put(writer, b"x\n")
    assert os.get_blocking(writer)


def test_a_socket_that_nobody_reads_does_not_block(soon: None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        puts = 0
        while put(ours.fileno(), b"x" * LINE_BYTES):
            puts += 1
        assert puts > 10
        assert ours.getblocking()


def test_a_file_takes_every_line_where_the_one_before_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        assert put(file.fileno(), b"one\n")
        assert put(file.fileno(), b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


@given(st.lists(ANY_TEXT, max_size=40).map("\n".join))
def test_a_text_is_said_in_pieces_of_whole_lines(text: str) -> None:
    said = list(pieces(text))
    assert all(0 < len(piece) <= LINE_BYTES and piece.endswith(b"\n") for piece in said)
    assert b"".join(said).count(b"\n") == text.rstrip("\n").count("\n") + 1


def test_short_lines_are_said_together_and_a_long_one_is_cut_visibly() -> None:
    assert list(pieces("a\n\nb\n")) == [b"a\n\nb\n"]
    (piece,) = pieces("x" * 5000)
    assert piece.endswith(b"x[cut]\n")


WRITER = """
import logging, random, sys
from mxworker.system.log import set_up
set_up("info", "json")
rng = random.Random(int(sys.argv[1]))
log = logging.getLogger("writer")
for number in range(400):
    text = chr(rng.choice([65, 10, 233, 0x1f600])) * rng.randrange(6000)
    log.info("%s", text, extra={"n": number, "who": sys.argv[1]})
"""


def test_lines_of_processes_that_share_a_pipe_do_not_tear_and_those_that_are_lost_are_told_of() -> None:
    reader, writer = os.pipe()
    processes = [_python(WRITER, str(number), stderr=writer) for number in range(4)]
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as lines:
        raw = b"".join(iter(lambda: lines.read(LINE_BYTES), b""))  # slower than four who write
    assert [process.wait(60) for process in processes] == [0] * 4
    records = [json.loads(line) for line in raw.splitlines()]
    for process in processes:
        reached = 0
        for each in (each for each in records if each["pid"] == process.pid):
            if "n" in each:
                assert each["n"] == reached
                reached += 1
            else:
                reached += int(each["message"].split()[1])
        assert reached > 100


def test_a_burst_that_is_more_than_the_usual_pipe_holds_waits_for_a_reader_that_is_late() -> None:
    reader, writer = os.pipe()
    script = "import logging; from mxworker.system.log import set_up; set_up('info', 'json')\n"
    script += "for _ in range(100): logging.info('%s', 'x' * 5000)"
    process = _python(script, stderr=writer)
    os.close(writer)
    assert process.wait(60) == 0
    with os.fdopen(reader, "rb") as lines:
        assert len(lines.read().splitlines()) == 100


# Setting up, in a process of its own because it is for the whole process


SET_UP = """
import logging, sys
from mxworker.system.log import set_up
set_up(sys.argv[1], sys.argv[2])
logging.getLogger("shop").debug("a detail")
logging.getLogger("shop").warning("a warning")
logging.getLogger("aiormq.connection").error("a body")
logging.getLogger("aio_pika").warning("a body")
"""


@pytest.mark.parametrize(("level", "expected"), [("debug", ["a detail", "a warning"]), ("info", ["a warning"])])
def test_auto_is_json_when_stderr_is_no_terminal_and_the_amqp_libraries_are_silent(
    level: str, expected: list[str]
) -> None:
    process = _python(SET_UP, level, "auto", stderr=subprocess.PIPE)
    _, raw = process.communicate(timeout=60)
    assert [json.loads(line)["message"] for line in raw.splitlines()] == expected


def test_warnings_of_python_are_records_of_a_json_log() -> None:
    source = (
        "import warnings; from mxworker.system.log import set_up; set_up('info', 'json'); warnings.warn('an option')"
    )
    _, raw = _python(source, stderr=subprocess.PIPE).communicate(timeout=60)
    (fields,) = map(json.loads, raw.splitlines())
    assert "UserWarning: an option" in fields["message"]
    assert fields["level"] == "warning"


def test_auto_is_text_on_a_terminal() -> None:
    ours, theirs = os.openpty()
    process = _python(SET_UP, "info", "auto", stderr=theirs)
    assert process.wait(60) == 0
    assert os.read(ours, 1000).rstrip().endswith(b"WARNING shop  a warning")
    os.close(theirs)
    os.close(ours)


def test_text_is_text_everywhere() -> None:
    _, raw = _python(SET_UP, "info", "text", stderr=subprocess.PIPE).communicate(timeout=60)
    assert raw.endswith(b"WARNING shop  a warning\n")


@pytest.mark.parametrize(("level", "style"), [("debug", "text"), ("warning", "json")])
def test_set_up_can_be_told_to_another_process(level: str, style: str) -> None:
    source = (
        "import sys; from mxworker.system.log import as_set_up, set_up; "
        "set_up(*sys.argv[1:]); sys.stderr.write(repr(as_set_up()))"
    )
    _, raw = _python(source, level, style, stderr=subprocess.PIPE).communicate(timeout=60)
    assert raw.decode() == repr((level, style))


BROKEN = """
import logging, sys
from mxworker.system.log import keep_telling, kept, say_safely, set_up
set_up("info", "text")
logging.getLogger("mxworker.worker")
keep_telling()

class Broken(logging.Handler, logging.Filter):
    def emit(self, record):
        raise RuntimeError("the collector is gone")
    def filter(self, record):
        raise RuntimeError("no such field")

match sys.argv[1]:
    case "handler":
        logging.basicConfig(handlers=[Broken()], force=True, level="INFO")
    case "filter":
        logging.getLogger("mxworker.worker").addFilter(Broken().filter)
    case "filter that exits":
        logging.getLogger("mxworker.worker").addFilter(lambda record: sys.exit(3))
logging.getLogger("mxworker.worker").info("a line of ours")
say_safely(logging.getLogger("mxworker.worker"), logging.ERROR, "one that says what becomes of a message")
try:
    logging.getLogger("shop").info("a line of theirs")
except RuntimeError:
    kept("mxworker.handler.order").warning("of a handler")
"""


@pytest.mark.parametrize("broken", ["handler", "filter", "filter that exits"])
def test_what_the_application_adds_to_logging_may_raise(broken: str) -> None:
    """Then the lines of ours, and of handlers, go where they went before, instead of ending the process."""
    process = _python(BROKEN, broken, stderr=subprocess.PIPE)
    _, raw = process.communicate(timeout=60)
    lines = [line.rpartition("  ")[2] for line in raw.decode().splitlines()]
    expected = ["a line of ours", "one that says what becomes of a message"]
    assert lines == [*expected, "of a handler" if broken == "handler" else "a line of theirs"], raw
    assert process.returncode == 0


FACTORY = """
import asyncio, contextvars, logging, sys
from mxworker.system.log import keep_telling, kept, say_safely, set_up
set_up("info", "json")
log = logging.getLogger("mxworker.worker")
keep_telling()
request_id, factory = contextvars.ContextVar("request_id"), logging.getLogRecordFactory()

def reads_a_variable(*args, **kwargs):
    record = factory(*args, **kwargs)
    record.request_id = request_id.get()
    return record

def names_a_field(*args, **kwargs):
    record = factory(*args, **kwargs)
    record.worker = record.event = "of the application"
    return record

def exits(*args, **kwargs):
    sys.exit(3)

logging.setLogRecordFactory(globals()[sys.argv[1]])
log.info("a line %s", "of ours", extra={"event": "some_event", "worker": 3})
say_safely(log, logging.ERROR, "what becomes of a message", fields={"event": "delivery_ended"})
kept("mxworker.handler.order").warning("of a handler")
try:
    log.info("a field of logging's", extra={"args": 1})
except KeyError:
    pass
loop = asyncio.new_event_loop()
loop.call_soon(lambda: 1 / 0)
loop.run_until_complete(asyncio.sleep(0))
"""


@pytest.mark.parametrize("how", ["reads_a_variable", "exits", "names_a_field"])
def test_record_factory_of_the_application_may_raise(how: str) -> None:
    """Our lines are logged without it, which is told once, and the event loop goes on after it has logged an error."""
    process = _python(FACTORY, how, stderr=subprocess.PIPE)
    _, raw = process.communicate(timeout=60)
    lines = [json.loads(line) for line in raw.splitlines()]
    if how != "names_a_field":
        told = lines.pop(0)
        assert (told["event"], told["level"]) == ("log_factory_failed", "warning")
        assert how in told["traceback"], "the function that failed"
    assert [line["message"] for line in lines[:3]] == ["a line of ours", "what becomes of a message", "of a handler"]
    assert (lines[0]["event"], lines[0]["worker"]) == ("some_event", 3), "our fields win"
    assert (lines[3]["logger"], len(lines), process.returncode) == ("asyncio", 4, 0), lines


DISABLED = """
import logging
from mxworker.system.log import keep_telling, set_up
set_up("info", "text")
log = logging.getLogger("mxworker.worker")
keep_telling()
log.info("before")
logging.disable(logging.CRITICAL)
log.info("after")
log.debug("below the level")
logging.getLogger("shop").critical("of the application")
logging.getLogger("mxworker").setLevel("ERROR")
log.info("below the level of mxworker")
log.error("the last one")
"""


def test_logging_disable_silences_no_logger_of_ours() -> None:
    _, raw = _python(DISABLED, stderr=subprocess.PIPE).communicate(timeout=60)
    assert [line.rpartition("  ")[2] for line in raw.decode().splitlines()] == ["before", "after", "the last one"]


def _python(source: str, *arguments: str, stderr: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", source, *arguments], stderr=stderr, env=environment)


# The budget


def test_a_budget_lets_so_many_lines_through_per_window_and_tells_how_many_it_held_back() -> None:
    budget = LineBudget(lines=2, window_s=10.0)
    assert [budget.spend(100.0), budget.spend(101.0)] == ["", ""]
    assert [budget.spend(102.0), budget.spend(109.9)] == [None, None]
    assert budget.spend(110.0) == " (and 2 more like this before)"
    assert budget.spend(110.1) == ""
    assert budget.spend(110.2) is None
