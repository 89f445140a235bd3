"""Every link of the documentation to another place of the repository leads there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.pages import PAGES, anchors, links
from tests.harness.repository import REPOSITORY


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_of_the_page_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not leads_somewhere(page, target)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    place = (page.parent / path).resolve() if path else page
    if not place.exists() or not place.is_relative_to(REPOSITORY):
        return False
    return not anchor or (place.suffix == ".md" and anchor in anchors(place))


def test_each_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [REPOSITORY / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            ahead += [(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"]
    assert [str(page.relative_to(REPOSITORY)) for page in PAGES if page not in reached] == []
