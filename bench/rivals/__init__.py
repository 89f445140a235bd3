"""The contenders that are not mxworker: `CONTENDERS` lists them. A module makes each of them ready."""

from __future__ import annotations

from bench.contenders import Contender
from bench.rivals.aio_pika import AIO_PIKA

CONTENDERS: tuple[Contender, ...] = (AIO_PIKA,)
