"""A private RabbitMQ cluster on one machine: nodes that share a cookie and a port mapper, joined to the first one.

Each node keeps its own data and can be killed and started alone; see `node.Node` for what holds for every one of them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

from tests.rabbit.node import START_TIMEOUT_S, Epmd, Node

_LOOK_S = 0.1


class Cluster:
    """Nodes that start joined. Use it as a context manager; leaving the block crashes them all.

    You must enter the block in a thread that outlives it: the nodes die with that thread.
    """

    def __init__(self, data: Path, size: int = 3) -> None:
        self._epmd = Epmd(data / "epmd")
        self.nodes = [Node(data / f"node{number}", name=f"node{number}", epmd=self._epmd) for number in range(size)]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        """Boot all nodes side by side, then join them one after the other: two that join at once may disagree."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_until_ready()
        for node in self.nodes[1:]:
            node.ctl("stop_app")
            node.ctl("join_cluster", self.nodes[0].name)
            node.ctl("start_app")

    def _end(self) -> None:
        for node in self.nodes:
            node.kill()
        self._epmd.stop()

    @property
    def urls(self) -> list[str]:
        """Where clients connect, one URL for each node."""
        return [node.url for node in self.nodes]

    def sync(self) -> None:
        """Bring to disk which quorum queues there are, on every node; see `Node.sync`."""
        for node in self.nodes:
            node.sync()

    def leader_of(self, queue: str) -> Node:
        """Return the node that leads a quorum queue; waits while an election goes on. All nodes must be up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            leader = self._column(queue, "leader")
            for node in self.nodes:
                if node.name == leader:
                    return node
            assert time.monotonic() < deadline, f"queue {queue} has no leader: {leader!r}"
            time.sleep(_LOOK_S)

    def restart(self, node: Node, queue: str) -> None:
        """Start a node that was killed and return when all nodes hold `queue` again."""
        node.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(other.name in self._column(queue, "online") for other in self.nodes):
            assert time.monotonic() < deadline, f"{node.name} is not back in the cluster"
            time.sleep(_LOOK_S)

    def _column(self, queue: str, column: str) -> str:
        rows = self.nodes[0].ctl("list_queues", "--no-table-headers", "name", column).splitlines()
        return next((row.partition("\t")[2] for row in rows if row.partition("\t")[0] == queue), "")
