"""The control connection of the broker, for tests: it moves the clock, blocks publishers, and tells what queues hold.

It is a Unix socket that only its owner may use, never AMQP. A request is one line of JSON with `do` and its
arguments; the answer is one line of JSON, with `error` when the request cannot be done.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mxworker.devbroker.server import EmbeddedBroker

_MAX_REQUEST_BYTES = 64 * 1024
_PATIENCE_S = 30.0


class ControlServer:
    """Answers requests about one broker. Call `start`, and `stop` at the end."""

    def __init__(self, broker: EmbeddedBroker, path: Path) -> None:
        self._broker = broker
        self._path = path
        self._server: asyncio.Server | None = None
        self._requests: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "advance": self._advance,
            "block": self._block,
            "unblock": self._unblock,
            "disconnect": self._disconnect,
            "state": self._state,
            "delete_vhost": self._delete_vhost,
        }

    async def start(self) -> None:
        """Listen; OSError when the path cannot be used."""
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_MAX_REQUEST_BYTES)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Answer nothing any more."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # the client has gone, or sent a line without an end
        finally:
            writer.close()

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            return self._requests[request["do"]](request)
        except (ValueError, KeyError, TypeError) as error:
            return {"error": f"the request cannot be done: {error!r}"}

    def _advance(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Move the clock by `ms`, or to the next timer if that comes within `ms`; `peers` moves heartbeats as well."""
        by_ms = float(request["ms"])
        clock = self._broker.clock
        if request.get("to_next"):
            nearest_ms = clock.nearest_ms()
            by_ms = by_ms if nearest_ms is None else min(by_ms, max(0.0, nearest_ms - clock.now_ms))
        fired = clock.advance(by_ms)
        if request.get("peers"):
            fired += self._broker.peer_clock.advance(by_ms)
        return {"fired": fired, "advanced_ms": by_ms}

    def _block(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._broker.set_alarm(str(request.get("reason", "low on memory")))
        return {}

    def _unblock(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self._broker.set_alarm(None)
        return {}

    def _disconnect(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        connections = list(self._broker.connections)
        for connection in connections:
            connection.force_close(f"Closed via management plugin: {request.get('reason', '')}")
        return {"closed": len(connections)}

    def _delete_vhost(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Delete a virtual host with its queues. One that is missing is no error."""
        self._broker.delete_vhost(str(request["vhost"]))
        return {}

    def _state(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "connections": len(self._broker.connections),
            "vhosts": {
                vhost.name: {
                    queue.name: {
                        "ready": queue.ready.count,
                        "unacked": queue.unacked,
                        "consumers": len(queue.consumers),
                    }
                    for queue in vhost.topology.queues.values()
                }
                for vhost in self._broker.vhosts.values()
            },
        }


class BrokerControl:
    """A blocking client of the control connection; use it as a context manager, or call `close`."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect(path)
        self._stream = self._socket.makefile("rwb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._socket.close()

    def advance(self, seconds: float, *, peers: bool = False) -> int:
        """Move the clock; return how many timers fired. With `peers` heartbeats see it too."""
        return int(self._ask("advance", ms=seconds * 1000, peers=peers)["fired"])

    def advance_to_next(self, at_most_s: float) -> float:
        """Move the clock to the next timer, at most this far; return how far it was moved, in seconds."""
        return float(self._ask("advance", ms=at_most_s * 1000, to_next=True)["advanced_ms"]) / 1000

    def block(self, reason: str = "low on memory") -> None:
        """Block clients that publish, as RabbitMQ does when memory or disk run out."""
        self._ask("block", reason=reason)

    def unblock(self) -> None:
        """Let them go on."""
        self._ask("unblock")

    def disconnect(self, reason: str = "a test") -> int:
        """Close all connections of clients; return how many there were."""
        return int(self._ask("disconnect", reason=reason)["closed"])

    def queues(self, vhost: str = "/") -> Mapping[str, Mapping[str, int]]:
        """Return what each queue holds: `ready`, `unacked`, `consumers`."""
        found: Mapping[str, Mapping[str, int]] = self._ask("state")["vhosts"].get(vhost, {})
        return found

    def delete_vhost(self, vhost: str) -> None:
        """Delete a virtual host with its queues. A client that opens it again gets a new one."""
        self._ask("delete_vhost", vhost=vhost)

    def connections(self) -> int:
        """Return how many clients are connected."""
        return int(self._ask("state")["connections"])

    def _ask(self, do: str, **arguments: Any) -> Mapping[str, Any]:
        self._stream.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._stream.flush()
        line = self._stream.readline()
        if not line:
            raise ConnectionError("the embedded broker has ended")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer
