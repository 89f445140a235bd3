"""The settings of a publisher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from mxworker.config.bounds import DEFAULT_MAX_PUBLISH_BYTES, MAX_BODY_BYTES, MAX_GZIP_LEVEL
from mxworker.config.kinds import Choice, Duration, Factor, Size, Switch, Whole
from mxworker.config.leaf import check_fields, leaf
from mxworker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    """The settings of a publisher, in a worker or from `Publisher.connect`.

    Raises ConfigError when a value cannot work.
    """

    channels: int = leaf(
        2,
        Whole(1, 2000),
        "Publishes are spread over this many channels. Those with one exchange and routing key take the same channel, "
        "in order, except for a publish that is retried or that waited for an earlier one with the same message id.",
    )
    max_in_flight: int = leaf(
        10_000,
        Whole(1, 10_000_000),
        "The window: how many publishes may be without an outcome.",
    )
    overflow: Literal["wait", "raise", "drop"] = leaf(
        "wait",
        Choice(("wait", "raise", "drop"), "HOW"),
        "How a publish at a full window is treated: 'wait' lets it wait, 'raise' raises PublishOverflow, and 'drop' "
        "drops it, which has a counter of its own.",
    )
    when_blocked: Literal["wait", "raise"] = leaf(
        "wait",
        Choice(("wait", "raise"), "HOW"),
        "Whether publishes wait or raise PublishOverflow while the broker blocks the connection.",
    )
    timeout_s: float = leaf(5.0, Duration(), "The bound on one publish, with all its attempts and waiting.")
    drain_timeout_s: float = leaf(
        30.0,
        Duration(may_be_zero=True),
        "How long to wait for open outcomes when the publisher is closed. In a worker, --drain-timeout bounds it too.",
    )
    attempts: int = leaf(
        3,
        Whole(1, 1000),
        "A publish that the broker refuses is sent up to this many times in all. A retry may duplicate it in a queue "
        "that took it.",
    )
    retry_base_s: float = leaf(
        0.05,
        Duration(),
        "The longest wait before the first retry. Each wait is a random part of the longest one, so that publishers "
        "do not retry together.",
    )
    retry_cap_s: float = leaf(0.5, Duration(), "The bound on the longest wait before a retry.")
    retry_factor: float = leaf(
        2.0, Factor(1.0, 100.0), "By how much the longest wait grows from one retry to the next."
    )
    retry_unconfirmed: bool = leaf(
        False, Switch(), "Whether a publish with an unknown outcome is retried, too. The retry may duplicate it."
    )
    compression: Literal["none", "gzip", "zstd"] = leaf(
        "none",
        Choice(("none", "gzip", "zstd"), "NAME"),
        "How to compress bodies of messages that do not choose for themselves: 'none', 'gzip', or 'zstd', which needs "
        "the extra of that name.",
    )
    compression_level: int = leaf(
        6, Whole(1, 19), "How hard to compress: 1 is the fastest. gzip goes up to 9, zstd up to 19."
    )
    compression_threshold_bytes: int = leaf(1024, Size(), "Bodies of up to this size are not compressed.")
    max_body_bytes: int = leaf(
        DEFAULT_MAX_PUBLISH_BYTES,
        Size(at_most_bytes=MAX_BODY_BYTES),
        "The largest body to publish. Keep it at or below the broker's max_message_size: a body above that costs the "
        "channel, and the other publishes on that channel end unconfirmed.",
        name="max-publish-size",
    )

    def __post_init__(self) -> None:
        check_fields(self, "publisher: ")
        if self.compression == "gzip" and self.compression_level > MAX_GZIP_LEVEL:
            raise ConfigError(
                f"publisher: compression_level is {self.compression_level}, but gzip goes up to {MAX_GZIP_LEVEL}."
            )


class PublisherOptions(TypedDict, total=False):
    """The fields of `PublisherSettings` as keyword arguments."""

    channels: int
    max_in_flight: int
    overflow: Literal["wait", "raise", "drop"]
    when_blocked: Literal["wait", "raise"]
    timeout_s: float
    drain_timeout_s: float
    attempts: int
    retry_base_s: float
    retry_cap_s: float
    retry_factor: float
    retry_unconfirmed: bool
    compression_level: int
    compression_threshold_bytes: int
    max_body_bytes: int
