"""`python -m docs.generators` writes all pages that are made from the code."""

from __future__ import annotations

from docs.generators.pages import FOLDER, PAGES, text_of

for name in PAGES:
    (FOLDER / name).write_text(text_of(name))
