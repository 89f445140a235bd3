"""All rivals. What is missing on a machine is said when a rival is made ready, and the report shows it."""

from __future__ import annotations

from bench.contenders import Contender, Work
from bench.rivals import compiled
from bench.rivals.frameworks import FRAMEWORKS
from bench.rivals.libraries import AIO_PIKA, AIO_PIKA_ON_UVLOOP, AIORMQ

GO = Contender("Go", compiled.go)
GO_WITH_JSON = Contender("Go, JSON", lambda: compiled.go("json"), frozenset({Work.CONSUME}))
"""It decodes each body, as mxworker does; the other one leaves it as bytes, which is quicker."""
C = Contender("C", compiled.c, frozenset({Work.CONSUME, Work.PUBLISH}))
C_ONE_ACK_PER_200 = Contender("C, one ack per 200", lambda: compiled.c("200"), frozenset({Work.CONSUME}))
"""The limit: no client that settles each message after its handler can do this."""

LIBRARIES = (GO, GO_WITH_JSON, C, C_ONE_ACK_PER_200, AIORMQ, AIO_PIKA, AIO_PIKA_ON_UVLOOP)
CONTENDERS: tuple[Contender, ...] = (*LIBRARIES, *FRAMEWORKS)
