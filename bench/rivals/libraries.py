"""aio-pika and aiormq, the libraries beneath most of the frameworks, on asyncio and on uvloop."""

from __future__ import annotations

from bench.contenders import Contender, Work
from bench.rivals.in_python import InPython

_ALL = frozenset(Work)
_NO_RELAY = frozenset({Work.CONSUME, Work.PUBLISH})
_SHARE = 0.3
_ON_UVLOOP = {"BENCH_UVLOOP": "1"}

AIORMQ = Contender("aiormq", InPython("aiormq", ("aiormq", "pamqp"), _NO_RELAY), _NO_RELAY, share=_SHARE)
AIO_PIKA = Contender("aio-pika", InPython("aio_pika", ("aio-pika", "aiormq"), _ALL), _ALL, share=_SHARE)
AIO_PIKA_ON_UVLOOP = Contender(
    "aio-pika, uvloop",
    InPython("aio_pika", ("aio-pika", "aiormq", "uvloop"), _ALL, environment=_ON_UVLOOP),
    _ALL,
    share=_SHARE,
)
