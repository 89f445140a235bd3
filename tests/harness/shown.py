"""Whether a program shows what a page of the documentation says.

Numbers on the page stand for numbers, long names with digits in them for such names, and `...` for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

FORMS = {
    r"\.\.\.": ".*",
    r"(?=\w*\d)(?=\w*[a-zA-Z])\w{12,}": r"[\w-]+",  # keys and ids
    r"\d[\d.:]*": r"[\d.:]+",
    r"-{3,}": "-+",
    r"\s+": r"\s+",
}
VARIABLE = re.compile(f"({'|'.join(FORMS)})")


def sessions(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console with what it shows."""
    for session in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = session.partition("\n")
        yield command, shown


def shows(shown: str, real: str) -> bool:
    """Tell whether the lines of the page are lines of an output, in their order."""
    lines = iter(real.splitlines())
    return all(any(is_alike(line, other) for other in lines) for line in shown.splitlines() if line != "...")


def is_alike(shown: str, real: str) -> bool:
    """Tell whether two lines differ in their numbers, names that are made up, and blanks only."""
    if shown.isdigit():
        return shown == real
    return re.fullmatch("".join(map(pattern, VARIABLE.split(shown))), real.rstrip()) is not None


def pattern(part: str) -> str:
    for form, alike in FORMS.items():
        if part and re.fullmatch(form, part):
            return alike
    return re.escape(part)
