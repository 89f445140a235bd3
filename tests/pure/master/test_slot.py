"""What a slot promises to the fleet beyond what the fleet asks of it today."""

from __future__ import annotations

from mxworker.master.slot import Order, Slot
from mxworker.master.slot_states import Reason, SlotEvent


def test_hastened_process_is_killed_by_the_earlier_of_its_deadlines() -> None:
    slot = Slot(1)
    slot.move(SlotEvent.SPAWNED, Reason.START)
    slot.ask_to_stop(Reason.RELOAD, kill_ns=100, now_ns=10)
    assert slot.take_due(10) == [Order.TERMINATE]
    slot.hasten(50)
    slot.hasten(70)
    assert slot.take_due(49) == []
    assert slot.take_due(50) == [Order.KILL]
