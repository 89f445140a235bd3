"""The settings tree: one leaf for each setting, with a name, a range, a default inside it, and a sentence."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, get_type_hints

import pytest

from mxworker.brokers import Brokers, BrokerUrl
from mxworker.config.leaf import Leaf, leaves, out_of_range
from mxworker.config.limits import Limits
from mxworker.config.pool import PoolSettings
from mxworker.config.process import Consumption, Supervision
from mxworker.config.publisher import PublisherOptions, PublisherSettings
from mxworker.config.tree import DEFAULTS, Settings
from mxworker.errors import ConfigError

LEAVES = tuple(leaves(DEFAULTS))
BY_KEY = {leaf.key: leaf for leaf in LEAVES}


def test_names_are_made_from_the_place_in_the_tree() -> None:
    leaf = BY_KEY["pool.max-connections"]
    assert (leaf.path, leaf.flag, leaf.variable, leaf.name) == (
        ("pool", "max_connections"),
        "--pool-max-connections",
        "MXWORKER_POOL_MAX_CONNECTIONS",
        "pool_max_connections",
    )
    assert BY_KEY["publisher.timeout"].path == ("publisher", "timeout_s")
    assert BY_KEY["max-rss"].path == ("limits", "replace_after", "rss_bytes")


def test_no_two_settings_share_a_name() -> None:
    for names in zip(*((leaf.key, leaf.flag, leaf.variable, leaf.short or leaf.key) for leaf in LEAVES), strict=True):
        assert len(set(names)) == len(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_each_setting_is_described_and_bounded(leaf: Leaf) -> None:
    assert re.fullmatch(r"[A-Z].*\.", leaf.sentence)
    assert leaf.kind.allowed
    assert leaf.section
    assert leaf.default in (None, ()) or leaf.kind.allows(leaf.default)
    assert not leaf.kind.allows(object())
    assert re.match(f"{leaf.flag} is .*, but must be ", out_of_range(leaf.flag, object(), leaf.kind))


def test_every_field_of_the_tree_is_a_setting_or_a_group_of_them() -> None:
    def unknown(at: Any) -> list[str]:
        plain = [each.name for each in dataclasses.fields(at) if not {"leaf", "group"} & set(each.metadata)]
        inner = [getattr(at, each.name) for each in dataclasses.fields(at) if "group" in each.metadata]
        return [*plain, *(name for group in inner for name in unknown(group))]

    assert unknown(DEFAULTS) == []


def test_defaults_are_the_promised_ones() -> None:
    assert dataclasses.asdict(DEFAULTS.pool) == {
        "min_connections": 2,
        "max_connections": 4,
        "connect_timeout_s": 10,
        "health_check_s": 30,
        "idle_trim_s": 60,
        "warm_channels": 10,
        "max_channels": 100,
        "borrow_timeout_s": 5,
    }
    assert dataclasses.asdict(DEFAULTS.publisher) == {
        "channels": 2,
        "max_in_flight": 10_000,
        "overflow": "wait",
        "when_blocked": "wait",
        "timeout_s": 5,
        "drain_timeout_s": 30,
        "attempts": 3,
        "retry_base_s": 0.05,
        "retry_cap_s": 0.5,
        "retry_factor": 2,
        "retry_unconfirmed": True,  # in a worker
        "compression": "none",
        "compression_level": 6,
        "compression_threshold_bytes": 1024,
        "max_body_bytes": 16 * 2**20,
    }


def test_settings_are_frozen() -> None:
    of_processes = (Supervision("app", 4), Consumption("app", Brokers((BrokerUrl("rabbit"),))))
    groups = [getattr(DEFAULTS, each.name) for each in dataclasses.fields(DEFAULTS)]
    for settings in (*of_processes, DEFAULTS, *groups, Limits()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, dataclasses.fields(settings)[0].name, "other")


def test_no_secret_is_in_the_text_of_the_tree() -> None:
    broker = dataclasses.replace(DEFAULTS.broker, urls=("amqp://me:S3cr3t@rabbit/",))
    assert "S3cr3t" not in repr(dataclasses.replace(DEFAULTS, broker=broker))


# Values from code


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"min_connections": 1}, "min_connections is 1, but must be a whole number from 2 to 1000."),
        ({"max_connections": 2}, "max_connections is 2, but must be a whole number from 3 to 1000."),
        ({"min_connections": 5}, "min_connections is 5, above max_connections, 4."),
        ({"warm_channels": -1}, "warm_channels is -1, but must be a whole number from 0 to 65535."),
        ({"max_channels": 65536}, "max_channels is 65536, but must be a whole number from 1 to 65535."),
        ({"borrow_timeout_s": 0}, "borrow_timeout_s is 0, but must be a time above 0"),
        ({"idle_trim_s": float("nan")}, "idle_trim_s is nan, but must be a time above 0"),
        (
            {"connect_timeout_s": float("inf")},
            "connect_timeout_s is inf, but must be a time above 0",
        ),
    ],
)
def test_pool_that_cannot_work_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'pool: {why}')}"):
        PoolSettings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"channels": 0}, "channels is 0, but must be a whole number from 1 to 2000."),
        ({"max_in_flight": "10"}, "max_in_flight is '10', but must be a whole number"),
        ({"attempts": 1.5}, "attempts is 1.5, but must be a whole number"),
        ({"max_body_bytes": True}, "max_body_bytes is True, but must be a size from 1B to 512MiB."),
        ({"timeout_s": 0}, "timeout_s is 0, but must be a time above 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan, but must be a time above 0"),
        ({"timeout_s": "5s"}, "timeout_s is '5s', but must be a time above 0"),
        ({"retry_factor": 0.5}, "retry_factor is 0.5, but must be a number from 1 to 100."),
        ({"retry_unconfirmed": "no"}, "retry_unconfirmed is 'no', but must be true or false."),
        ({"overflow": "block"}, "overflow is 'block', but must be 'wait', 'raise' or 'drop'."),
        ({"when_blocked": "drop"}, "when_blocked is 'drop', but must be 'wait' or 'raise'."),
        ({"compression": "gzip", "compression_level": 10}, "compression_level is 10, but gzip goes up to 9."),
    ],
)
def test_publisher_that_cannot_work_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"publisher: {why}")):
        PublisherSettings(**wrong)


def test_options_of_a_publisher_are_the_fields_of_its_settings() -> None:
    fields = get_type_hints(PublisherSettings)
    del fields["compression"]  # a parameter of its own of `Publisher.connect`, which takes a Compression too
    assert get_type_hints(PublisherOptions) == fields


def test_a_tree_is_made_in_code_too() -> None:
    chosen = Settings(pool=PoolSettings(max_channels=7))
    assert (chosen.pool.max_channels, chosen.publisher) == (7, DEFAULTS.publisher)
