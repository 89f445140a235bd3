"""A client of the observer: one request on a connection of its own, as curl makes it."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.harness.waiting import wait_until

PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    text: str


class Web:
    """The observer at one address."""

    def __init__(self, url: str) -> None:
        """`url` is that of the status page."""
        self.url = url
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port = parts.hostname, parts.port

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask, and return the reply. `_` in a header's name stands for `-`. Raises OSError when nobody answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, found, reply.read().decode())
        finally:
            connection.close()

    def wait_for(self, path: str, status: int, text: str = "", within_s: float = 30.0) -> Answer:
        """Wait until the reply has this status and text."""
        seen: list[object] = [None]

        def found() -> Answer | None:
            try:
                answer = self.get(path)
            except (OSError, http.client.HTTPException) as error:
                seen[0] = error
                return None
            seen[0] = answer
            return answer if answer.status == status and text in answer.text else None

        try:
            answer = wait_until(found, within_s, f"{status} {text!r} from {path}")
        except AssertionError as error:
            raise AssertionError(f"{error}; last seen: {seen[0]}") from None
        assert answer is not None
        return answer

    def samples(self) -> dict[str, float]:
        """Scrape, and return the samples as they stand in the text."""
        answer = self.get("/metrics")
        assert answer.status == 200, answer
        lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
