"""The names of findings. They are public: `--ignore` takes them, and programs look for them in the JSON. Pure."""

from __future__ import annotations

OF_THE_BROKER = frozenset(
    {
        "binding-pattern",
        "exchange-missing",
        "exchange-unusable",
        "may-not-consume",
        "may-not-declare",
        "may-not-publish",
        "queue-differs",
        "queue-is-stream",
        "queue-missing",
        "queue-transient",
        "queue-unusable",
        "too-many-channels",
    }
)
NAMES = OF_THE_BROKER | frozenset(
    {
        "consumer-timeout",
        "delivery-limit-unknown",
        "endless-redelivery",
        "memory-limit",
        "no-dead-letter-target",
        "open-files-limit",
        "password-on-command-line",
        "plain-text-broker",
        "priority-prefetch",
        "removed-argument",
    }
)
