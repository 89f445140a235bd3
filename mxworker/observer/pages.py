"""The pages: what is served beside metrics and probes, by path. Pure: each is made of a `View`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from mxworker.observer.http.reply import Reply
from mxworker.observer.overview.facts import Facts
from mxworker.observer.overview.history import History
from mxworker.observer.overview.overview import overview
from mxworker.observer.overview.view import View
from mxworker.observer.page.page import CONTENT_TYPE, page, policy

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
