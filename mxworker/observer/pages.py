"""The pages: what is served beside metrics and probes, by path. Pure: each is made of a `View`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from mxworker.observer.reply import Reply
from mxworker.observer.view import View

Page = Callable[[View], Reply]


def _status_json(view: View) -> Reply:
    return Reply(orjson.dumps(view.service), content_type="application/json")


PAGES: Mapping[str, Page] = {"/status.json": _status_json}
