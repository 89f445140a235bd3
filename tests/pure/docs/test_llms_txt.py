"""llms.txt has the format of https://llmstxt.org, and a link to every page."""

from __future__ import annotations

import re

from tests.harness.pages import PAGES
from tests.harness.repository import REPOSITORY

TEXT = (REPOSITORY / "llms.txt").read_text()
LINK = re.compile(r"^- \[[^]]+\]\((?P<path>[^)]+)\): \S.*$")


def test_it_has_a_title_a_summary_and_lists_of_links() -> None:
    head, *sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    assert re.match(r"# \w+\n\n(> .+\n)+\n", head)
    assert len(sections) > 2
    for section in sections:
        title, _, entries = section.strip().partition("\n\n")
        assert title
        assert [line for line in entries.splitlines() if not LINK.match(line)] == []


def test_it_links_every_page_once() -> None:
    linked = [found["path"] for line in TEXT.splitlines() if (found := LINK.match(line))]
    pages = [str(page.relative_to(REPOSITORY)) for page in PAGES]
    assert sorted(linked) == sorted(pages), "each page has a line in llms.txt, with what is on it"
