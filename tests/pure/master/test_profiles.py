"""Which worker takes a profile, when the next one may be taken, and how one ends."""

from __future__ import annotations

import base64

import pytest

from mxworker.board.layout import Given, Word
from mxworker.board.page import Board
from mxworker.control import protocol
from mxworker.control.protocol import PROFILE_PART_BYTES, RequestRefused
from mxworker.master.profiles import BEGIN_NS, LEASE_NS, SLACK_NS, Profiles
from mxworker.master.slot import NS_PER_S
from tests.pure.master.world import running

RESULT = bytes(range(256)) * (PROFILE_PART_BYTES // 256) + b"end"
CPU = protocol.Profile("cpu", 10.0)
LATEST_NS = 1 << 62


class Service:
    """Three workers, and the profiles of one of them."""

    def __init__(self) -> None:
        self.world = running(3)
        self.board = Board(3)
        self.profiles = Profiles(
            self.world.fleet, self.board, lambda slot: 40 + slot, lambda slot, size, at: RESULT[at : at + size]
        )

    def wanted(self, slot: int) -> list[int]:
        words = (Given.PROFILE_WANTED, Given.PROFILE_KIND, Given.PROFILE_MS, Given.PROFILE_FD)
        return [self.board.slot(slot).given[word] for word in words]

    def tell(self, slot: int, **words: int) -> None:
        """Have a worker write to the board, and the master look at it."""
        for name, value in words.items():
            self.board.slot(slot).words[Word[name]] = value
        assert self.board.checked(slot).look(LATEST_NS) is None


@pytest.fixture
def service() -> Service:
    return Service()


def test_worker_with_most_in_flight_takes_the_profile(service: Service) -> None:
    service.tell(2, UNPLACED=7)
    answer = service.profiles.begin(CPU, 0)
    assert answer == {"number": 1, "worker": 2, "pid": service.world.process(2).pid}
    assert service.wanted(2) == [1, 1, 10_000, 42]


def test_worker_that_is_named_takes_it_and_others_do_not_exist(service: Service) -> None:
    assert service.profiles.begin(protocol.Profile("memory", 0.5, 3), 0)["worker"] == 3
    assert service.wanted(3) == [1, 2, 500, 43]
    service.profiles.end(1)
    with pytest.raises(RequestRefused, match=r"there is no worker 4\. There are: 1, 2, 3\."):
        service.profiles.begin(protocol.Profile("cpu", 1.0, 4), 0)


def test_profile_goes_from_waiting_to_its_result_in_parts(service: Service) -> None:
    service.profiles.begin(CPU, 0)
    assert service.profiles.state(1, 1) == {"state": "waiting"}
    service.tell(1, PROFILE_BEGUN=1)
    assert service.profiles.state(1, 2) == {"state": "running"}
    with pytest.raises(RequestRefused, match="not complete"):
        service.profiles.part(1, 0, 3)
    service.tell(1, PROFILE_ENDED=1, PROFILE_SIZE=len(RESULT))
    assert service.profiles.state(1, 3) == {"state": "done", "size": len(RESULT)}
    parts = [base64.b64decode(service.profiles.part(1, at, 4)["part"]) for at in (0, PROFILE_PART_BYTES, len(RESULT))]
    assert parts == [RESULT[:PROFILE_PART_BYTES], b"end", b""]
    service.profiles.end(1)
    assert service.wanted(1)[0] == 0
    with pytest.raises(RequestRefused, match="profile 1 was ended"):
        service.profiles.part(1, 0, 5)


def test_another_profile_is_refused_until_the_client_ends_it_or_has_gone(service: Service) -> None:
    service.profiles.begin(CPU, 0)
    service.profiles.state(1, 3 * NS_PER_S)
    with pytest.raises(RequestRefused, match=r"a cpu profile of worker 1 is being taken, for about 3 s more"):
        service.profiles.begin(CPU, 7 * NS_PER_S)
    assert service.profiles.begin(protocol.Profile("cpu", 1.0, 2), 3 * NS_PER_S + LEASE_NS)["number"] == 2
    assert (service.wanted(1)[0], service.wanted(2)[0]) == (0, 2)


def test_worker_that_does_not_begin_or_end_in_time_is_an_error(service: Service) -> None:
    service.profiles.begin(CPU, 0)
    with pytest.raises(RequestRefused, match=r"worker 1 .* does not begin the profile"):
        service.profiles.state(1, BEGIN_NS + 1)
    service.profiles.begin(CPU, 0)
    service.tell(1, PROFILE_BEGUN=2)
    with pytest.raises(RequestRefused, match="worker 1 does not end the profile"):
        service.profiles.state(2, BEGIN_NS + SLACK_NS + 10 * NS_PER_S + 1)
    assert service.wanted(1)[0] == 0


def test_end_or_replacement_of_the_worker_is_an_error(service: Service) -> None:
    pid = service.profiles.begin(CPU, 0)["pid"]
    service.world.exit(1, -9)
    with pytest.raises(RequestRefused, match=rf"worker 1 \(process {pid}\) ended before its profile was complete"):
        service.profiles.state(1, 1)


def test_failure_of_the_profile_is_told_in_its_words(service: Service) -> None:
    service.profiles.begin(CPU, 0)
    service.tell(1, PROFILE_BEGUN=1, PROFILE_ENDED=1, PROFILE_FAILED=1, PROFILE_SIZE=4)
    with pytest.raises(RequestRefused, match=r"worker 1 failed to take the profile: \\x00\\x01\\x02\\x03\. "):
        service.profiles.state(1, 1)


def test_new_process_of_a_slot_has_no_profile_to_take(service: Service) -> None:
    service.profiles.begin(CPU, 0)
    service.board.checked(1).prepare(1, False, 0)
    assert service.wanted(1)[0] == 0
