"""Plain aio-pika, from the environment of mxworker, which stands on it."""

from __future__ import annotations

import sys

from bench.contenders import Contender, Programs, Work
from bench.environments import versions


def prepare() -> Programs:
    """Return its programs; it is installed already."""
    commands = {
        Work.CONSUME: (sys.executable, "-m", "bench.rivals.aio_pika_consume"),
        Work.PUBLISH: (sys.executable, "-m", "bench.rivals.aio_pika_publish"),
    }
    return Programs(versions(sys.executable, "aio-pika", "aiormq"), commands)


AIO_PIKA = Contender("aio-pika", prepare, frozenset({Work.CONSUME, Work.PUBLISH}), share=0.3)
