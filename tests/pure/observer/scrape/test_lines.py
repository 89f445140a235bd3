"""prometheus_client writes each sample once, and again when there was a scrape without it."""

from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from mxworker.observer.scrape.family_kinds import gauge
from mxworker.observer.scrape.lines import Lines


def test_text_of_a_sample_is_kept_until_a_scrape_is_without_it() -> None:
    encoded: list[str] = []

    def encode(registry: Collector) -> bytes:
        encoded.extend(sample.labels["queue"] for family in registry.collect() for sample in family.samples)
        return generate_latest(registry)

    lines = Lines(encode)
    for number, queues in enumerate(("ab", "abc", "c", "ca", "ca")):
        text = lines.text([gauge("depth", "Messages.", "queue", [((queue,), number) for queue in queues])])
        assert text.splitlines()[2:] == [f'depth{{queue="{queue}"}} {number}.0' for queue in queues]
    assert encoded == ["a", "b", "c", "a"]
