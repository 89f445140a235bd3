"""`mxworker dlq` as an operator calls it: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest

from tests.broker.letters.dead import Dead, letter
from tests.harness.hostile_text import HOSTILE, assert_harmless
from tests.harness.repository import REPOSITORY
from tests.harness.scales import FULL_ONLY
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

PATIENCE_S = 60.0
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def dead(admin: Client, queue_name: str) -> Dead:
    made = Dead(admin, queue_name)
    made.put(letter(number) for number in range(3))
    made.put([letter(3, handler="app.mail", error_type=HOSTILE, tenant="acme")])
    return made


@pytest.fixture
def dlq(broker_url: str) -> Run:
    def run(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", "mxworker", "dlq", *arguments],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "MXWORKER_BROKER_URL": broker_url},
            input=said,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert_harmless(ended.stdout)
        assert_harmless(ended.stderr)
        return ended

    return run


def test_name_of_a_queue_shows_its_counts(dead: Dead, dlq: Run) -> None:
    shown = dlq(dead.work)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"{dead.name}: 4 letters, ")
    counted = json.loads(dlq("stats", dead.work, "--handler", "app.order", "--json").stdout)
    assert (counted["letters"], counted["there"], counted["by_handler"]) == (3, 4, {"app.order": 3})


def test_list_has_keys_with_which_show_finds_the_letter(dead: Dead, dlq: Run) -> None:
    listed = dlq("list", dead.work, "--header", "tenant=acme")
    assert listed.returncode == 0
    (line,) = listed.stdout.splitlines()
    key = line.split()[2]
    shown = dlq("show", dead.work, key, "--json")
    assert (shown.returncode, json.loads(shown.stdout)["body"]) == (0, '{"id":3}')
    by_id = dlq("show", dead.work, "order-3")
    assert by_id.returncode == 0
    assert '  {"id":3}\n' in by_id.stdout
    unknown = dlq("show", dead.work, "order-9")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "none of the 4 letters" in unknown.stderr
    wait_until(lambda: dead.count == 4, PATIENCE_S, "all letters back")


def test_limited_list_says_that_there_are_more(dead: Dead, dlq: Run) -> None:
    listed = dlq("list", dead.work, "--limit", "2", "--json")
    assert [json.loads(line)["message_id"] for line in listed.stdout.splitlines()] == ["order-0", "order-1"]
    assert "--limit" in dlq("list", dead.work, "--limit", "2").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["list", "QUEUE", "--since", "soon"], 2, "'soon' is no time"),
        (["list", "QUEUE", "--quarantine", "--from", "other"], 2, "exclude each other"),
        (["show", "QUEUE"], 2, "mxworker dlq show QUEUE ID"),
        (["stats", "QUEUE", "--quarantine"], 4, "there is no queue 'QUEUE.quarantine'"),
        (["stats", "QUEUE", "--broker-url", "amqp://guest@127.0.0.1:1/", "--connect-wait", "3s"], 4, "refused"),
        (["stats", "QUEUE", "--broker-url", "http://rabbit"], 2, "amqp://"),
    ],
)
def test_mistake_is_named_with_its_exit_code(dead: Dead, dlq: Run, arguments: list[str], code: int, text: str) -> None:
    ended = dlq(*(each.replace("QUEUE", dead.work) for each in arguments))
    assert (ended.returncode, ended.stdout) == (code, "")
    assert text.replace("QUEUE", dead.work, 1 if code == 4 else 0) in ended.stderr


def test_replay_is_a_dry_run_without_yes(dead: Dead, dlq: Run) -> None:
    ended = dlq("replay", dead.work, "--handler", "app.order", said="3\n")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "3 of 4 letters" in ended.stderr
    assert f"To replay 3 letters from {dead.name} to {dead.work}, add --yes." in ended.stderr
    assert (dead.count, dead.admin.counts(dead.work).messages) == (4, 0)


def test_replay_tells_of_each_letter(dead: Dead, dlq: Run) -> None:
    ended = dlq("replay", dead.work, "--limit", "2", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert [line.split(" id ")[1] for line in ended.stdout.splitlines()] == [
        f"order-{number} from {dead.name} to {dead.work}" for number in range(2)
    ]
    told = [json.loads(line) for line in dlq("replay", dead.work, "--yes", "--json").stdout.splitlines()]
    assert [each["event"] for each in told] == ["chosen", "replayed", "replayed", "ended"]
    assert (told[-1]["replayed"], told[-1]["left"], told[-1]["stopped"]) == (2, 0, None)
    assert (dead.count, dead.admin.counts(dead.work).messages) == (0, 4)


def test_letters_are_moved_to_a_queue_that_must_exist(dead: Dead, dlq: Run) -> None:
    missing = dlq("move", dead.work, f"{dead.work}.gone", "--yes")
    assert missing.returncode == 1
    assert f"{dead.work}.gone" in missing.stderr
    assert dead.count == 4
    moved = dlq("move", dead.work, dead.work, "--id", "order-1", "--yes")
    assert moved.returncode == 0
    assert (dead.count, dead.admin.counts(dead.work).messages) == (3, 1)


@pytest.mark.parametrize(("answer", "replayed"), [("4", 4), ("y", 0), pytest.param("", 0, marks=FULL_ONLY)])
def test_answer_at_the_terminal_names_the_number(dead: Dead, broker_url: str, answer: str, replayed: int) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "mxworker", "dlq", "replay", dead.work],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "MXWORKER_BROKER_URL": broker_url},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        shown = b""
        while b"type 4: " not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(PATIENCE_S) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert (dead.count, dead.admin.counts(dead.work).messages) == (4 - replayed, replayed)


def test_purged_letters_are_in_a_file_from_which_they_come_back(dead: Dead, dlq: Run, tmp_path: Path) -> None:
    file = tmp_path / "purged.ndjson"
    assert "add --yes" in dlq("purge", dead.work, "--export", str(file)).stderr
    assert not file.exists()
    purged = dlq("purge", dead.work, "--handler", "app.order", "--export", str(file), "--yes")
    assert (purged.returncode, len(purged.stdout.splitlines()), dead.count) == (0, 3, 1)
    again = dlq("purge", dead.work, "--export", str(file), "--yes")
    assert (again.returncode, dead.count) == (2, 1)
    assert "exists already" in again.stderr
    imported = dlq("import", dead.work, str(file), "--json")
    assert [json.loads(line)["event"] for line in imported.stdout.splitlines()] == ["imported"] * 3 + ["ended"]
    assert dead.count == 4
    exported = dlq("export", dead.work, str(tmp_path / "all.ndjson"))
    assert (exported.returncode, dead.count) == (0, 4)
    assert len((tmp_path / "all.ndjson").read_text().splitlines()) == 4


@pytest.mark.parametrize("number", [SIGINT, pytest.param(SIGTERM, marks=FULL_ONLY)])
def test_signal_stops_a_replay_after_what_is_on_its_way(dead: Dead, broker_url: str, number: Signals) -> None:
    dead.put(letter(each) for each in range(4, 60))
    process = subprocess.Popen(
        [sys.executable, "-m", "mxworker", "dlq", "replay", dead.work, "--yes", "--rate=2"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "MXWORKER_BROKER_URL": broker_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(number)
    rest, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Stopped: interrupted" in said
    replayed = len([first, *rest.splitlines()])
    assert dead.admin.counts(dead.work).messages == replayed
    assert dead.count == 60 - replayed > 0
