"""What the master tells in JSON becomes the same values again."""

from __future__ import annotations

import orjson
import pytest

from mxworker.control.decoding import decoded
from mxworker.control.status import LinkStatus, ServiceStatus
from tests.pure.observer.views import service, worker


def test_status_comes_back_as_it_was() -> None:
    links = (LinkStatus("consume", "down", "refused", 2, 1.5),)
    told = service(links=links, drain_left_s=1.5, workers=(worker(1), worker(2, pid=None, uptime_s=None)))
    assert decoded(ServiceStatus, orjson.loads(orjson.dumps(told))) == told


def test_field_of_a_later_version_is_ignored_and_a_missing_one_has_its_default() -> None:
    fields = orjson.loads(orjson.dumps(service()))
    del fields["restarts"]
    assert decoded(ServiceStatus, fields | {"news": 1}) == service(restarts={})


@pytest.mark.parametrize("fields", [{}, {"name": "x"}, [], "text", None])
def test_what_is_no_status_is_refused(fields: object) -> None:
    with pytest.raises(TypeError):
        decoded(ServiceStatus, fields)  # type: ignore[arg-type]
