"""The broker in its process: it listens for clients, has the clocks run, and keeps the virtual hosts.

There are two clocks of one kind. `clock` is that of messages and queues, which tests move. `peer_clock` is that of
heartbeats and other waits for a client; a client lives in real time, so it is moved on demand only.
"""

from __future__ import annotations

import asyncio
import socket
import time
from urllib.parse import quote

from mxworker.devbroker.connection import Connection
from mxworker.devbroker.running_clock import RunningClock
from mxworker.devbroker.settings import Settings
from mxworker.devbroker.vhost import VirtualHost

_BACKLOG = 1024


class EmbeddedBroker:
    """A broker that serves in the running event loop. Call `start`, and `stop` at the end."""

    def __init__(self, settings: Settings, listening: socket.socket | None = None) -> None:
        """Without a socket that listens already, `start` makes one at the address of the settings."""
        self.account = settings.account
        self.limits = settings.limits
        self.clock = RunningClock()
        self.peer_clock = RunningClock()
        self.alarm: str | None = None
        self.vhosts: dict[str, VirtualHost] = {}
        self.connections: set[Connection] = set()
        self.port = settings.port
        self._host = settings.host
        self._listening = listening
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients connect, with the password."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        account = f"{quote(self.account.user, safe='')}:{quote(self.account.password, safe='')}"
        return f"amqp://{account}@{host}:{self.port}/"

    async def start(self) -> None:
        """Listen for clients; OSError when the address cannot be used."""
        loop = asyncio.get_running_loop()
        if self._listening is None:
            self._server = await loop.create_server(self._accept, self._host, self.port, backlog=_BACKLOG)
        else:
            self._server = await loop.create_server(self._accept, sock=self._listening, backlog=_BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Take no clients any more, and close the connections of those that are there."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.force_close("broker forced connection closure with reason 'shutdown'")
        await asyncio.sleep(0)  # one turn, in which the closes leave
        self.clock.stop()
        self.peer_clock.stop()

    def vhost(self, name: str) -> VirtualHost:
        """Return a virtual host, which is made at first use."""
        if name not in self.vhosts:
            self.vhosts[name] = VirtualHost(name, self.clock, time.time(), self.limits.delivery_limit)
        return self.vhosts[name]

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with its queues. One that is missing is no error."""
        vhost = self.vhosts.pop(name, None)
        if vhost is not None:
            for queue in list(vhost.topology.queues.values()):
                vhost.delete_queue(queue)

    def opened(self, connection: Connection) -> None:
        """Note a connection."""
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)

    def set_alarm(self, reason: str | None) -> None:
        """Block clients that publish, for this reason; None ends that."""
        self.alarm = reason
        for connection in list(self.connections):
            connection.alarm_changed()

    def _accept(self) -> Connection:
        return Connection(self)
