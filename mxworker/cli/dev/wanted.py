"""What the process that publishes samples is told by `mxworker dev`. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples to publish, and where to. It holds the passwords of the URLs."""

    app: str
    app_dir: str | None
    may_be_insecure: bool
    queues: tuple[str, ...]
    """Empty: all queues of the application."""
    urls: tuple[str, ...]
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    parent: int
    """The pid of the process with which this one dies."""

    def line(self) -> bytes:
        """Return the line that `taken` reads."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def taken(cls, line: str) -> Wanted:
        """Return what `line` was made of."""
        fields: dict[str, Any] = json.loads(line)
        return cls(**{**fields, "queues": tuple(fields["queues"]), "urls": tuple(fields["urls"])})
