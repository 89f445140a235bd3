"""How scenarios are run: in turn, with what fails set aside and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from bench.contenders import Unavailable
from bench.runner import Plan, chosen, run
from bench.scenario import Failed, Measures, Place, Scenario


@dataclass
class FakeEntry:
    """Measures its number of rounds so far, and notes its turns in a list that it shares."""

    name: str
    turns_taken: list[str]
    fails_in_round: int = 0
    missing: str = ""
    rounds: int = field(default=0, init=False)

    def prepare(self) -> str:
        if self.missing:
            raise Unavailable(self.missing)
        return f"{self.name} 1.0"

    def measure(self, place: Place) -> Measures:
        self.rounds += 1
        self.turns_taken.append(self.name)
        assert list(place.folder.iterdir()) == []
        (place.folder / "left").touch()
        if self.rounds == self.fails_in_round:
            raise Failed("it crashed")
        return {"rate": place.scaled(self.rounds * 10)}


def plan(say: Callable[[str], None] = lambda text: None) -> Plan:
    return Plan(3, 1.0, lambda: pytest.fail("nobody asked for a broker"), say)


def test_entries_take_turns_and_one_that_fails_takes_no_more_rounds() -> None:
    taken: list[str] = []
    said: list[str] = []
    entries = FakeEntry("a", taken), FakeEntry("b", taken, fails_in_round=2), FakeEntry("c", taken, missing="no gcc")
    result = run(Scenario("s", "title", entries), plan(said.append))
    assert taken == ["a", "b", "a", "b", "a"]
    a, b, c = result.entries
    assert [taken["rate"] for taken in a.rounds] == [10, 20, 30]
    assert (a.version, a.failure) == ("a 1.0", "")
    assert (len(b.rounds), b.failure, b.is_available) == (1, "it crashed", True)
    assert (c.rounds, c.failure, c.is_available) == ((), "no gcc", False)
    assert any("it crashed" in text for text in said)


def test_what_is_exact_takes_one_round() -> None:
    taken: list[str] = []
    run(Scenario("s", "title", (FakeEntry("a", taken),), is_exact=True), plan())
    assert taken == ["a"]


def test_a_name_chooses_what_starts_with_it() -> None:
    scenarios = [Scenario(name, "", ()) for name in ("consume", "consume-quorum", "publish")]
    assert [each.name for each in chosen(scenarios, ["consume"])] == ["consume", "consume-quorum"]
    assert chosen(scenarios, []) == scenarios
    with pytest.raises(ValueError, match="no scenario 'consumed'; there are consume, consume-quorum, publish"):
        chosen(scenarios, ["publish", "consumed"])
