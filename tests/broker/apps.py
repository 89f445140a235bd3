"""The applications that the guarantee tests run as a real service, and how they are started."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.harness import ledger
from tests.harness.ledger import Report
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import KEEPS_RETURNED, Client
from tests.rabbit.node import Node

SETTLED_WITHIN_S = 120.0

RECORDING = """
    import asyncio
    import os
    import random

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    work_s = float(os.environ["WORK_S"])


    @handlers.consume(Queue(os.environ["QUEUE"], type=os.environ["TYPE"]), concurrency=int(os.environ["CONCURRENCY"]))
    async def record(message_id: str) -> None:
        ledger.start(message_id)
        await asyncio.sleep(random.uniform(0, work_s))  # so that deliveries finish in another order than they came
        ledger.finish(message_id)
"""

RELAYING = """
    import asyncio
    import os
    import random

    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    work_s = float(os.environ["WORK_S"])
    output = os.environ["OUTPUT"]
    awaits = os.environ["AWAITS"] == "yes"


    @handlers.consume(Queue(os.environ["QUEUE"], type=os.environ["TYPE"]), concurrency=int(os.environ["CONCURRENCY"]))
    async def relay(message_id: str, ctx: Context) -> None:
        ledger.start(message_id)
        await asyncio.sleep(random.uniform(0, work_s))
        if awaits:
            await ctx.publisher.publish(message_id, routing_key=output)
        else:
            ctx.publisher.publish_nowait(message_id, routing_key=output)
        ledger.finish(message_id)
"""

FAILING = """
    import asyncio
    import os
    import random

    from mxworker import Context, Handlers, Queue, Reject, Retry
    from tests.harness.ledger import Ledger
    from tests.harness.retries import FAST

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    work_s = float(os.environ["WORK_S"])
    queue = Queue(os.environ["QUEUE"], type=os.environ["TYPE"], declare=os.environ["DECLARE"])


    @handlers.consume(queue, concurrency=int(os.environ["CONCURRENCY"]), retry=FAST)
    async def fail(message_id: str, ctx: Context) -> object:
        assert 1 <= ctx.attempt <= FAST.max_attempts
        ledger.start(message_id)
        await asyncio.sleep(random.uniform(0, work_s))
        match random.randrange(10):
            case 0 | 1 | 2 | 3:
                raise ValueError("by chance")
            case 4 | 5:
                return Retry(after=random.choice([0, 0.2, 5]))
            case 6:
                raise Reject("by chance")
        ledger.finish(message_id)
"""


class Recorded:
    """A queue with known messages, and the ledger of what handlers did with them."""

    def __init__(self, url: str, folder: Path, queue: str, queue_type: str = "quorum") -> None:
        self.queue = queue
        self.folder = folder
        self.path = folder / f"{queue}.ledger"
        self.ids: list[str] = []
        self._url = url
        self._type = queue_type

    def declare(self) -> None:
        """Declare the queue as the service will, so that it can be filled before the start."""
        arguments = {
            "x-queue-type": self._type,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"{self.queue}.dlq",
        }
        if self._type == "quorum":
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish", **KEEPS_RETURNED}
        with Client(self._url) as client:
            client.declare(self.queue, arguments=arguments)

    def publish(self, count: int, client: Client | None = None) -> None:
        """Publish `count` more messages, all confirmed, by way of `client` when it is given."""
        ids = [f"{self.queue}-{number}" for number in range(len(self.ids), len(self.ids) + count)]
        self.publish_ids(ids, client)

    def publish_ids(self, ids: Sequence[str], client: Client | None = None) -> None:
        """Publish messages with these bodies, all confirmed."""
        with nullcontext(client) if client is not None else Client(self._url) as open_client:
            open_client.publish(self.queue, (id_.encode() for id_ in ids))
        self.ids += ids

    @property
    def handled(self) -> int:
        """How many records the handlers have written; two for each finished one."""
        return ledger.count(self.path)

    @property
    def records(self) -> list[ledger.Record]:
        """All that the handlers have written."""
        return ledger.read(self.path)

    @property
    def finished_ids(self) -> set[str]:
        """The ids whose handler has finished."""
        return {record.id for record in self.records if record.event is ledger.FINISH}

    def wait_until_settled(self, node: Node) -> None:
        """Wait until the queue holds nothing, unsettled messages included.

        What has finished may be there still: a worker that was killed had not acked it, and whoever is stopped before
        handling it again leaves it in the queue.
        """
        wait_until(lambda: node.messages_in(self.queue) == 0, SETTLED_WITHIN_S, f"the end of all of {self.queue}")

    def judge(self) -> Report:
        """Drain what is left in the queue and compare all with what was published."""
        with Client(self._url) as client:
            left = [message.body.decode() for message in client.drain(self.queue)]
            rejected = [message.body.decode() for message in client.drain(f"{self.queue}.dlq")]
        assert not rejected, f"{len(rejected)} messages were rejected: {rejected[:3]}"
        return ledger.check(self.ids, self.records, left)

    @contextmanager
    def service(
        self,
        *flags: str,
        work_s: float = 0.0,
        concurrency: int = 32,
        url: str | None = None,
        source: str | None = RECORDING,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Iterator[Service]:
        """Run the recording application, or another one, on the queue, by way of `url` when it is given.

        With None for its source that is what the file app.py holds. `prefix` is a command that runs another one.
        """
        if source is not None:
            write_app(self.folder, source)
        settings = {
            "MXWORKER_BROKER_URL": url or self._url,
            "LEDGER": str(self.path),
            "QUEUE": self.queue,
            "TYPE": self._type,
            "WORK_S": str(work_s),
            "CONCURRENCY": str(concurrency),
            **(env or {}),
        }
        name = f"service-{uuid.uuid4().hex[:6]}"
        command = [*prefix, *mxworker_run("app:handlers", *flags, app_dir=self.folder)]
        with Service(command, self.folder, name=name, env=settings) as service:
            yield service


class Relayed:
    """A queue with known messages, and a second one to which handlers publish them again."""

    def __init__(self, url: str, folder: Path, queue: str) -> None:
        """`<queue>.out` is the second queue; `delete` it at the end."""
        self.input = Recorded(url, folder, queue)
        self.output = f"{queue}.out"
        self._url = url

    def declare(self) -> None:
        """Declare both queues."""
        self.input.declare()
        with Client(self._url) as client:
            client.declare_quorum(self.output)

    def delete(self) -> None:
        """Delete the second queue."""
        with Client(self._url) as client:
            client.delete(self.output)

    @contextmanager
    def service(
        self, *flags: str, awaits: bool, work_s: float = 0.0, concurrency: int = 32, url: str | None = None
    ) -> Iterator[Service]:
        """Run the relaying application; with `awaits` it waits for each confirm, else it leaves that to the worker."""
        env = {"OUTPUT": self.output, "AWAITS": "yes" if awaits else "no"}
        with self.input.service(
            *flags, work_s=work_s, concurrency=concurrency, url=url, source=RELAYING, env=env
        ) as service:
            yield service

    def outputs(self) -> Counter[str]:
        """Drain the second queue: how often each message is there."""
        with Client(self._url) as client:
            return Counter(message.body.decode() for message in client.drain(self.output))
