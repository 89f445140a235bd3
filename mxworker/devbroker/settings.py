"""How a broker is to run: what its process is told, without the broker itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Account:
    """The one user of the broker."""

    user: str = "guest"
    password: str = "guest"  # noqa: S105 - as RabbitMQ has it on loopback


@dataclass(frozen=True)
class Limits:
    """Bounds of the broker, those of RabbitMQ by default. `delivery_limit` is that of quorum queues; None is none."""

    max_message_bytes: int = 128 * 1024 * 1024
    channel_max: int = 2047
    frame_max: int = 131_072
    heartbeat_s: int = 60
    delivery_limit: int | None = 20


@dataclass(frozen=True)
class Settings:
    """How to run the broker. Port 0 is any free port; `control_path` is where to make a control socket."""

    host: str = "127.0.0.1"
    port: int = 5672
    account: Account = field(default_factory=Account)
    limits: Limits = field(default_factory=Limits)
    control_path: str | None = None
