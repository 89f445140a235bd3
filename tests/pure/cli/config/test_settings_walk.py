"""Each setting can be given by flag, variable, file and code, is shown with its source, and is bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mxworker.cli import main
from mxworker.cli.config.options import BY_KEY, LEAVES
from mxworker.cli.run import run
from mxworker.cli.settings import queue_overrides, tree
from mxworker.config.kinds import (
    Choice,
    Duration,
    Factor,
    Shared,
    Size,
    Switch,
    Text,
    Texts,
    Whole,
    WholeOrAuto,
    WholeOrShared,
)
from mxworker.config.leaf import Leaf
from mxworker.config.tree import DEFAULTS, Settings
from tests.harness.places import open_directory

WORKERS = 4
TABLE: dict[str, str] = {"publisher": "[publisher]\n", "pool": "[pool]\n"}
EACH = pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory of our own, without variables of a service."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for leaf in LEAVES:
        monkeypatch.delenv(leaf.variable, raising=False)
    return tmp_path


def another(leaf: Leaf) -> tuple[Any, str, str]:
    """Return a value that is not the default, how it is typed, and how a file has it."""
    kind = leaf.kind
    match kind:
        case Switch():
            return not leaf.default, "", str(not leaf.default).lower()
        case Choice():
            word = next(word for word in kind.words if word != leaf.default)
            return word, word, f'"{word}"'
        case Text(is_directory=True):
            path = str(Path.cwd())
            return path, path, f'"{path}"'
        case Text():
            path = str(Path.cwd() / "x") if kind.is_file else "x"
            return path, path, f'"{path}"'
        case Texts(separator=None):
            return ("amqp://me:S3cr3t@x/",), "amqp://me:S3cr3t@x/", '["amqp://me:S3cr3t@x/"]'
        case Texts():
            return ("a", "b"), "a,b", '["a", "b"]'
        case Duration():
            return 7.0, "7s", '"7s"'
        case Size():
            return 3_000_000, "3MB", '"3MB"'
        case Factor():
            return 3.5, "3.5", "3.5"
        case Whole() | WholeOrAuto() | WholeOrShared():
            number = 3 if leaf.default != 3 else 4
            return number, str(number), str(number)
        case _:
            raise AssertionError(kind)


def typed(leaf: Leaf, text: str) -> str:
    if isinstance(leaf.kind, Switch):
        return leaf.flag if not leaf.default else f"--no-{leaf.flag.removeprefix('--')}"
    return f"{leaf.flag}={text}"


def entry(leaf: Leaf, toml: str) -> str:
    head, _, key = leaf.key.rpartition(".")
    return f"{TABLE.get(head, '')}{key} = {toml}\n"


@contextmanager
def of_run(*arguments: str) -> Iterator[click.Context]:
    """Let `run` read its settings."""
    with run.make_context("run", ["app", *arguments]) as ctx:
        yield ctx


def effective(*arguments: str) -> Settings:
    with of_run(*arguments) as ctx:
        return tree(ctx.params, WORKERS)


def at(settings: Any, leaf: Leaf) -> Any:
    for name in leaf.path:
        settings = getattr(settings, name)
    return settings


def shown(*arguments: str) -> dict[str, tuple[str | None, str]]:
    ended = CliRunner().invoke(main, ["config", "show", "--json", *arguments])
    assert ended.exit_code == 0, ended.output
    return {row["key"]: (row["value"], row["source"]) for row in json.loads(ended.output)}


def refusal(*arguments: str) -> str:
    ended = CliRunner().invoke(main, ["config", "show", *arguments])
    assert ended.exit_code == 2, ended.output
    return " ".join(ended.output.split())


def test_without_anything_all_settings_have_their_defaults() -> None:
    assert effective() == DEFAULTS
    assert {source for _, source in shown().values()} == {"default"}


@EACH
def test_a_setting_has_a_flag_a_variable_a_key_and_a_field(leaf: Leaf, monkeypatch: pytest.MonkeyPatch) -> None:
    value, text, toml = another(leaf)
    assert value != leaf.default
    flag = typed(leaf, text)
    assert at(effective(flag), leaf) == value
    assert shown(flag)[leaf.key][1] == leaf.flag

    Path("mxworker.toml").write_text(f"# settings\n{entry(leaf, toml)}")
    line = 3 if "." in leaf.key else 2
    Path("mxworker.toml").chmod(0o600)
    assert at(effective(), leaf) == value
    assert shown()[leaf.key][1] == f"mxworker.toml, line {line}"

    monkeypatch.setenv(leaf.variable, text or toml)
    assert shown()[leaf.key][1] == leaf.variable
    Path("mxworker.toml").unlink()
    assert at(effective(), leaf) == value

    *group, name = leaf.path
    owner = DEFAULTS
    for each in group:
        owner = getattr(owner, each)
    assert getattr(replace(owner, **{name: value}), name) == value


@EACH
def test_a_value_out_of_its_range_is_refused_wherever_it_comes_from(
    leaf: Leaf, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, toml = beyond(leaf)
    Path("mxworker.toml").write_text(entry(leaf, toml))
    place = f"mxworker.toml, line {2 if '.' in leaf.key else 1}"
    told = refusal()
    assert f"{place}: {leaf.key}" in told
    if not isinstance(leaf.kind, Text | Texts | Switch):
        assert leaf.kind.allowed in told
    Path("mxworker.toml").unlink()
    if isinstance(leaf.kind, Texts):
        return  # every text of a flag means some texts
    monkeypatch.setenv(leaf.variable, text)
    assert leaf.flag in refusal()
    monkeypatch.delenv(leaf.variable)
    if not isinstance(leaf.kind, Switch):
        assert leaf.flag in refusal(f"{leaf.flag}={text}")


def beyond(leaf: Leaf) -> tuple[str, str]:
    """Return a value that is not allowed, as it is typed and as a file has it."""
    match leaf.kind:
        case Switch():
            return "perhaps", '"perhaps"'
        case Text():
            return " ", '""'
        case Texts():
            return "", "[1]"
        case Duration():
            return "8761h", '"8761h"'
        case Size():
            return "1025GiB", '"1025GiB"'
        case Choice():
            return "other", '"other"'
        case _:
            return "9000000000000", "9000000000000"


def test_the_stronger_source_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mxworker.toml").write_text("process-concurrency = 1\nburst = true\n[publisher]\nchannels = 5\n")
    chosen = effective("--profile=throughput")
    assert (chosen.concurrency.process_concurrency, chosen.publisher.channels) == (1, 5)
    assert (chosen.publisher.compression, chosen.publisher.attempts) == ("gzip", 3)
    monkeypatch.setenv("MXWORKER_PROCESS_CONCURRENCY", "2")
    assert effective().concurrency.process_concurrency == 2
    assert effective("--process-concurrency=3").concurrency.process_concurrency == 3
    assert effective().application.burst
    assert not effective("--no-burst").application.burst


def test_a_shared_prefetch_is_divided_among_the_workers() -> None:
    assert effective("--prefetch=1000/workers").handlers.prefetch == 1000 // WORKERS
    assert effective("--profile=throughput").handlers.prefetch == 1000 // WORKERS
    assert BY_KEY["prefetch"].kind.parse("1000/workers") == Shared(1000)


def test_values_of_a_queue_count_more_than_those_of_the_file_and_less_than_flags() -> None:
    Path("mxworker.toml").write_text(
        'concurrency = 2\nhandler-timeout = "1m"\n[queues.a]\nconcurrency = 9\nprefetch = "100/workers"\n'
    )

    def of_a(*arguments: str) -> tuple[int | None, int | None, float | None]:
        with of_run(*arguments) as ctx:
            chosen = queue_overrides(tree(ctx.params, WORKERS), WORKERS)["a"]
        return chosen.concurrency, chosen.prefetch, chosen.timeout_s

    assert of_a() == (9, 25, 60.0)
    assert of_a("--concurrency=4") == (4, 25, 60.0)
    assert shown()['queues."a".concurrency'] == ("9", "mxworker.toml, line 4")


def test_a_password_is_never_shown() -> None:
    path = Path("mxworker.toml")
    path.write_text('broker-url = ["amqp://me:S3cr3t@rabbit/", "amqp:S3cr3t"]\n')
    path.chmod(0o600)
    output = CliRunner().invoke(main, ["config", "show"]).output
    assert "amqp://me:***@rabbit:5672/ ***" in output
    assert "S3cr3t" not in output


# Files


def test_a_file_that_others_can_change_is_refused_unless_that_is_accepted(directory: Path) -> None:
    path = directory / "mxworker.toml"
    path.write_text("workers = 3\n")
    path.chmod(0o666)
    told = refusal()
    assert "everybody on this machine may write to" in told
    assert "and so choose the settings in mxworker.toml" in told
    assert shown("--insecure-app-dir")["workers"][0] == "3"
    path.write_text("insecure-app-dir = true\n")
    assert "may write to" in refusal(), "what a file says of its own safety does not count"


def test_a_file_in_a_directory_that_others_can_change_is_refused(directory: Path) -> None:
    Path("mxworker.toml").write_text("workers = 3\n")
    directory.chmod(0o777)
    assert "may write to" in refusal()


def test_a_password_in_a_file_that_everybody_can_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_directory() as place:
        monkeypatch.chdir(place)
        path = Path("mxworker.toml")
        path.write_text('broker-url = "amqp://me:S3cr3t@rabbit/"\n')
        path.chmod(0o644)
        told = refusal()
        assert "broker-url in mxworker.toml" in told
        assert "everybody on this machine may read" in told
        assert "S3cr3t" not in told
        path.write_text('broker-url = "amqp://rabbit/"\n')
        assert shown()["broker-url"][0] == "amqp://guest:***@rabbit:5672/"
        monkeypatch.undo()


def test_a_project_file_counts_when_it_has_our_table() -> None:
    Path("pyproject.toml").write_text('[project]\ndependencies = ["mxworker"]\n')
    assert shown()["workers"][1] == "default"
    Path("pyproject.toml").write_text("[tool.mxworker]\nworkers = 3\n")
    assert shown()["workers"] == ("3", "pyproject.toml, line 2")
    Path("mxworker.toml").write_text("workers = 4\n")
    assert "both mxworker.toml and [tool.mxworker] of pyproject.toml have settings" in refusal()
    assert shown("--config=mxworker.toml")["workers"][0] == "4"


def test_a_file_that_is_named_must_be_there_and_have_settings(directory: Path) -> None:
    assert "'missing.toml' cannot be read: No such file or directory" in refusal("--config=missing.toml")
    Path("pyproject.toml").write_text("[project]\n")
    assert "has no table [tool.mxworker]" in refusal("--config=pyproject.toml")
    Path("mxworker.toml").write_bytes(b"name = '\xff'")
    assert "'mxworker.toml' cannot be read: it is not UTF-8" in refusal()
    Path("mxworker.toml").write_bytes(b"#" * 2**21)
    assert "which is no configuration" in refusal()
    Path("mxworker.toml").unlink()
    os.mkfifo("mxworker.toml")
    assert "'mxworker.toml' is no regular file" in refusal()
    Path("mxworker.toml").unlink()
    assert "there is no profile 'fast'; there are development, production, throughput." in refusal("--profile=fast")


def test_every_group_has_its_place_in_the_walk() -> None:
    assert {leaf.path[0] for leaf in LEAVES} == {each.name for each in fields(DEFAULTS)}
