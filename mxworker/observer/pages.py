"""The pages: what is served beside metrics and probes, by path. Pure: each is made of a `View`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from mxworker.observer.facts import Facts
from mxworker.observer.history import History
from mxworker.observer.overview import overview
from mxworker.observer.page import CONTENT_TYPE, page, policy
from mxworker.observer.reply import Reply
from mxworker.observer.view import View

Page = Callable[[View], Reply]


def pages(history: History) -> Mapping[str, Page]:
    """Return the pages of a service with this history, which others fill."""
    allowed = policy()  # read the files now: an upgrade may change them later

    def status_json(view: View) -> Reply:
        return Reply(orjson.dumps(overview(Facts.of(view, history))), content_type="application/json")

    def front_page(view: View) -> Reply:
        body = page(overview(Facts.of(view, history)))
        return Reply(body, content_type=CONTENT_TYPE, policy=allowed)

    return {"/status.json": status_json, "/": front_page}
