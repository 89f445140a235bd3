"""The command of the benchmarks: what it changes in jobs, when a run is complete, and what it writes then."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import is_complete, narrowed, parser, publish
from bench.client.payload import payload
from bench.contenders import Contender, Job, Programs, Work, fill
from bench.contest import contest, measures
from bench.report.pages import BEGIN
from bench.report.pictures import can_draw
from bench.report.results import read
from bench.wire.replies import read_records, records, replies
from tests.pure.bench.test_report import entry, run_of

OURS, THEIRS = (Contender(name, lambda: Programs("1", {}), frozenset({Work.CONSUME})) for name in ("ours", "theirs"))


def test_a_run_by_name_or_with_fewer_messages_does_not_replace_the_latest_results() -> None:
    complete = {arguments: is_complete(parser().parse_args(arguments.split())) for arguments in ("", "--rounds 9")}
    assert complete == {"": True, "--rounds 9": True}
    for arguments in ("consume", "--scale 0.1", "--rounds 2", "--only Go", "--set window=1"):
        assert not is_complete(parser().parse_args(arguments.split())), arguments


def test_a_setting_changes_every_job_and_a_wrong_one_is_refused() -> None:
    scenario = contest("s", "title", Job(Work.CONSUME, 10), (OURS, THEIRS))
    (changed,) = narrowed(scenario, ["theirs"], ["prefetch=5", "rate=2.5", "queue_type=quorum"]).entries
    assert (changed.name, changed.job.prefetch, changed.job.rate, changed.job.queue_type) == (
        "theirs",
        5,
        2.5,
        "quorum",
    )
    with pytest.raises(ValueError, match="windows cannot be set; these can: messages"):
        narrowed(scenario, [], ["windows=5"])


def test_a_contest_has_those_who_can_do_the_job() -> None:
    assert [each.name for each in contest("s", "", Job(Work.CONSUME, 1), (OURS, THEIRS)).entries] == ["ours", "theirs"]
    assert contest("s", "", Job(Work.RELAY, 1), (OURS,)).entries == ()
    framework = Contender("framework", OURS.prepare, on_wire=False)
    assert [each.name for each in contest("s", "", Job(Work.CONSUME, 1), (OURS, framework), on_wire=True).entries] == [
        "ours"
    ]


def test_a_report_becomes_figures_of_each_message() -> None:
    job = Job(Work.PUBLISH, 1000, rate=500.0)
    found = measures(job, {"wall_s": 2.0, "cpu_s": 0.1, "p95_ms": 1.5})
    assert found == {"rate": 500.0, "cpu_us": pytest.approx(100.0), "cpu_share": pytest.approx(5.0), "p95_ms": 1.5}


def test_a_complete_run_writes_the_results_the_report_and_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\n")
    run = run_of(entry("mxworker", 900.0, 1000.0), entry("Go", 1100.0))
    publish(run, True, tmp_path, readme)
    assert read(tmp_path / "latest.json") == run
    assert "| client |" in readme.read_text()
    text = (tmp_path / "report.md").read_text()
    assert "## consume-classic" in text
    if can_draw():
        assert "(consume-classic.svg)" in text
        drawn = (tmp_path / "consume-classic.svg").read_bytes()
        publish(run, True, tmp_path, readme)
        assert (tmp_path / "consume-classic.svg").read_bytes() == drawn  # so that no commit shows what did not change


def test_a_partial_run_leaves_all_but_its_own_file_alone(tmp_path: Path) -> None:
    publish(run_of(entry("mxworker", 900.0)), False, tmp_path, tmp_path / "README.md")
    assert [path.name for path in tmp_path.iterdir()] == ["partial.json"]


def test_a_payload_has_the_size_that_is_asked_for() -> None:
    class Client:
        def declare(self, queue: str, **options: object) -> None:
            assert queue == "q"

        def publish(self, queue: str, bodies: object) -> None:
            self.bodies = list(bodies)

    client = Client()
    fill(client, Job(Work.CONSUME, 3, body_bytes=4096, queue="q"))
    assert [len(body) for body in client.bodies] == [4096] * 3
    assert payload(100)["id"] == 1


def test_a_wire_server_reads_the_answers_that_were_made_for_it() -> None:
    answers = replies("q", 256)
    assert read_records(records(answers)) == answers
