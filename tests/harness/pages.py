"""The pages of the documentation, with the code blocks and the headings in them.

Comments of HTML directly above a block are its marks: `<!-- not run: a reason -->`. CONTRIBUTING.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.repository import REPOSITORY

TOP = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
EXAMPLE = REPOSITORY / "handlers_example" / "README.md"
PAGES = [*TOP, *sorted((REPOSITORY / "docs").rglob("*.md")), EXAMPLE]
NOT_RUN, TESTED_BY, COPIED_FROM, BEFORE = "not run", "tested by", "from", "before"
MARKS = (NOT_RUN, TESTED_BY, COPIED_FROM, BEFORE)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\s*$")
_COMMENT = re.compile(r"<!--\s*(?P<name>[a-z ]+):\s*(?P<value>.*?)\s*-->", re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *#*$")


@dataclass(frozen=True)
class Block:
    """One code block. `line` is that of its first fence, counted from 1; `marks` are its comments by their name."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page, in order. Raises ValueError for a fence that nothing closes."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        first, indent = number, len(opening["indent"])
        while number < len(lines) and lines[number].strip() != "```":
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{first}: nothing closes this block")
        text = "".join(f"{line[indent:]}\n" for line in lines[first:number])
        yield Block(page, first, opening["language"], text, _marks(lines[: first - 1]))
        number += 1


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    found: dict[str, int] = {}
    for line in _prose(page):
        if heading := _HEADING.match(line):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading["title"]).lower()
            slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
            if found[slug]:
                found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def links(page: Path) -> Iterator[str]:
    """Yield the targets of the links of a page that lead to other places of the repository."""
    for line in _prose(page):
        for target in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`]*`", "", line)):
            if "://" not in target and not target.startswith("mailto:"):
                yield target


def _prose(page: Path) -> Iterator[str]:
    """Yield the lines that are in no code block."""
    is_code = False
    for line in page.read_text().splitlines():
        if _FENCE.match(line):
            is_code = not is_code
        elif not is_code:
            yield line


def _marks(above: list[str]) -> dict[str, str]:
    """Return the marks at the end of the lines above a block."""
    text = "\n".join(above).rstrip()
    found: dict[str, str] = {}
    while text.endswith("-->"):
        start = text.rindex("<!--")
        comment = _COMMENT.fullmatch(text[start:])
        if comment is None:
            break
        found[comment["name"]] = comment["value"]
        text = text[:start].rstrip()
    return found
