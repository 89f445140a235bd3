"""The samples of threads, and the document that speedscope opens."""

from __future__ import annotations

import orjson
import pytest

from mxworker.worker.profiling import recording
from mxworker.worker.profiling.recording import Recording, joined


def outer() -> None: ...


def inner() -> None: ...


STACK = 7, (inner.__code__, outer.__code__)
OTHER = 8, (inner.__code__, outer.__code__)


def test_document_has_a_profile_for_each_thread_the_busiest_first() -> None:
    taken = Recording()
    taken.add(1, "idle", "", STACK, 2_000)
    taken.add(2, "busy", "handler f", STACK, 5_000)
    taken.add(2, "busy", "handler f", STACK, 1_000)
    taken.add(2, "busy", "handler f", OTHER, 3_000)
    document = taken.speedscope("title", "mxworker 1")
    frames = document["shared"]["frames"]
    assert [(each["name"], each["endValue"], each["weights"]) for each in document["profiles"]] == [
        ("busy", 9, [6, 3]),
        ("idle", 2, [2]),
    ]
    shown = [
        [(frames[one]["name"], frames[one].get("line")) for one in each] for each in document["profiles"][0]["samples"]
    ]
    first_line = outer.__code__.co_firstlineno
    assert shown == [
        [("handler f", None), ("outer", first_line), ("inner", 7)],
        [("handler f", None), ("outer", first_line), ("inner", 8)],
    ]
    assert len(frames) == 4
    assert orjson.loads(orjson.dumps(document)) == document


def test_documents_of_several_processes_become_one_the_busiest_thread_first() -> None:
    documents = []
    for weight_ns, stacks in ((2_000, [STACK]), (9_000, [OTHER, STACK])):
        taken = Recording()
        for stack in stacks:
            taken.add(1, "MainThread", f"handler {weight_ns}", stack, weight_ns)
        documents.append(taken.speedscope(f"of {weight_ns}", "mxworker 1"))
    document = joined(documents[0], {"process 5": documents[1]})
    assert document["name"] == "of 2000"
    assert [(each["name"], each["endValue"]) for each in document["profiles"]] == [
        ("process 5: MainThread", 18),
        ("MainThread", 2),
    ]
    frames = document["shared"]["frames"]
    labels = [[frames[stack[0]]["name"] for stack in each["samples"]] for each in document["profiles"]]
    assert labels == [["handler 9000"] * 2, ["handler 2000"]]
    assert [frames[stack[-1]]["line"] for stack in document["profiles"][0]["samples"]] == [8, 7]


def test_samples_without_room_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_SAMPLES", 2)
    taken = Recording()
    for number in range(5):
        taken.add(1, "one", f"task {number}", STACK, 1_000)
    assert (taken.kept, taken.dropped) == (2, 3)
