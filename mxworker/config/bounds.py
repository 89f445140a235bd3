"""Defaults and bounds that several modules know."""

from __future__ import annotations

DEFAULT_CONCURRENCY = 32
DEFAULT_HANDLER_TIMEOUT_S = 30.0
DEFAULT_PROCESS_CONCURRENCY = 256
DEFAULT_QUARANTINE_AFTER = 3
DEFAULT_MAX_BODY_BYTES = 128 * 1024 * 1024
"""The largest body that RabbitMQ 3 takes by default (https://www.rabbitmq.com/docs/configure, max_message_size)."""
DEFAULT_MAX_PUBLISH_BYTES = 16 * 1024 * 1024
"""The largest body that RabbitMQ 4 takes by default."""
MAX_BODY_BYTES = 512 * 1024 * 1024
"""The largest body that RabbitMQ takes at all (the same page)."""
MAX_GZIP_LEVEL = 9
MAX_DURATION_S = 365 * 24 * 3600
MAX_PREFETCH = 65535
MAX_RETRIES = 100
MAX_BATCH_WAIT_S = 3600.0
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "text", "json")
MAX_WORKERS = 512
MAX_CHANNELS = 65535
