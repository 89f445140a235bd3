"""mxworker: a multi-process RabbitMQ worker service.

    from mxworker import Handlers, Reject

    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        if payload["total"] < 0:
            raise Reject("negative total")

What is named here, and the exceptions in `mxworker.errors`, is the public interface; everything else may change.
"""

from mxworker.context import Context
from mxworker.delivery import Delivery
from mxworker.handlers import Handlers, Queue
from mxworker.settlement import Ack, Reject, Requeue

__version__ = "0.1.0"
__all__ = ["Ack", "Context", "Delivery", "Handlers", "Queue", "Reject", "Requeue"]
