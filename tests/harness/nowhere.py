"""The source of deliveries that nobody settles."""

from __future__ import annotations

from mxworker import Delivery


class Nowhere:
    """Takes every settlement and notes nothing."""

    is_lost = False
    is_consumed = True

    def ack(self, delivery: Delivery) -> bool:
        return True

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        return True

    def give_back(self, delivery: Delivery) -> bool:
        return True

    def holds(self, delivery: Delivery) -> bool:
        return True

    def give_up(self, why: str) -> None: ...
