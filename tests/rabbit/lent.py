"""A broker for as long as a block runs: the one that the environment names, or a private node."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rabbit.installation import OWN_BROKER
from tests.rabbit.node import Node


@contextmanager
def lent_broker() -> Iterator[str]:
    """Lend a broker and yield its URL. Raises RabbitMQMissing or NodeError."""
    named = os.environ.get(OWN_BROKER)
    if named:
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="mxworker-rabbit-") as folder:
        node = Node(Path(folder))
        try:
            node.start()
            yield node.url
        finally:
            node.stop()
