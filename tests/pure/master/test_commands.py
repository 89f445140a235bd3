"""What the master does about the operator's signals, which are commands as the requests of the socket are."""

from __future__ import annotations

import signal
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import pytest

from mxworker.board.page import Board
from mxworker.config.process import Supervision
from mxworker.master.commands import Commands
from mxworker.master.fleet import Fleet
from mxworker.master.plan import Send
from mxworker.master.profiles import Profiles
from mxworker.master.service_status import StatusReport
from mxworker.master.slot import Order
from mxworker.system.terminal import SETTLES_S, Terminal
from tests.pure.master.world import running

S = 1_000_000_000


class Master:
    """The commands of a master with workers that run, and what they came to."""

    def __init__(self, terminal: Terminal | None = None) -> None:
        self.world = running(2)
        self.fleet: Fleet = self.world.fleet
        self.board = Board(2)
        self.told: list[Order] = []
        status = StatusReport(Supervision("app", 2), self.fleet, self.board, 0)
        profiles = Profiles(self.fleet, self.board, lambda slot: 0, lambda slot, size, at: b"")
        self.commands = Commands(self.fleet, self.board, status, profiles, self.told.append, terminal)

    def take(self, *signums: signal.Signals, after_s: float = 0.0) -> None:
        """Take signals, as one turn of the loop does."""
        self.world.now_ns += round(after_s * S)
        self.commands.take_signals(signums, self.world.now_ns)

    def orders(self) -> set[Order]:
        """Return what is sent to the workers now."""
        return {action.order for action in self.fleet.plan(self.world.now_ns) if isinstance(action, Send)}


class Screen(Terminal):
    """A terminal that hangs up when the test says so."""

    is_gone = False

    def __init__(self) -> None:
        self.was_there = True

    @property
    def has_gone(self) -> bool:
        """Whether it has hung up."""
        return self.is_gone


def test_interrupt_drains_then_cancels_then_kills() -> None:
    master = Master()
    orders = []
    for _ in range(3):
        master.take(SIGINT)
        orders.append(master.orders())
    assert orders == [{Order.TERMINATE}, {Order.CUT_SHORT}, {Order.KILL}]


def test_terminate_drains_however_often_it_comes() -> None:
    master = Master()
    master.take(SIGTERM)
    assert master.orders() == {Order.TERMINATE}
    master.take(SIGTERM, SIGTERM)
    assert master.orders() == set()


def test_quit_kills() -> None:
    master = Master()
    master.take(SIGQUIT)
    assert master.orders() == {Order.KILL}


def test_number_of_workers_follows_the_signals() -> None:
    master = Master()
    master.take(SIGTTIN, SIGTTIN, SIGTTOU)
    assert master.fleet.wanted == 3


def test_no_signal_scales_to_nothing(caplog: pytest.LogCaptureFixture) -> None:
    master = Master()
    master.take(SIGTTOU, SIGTTOU)
    assert master.fleet.wanted == 1
    assert "no change: " in caplog.text


def test_all_queues_are_paused_and_resumed_by_turns() -> None:
    master = Master()
    for is_paused in (True, False):
        master.take(SIGUSR2)
        assert master.board.directives.all_paused is is_paused
    assert master.told == [Order.LOOK, Order.LOOK]


def test_workers_are_asked_what_they_run() -> None:
    master = Master()
    master.take(SIGUSR1)
    assert master.told == [Order.DUMP]


def test_hang_up_reloads_at_once_without_a_terminal() -> None:
    master = Master()
    master.take(SIGHUP)
    assert master.fleet.generation == 2


def test_hang_up_reloads_when_the_terminal_turns_out_to_be_there() -> None:
    master = Master(Screen())
    master.take(SIGHUP)
    assert master.fleet.generation == 1
    assert master.commands.next_wakeup() == master.world.now_ns + round(SETTLES_S * S)
    master.take(after_s=SETTLES_S)
    assert master.fleet.generation == 2
    assert master.commands.next_wakeup() is None


def test_hang_up_drains_when_the_terminal_has_gone_meanwhile() -> None:
    screen = Screen()
    master = Master(screen)
    master.take(SIGHUP)
    screen.is_gone = True
    master.take(after_s=SETTLES_S / 2)
    assert master.fleet.is_stopping
    assert master.fleet.generation == 1
