"""What applications test their handlers with.

    from mxworker.testing import TestWorker

    async def test_order() -> None:
        async with TestWorker(handlers) as worker:
            result = await worker.deliver("orders", {"id": 1, "total": 5})
            assert isinstance(result.settlement, Ack)
            worker.assert_published("orders.done", {"id": 1})

`TestWorker` is a worker in the test's own event loop: `worker` says how. The fixture `mx_broker` runs services in
processes: `plugin` has it. This module imports nothing before it is asked, since pytest imports it for the plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "BrokerUnderTest",
    "Expected",
    "HandlerFailed",
    "Received",
    "Result",
    "ServiceUnderTest",
    "StillWaiting",
    "TestWorker",
]

if TYPE_CHECKING:
    from mxworker.testing.end_to_end import BrokerUnderTest
    from mxworker.testing.received import Received
    from mxworker.testing.results import Expected, HandlerFailed, Result
    from mxworker.testing.services import ServiceUnderTest
    from mxworker.testing.waiting import StillWaiting
    from mxworker.testing.worker import TestWorker
else:
    _HOMES = {
        "BrokerUnderTest": "end_to_end",
        "Expected": "results",
        "HandlerFailed": "results",
        "Received": "received",
        "Result": "results",
        "ServiceUnderTest": "services",
        "StillWaiting": "waiting",
        "TestWorker": "worker",
    }

    def __getattr__(name: str) -> Any:
        """Import a name on first use."""
        if name in _HOMES:
            return getattr(import_module(f"mxworker.testing.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'mxworker.testing' has no attribute {name!r}")

    def __dir__() -> list[str]:
        """List the names that are imported late, too."""
        return sorted({*globals(), *__all__})
