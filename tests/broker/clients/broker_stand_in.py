"""A pytest plugin for the test suites of aio-pika and aiormq, harmless to others: a given broker, no container.

It runs inside the suites' own environment and imports nothing of mxworker. STAND_IN_PORT is the port of a broker on
loopback; STAND_IN_CERTS a folder with server.pem and server.key. AMQPS is a proxy in front of the same broker.

aiormq's distribution lacks the fixtures that its tests need, so they are here. Both import `tests.docker_client`, which
this module replaces; killing or removing a container does nothing.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import threading
import types
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from yarl import URL

HOST = "127.0.0.1"
PORT = int(os.environ["STAND_IN_PORT"])
CERTS = os.environ["STAND_IN_CERTS"]


@dataclass
class ContainerInfo:
    """What the suites know of a container."""

    id: str
    ports: dict[str, int]
    host: str


@dataclass
class DockerHostInfo:
    """What the suites know of Docker."""

    container_host: str = HOST


class DockerNotAvailableError(Exception):
    """Never raised."""


class DockerClient:
    """Lends the broker whenever a container is asked for."""

    def __init__(self, _info: object = None) -> None:
        pass

    def run(self, _image: str, _ports: list[str], environment: object = None) -> ContainerInfo:
        return ContainerInfo("the-broker", {"5672/tcp": PORT, "5671/tcp": proxy.port()}, HOST)

    def kill(self, _container: str) -> None:
        """Let it live: it is shared."""

    remove = stop = kill


@dataclass
class TlsProxy:
    """Takes TLS on a port of its own and passes the plain bytes on."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _port: int = 0

    def port(self) -> int:
        if not self._port:
            threading.Thread(target=self.loop.run_forever, daemon=True).start()
            self._port = asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result()
        return self._port

    async def _listen(self) -> int:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{CERTS}/server.pem", f"{CERTS}/server.key")
        server = await asyncio.start_server(self._serve, HOST, 0, ssl=context)
        return int(server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(HOST, PORT)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()


proxy = TlsProxy()


@pytest.fixture(scope="session")
def rabbitmq_container() -> ContainerInfo:
    return DockerClient().run("", [])


@pytest.fixture(scope="session")
def amqp_direct_url(rabbitmq_container: ContainerInfo) -> URL:
    return URL.build(scheme="amqp", user="guest", password="guest", path="//", host=HOST, port=PORT)


def _replacement() -> Any:
    module: Any = types.ModuleType("tests.docker_client")
    for value in (ContainerInfo, DockerHostInfo, DockerNotAvailableError, DockerClient):
        setattr(module, value.__name__, value)
    module.check_docker_available = DockerHostInfo
    return module


sys.modules["tests.docker_client"] = _replacement()
