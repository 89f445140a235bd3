"""How many deliveries of a slot ended in which way."""

from mxworker.board.metrics import outcomes
from mxworker.board.metrics_layout import Outcome
from mxworker.board.slot import BoardSlot


def counted(slot: BoardSlot, outcome: Outcome) -> int:
    """Return how many deliveries ended so, over all handlers."""
    return outcomes(slot.metrics)[outcome]
