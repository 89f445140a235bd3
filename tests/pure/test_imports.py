"""The direction of imports, and who alone may touch the AMQP libraries and fork: DESIGN as a test.

Words (top-level modules) know only words. `amqp` stands on the words, `worker` on both; `master` stands on the words
alone, so master and worker never meet, and so do `remote` and `dev`, which have the service as another process. Only
`cli` and `__main__`, which put it all together, may import everything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mxworker

PACKAGE = Path(mxworker.__file__).parent
WORDS = "words"
COMPOSITION = "composition"
COMPOSITION_ROOTS = frozenset({"cli", "__main__"})
MAY_IMPORT = {
    WORDS: {WORDS},
    "amqp": {WORDS, "amqp"},
    "worker": {WORDS, "amqp", "worker"},
    "master": {WORDS, "master"},
    "remote": {WORDS, "remote"},
    "dev": {WORDS, "dev"},
    COMPOSITION: {WORDS, "amqp", "worker", "master", "remote", "dev", COMPOSITION},
}
# What a word may name in annotations alone, under TYPE_CHECKING: nothing of it is loaded, and an editor knows what an
# application imports, and what a handler gets from its context.
ANNOTATION_ONLY = frozenset(
    {
        ("mxworker", "mxworker.amqp.publishing.publisher"),
        ("mxworker.context", "mxworker.amqp.pool"),
        ("mxworker.context", "mxworker.amqp.publishing.publisher"),
    }
)
AMQP_LIBRARIES = frozenset({"aio_pika", "aiormq", "pamqp"})
FORKS = frozenset({"fork", "forkpty"})
FORKING_MODULE = "mxworker.master.processes"

MODULES = {
    ".".join(["mxworker", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_direction_of_imports(module: str) -> None:
    assert violations(module, MODULES[module].read_text()) == []


def test_the_modules_are_found() -> None:
    assert {"mxworker", "mxworker.errors", "mxworker.amqp.transport", "mxworker.master.fleet"} <= MODULES.keys()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mxworker.errors", "import mxworker.amqp.frames"),
        ("mxworker.errors", "from mxworker import worker"),
        ("mxworker.errors", "from mxworker.master.fleet import plan"),
        ("mxworker.errors", "from mxworker.cli import main"),
        ("mxworker", "from mxworker.amqp.publishing import publisher"),
        ("mxworker.amqp.frames", "from mxworker.worker.service import serve"),
        ("mxworker.amqp.frames", "from mxworker.master import fleet"),
        ("mxworker.worker.service", "from mxworker.master import fleet"),
        ("mxworker.master.loop", "import mxworker.worker.main as entry"),
        ("mxworker.master.loop", "from mxworker.amqp import transport"),
        ("mxworker.dev.outer", "from mxworker.master import loop"),
        ("mxworker.newfolder.thing", "from mxworker import errors"),
        ("mxworker.worker.service", "def lazy():\n    from mxworker.master import loop"),
        ("mxworker.worker.service", "if TYPE_CHECKING:\n    from mxworker.master import loop"),
        ("mxworker.context", "from mxworker.amqp.pool import Pool"),
        ("mxworker.context", "def lazy():\n    from mxworker.amqp.pool import Pool"),
        ("mxworker.context", "if TYPE_CHECKING:\n    from mxworker.amqp.connection import Link"),
        ("mxworker.context", "if TYPE_CHECKING:\n    pass\nelse:\n    from mxworker.amqp.pool import Pool"),
        ("mxworker.context", "if True:\n    from mxworker.amqp.pool import Pool"),
        ("mxworker.message", "if TYPE_CHECKING:\n    from mxworker.amqp.pool import Pool"),
        ("mxworker.worker.service", "from . import execution"),
        ("mxworker.worker.service", "import aio_pika"),
        ("mxworker.worker.service", "from aiormq.abc import DeliveredMessage"),
        ("mxworker.cli", "import pamqp.commands"),
        ("mxworker.master.loop", "import os\npid = os.fork()"),
        ("mxworker.worker.main", "from os import fork"),
        ("mxworker.cli", "import os as o\no.forkpty()"),
        ("mxworker.cli", "import multiprocessing"),
    ],
)
def test_the_checker_sees_a_violation(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mxworker.errors", "import asyncio\nfrom mxworker.backoff import Backoff\nfrom mxworker import __version__"),
        ("mxworker.amqp.transport", "import aio_pika\nfrom mxworker import errors\nfrom mxworker.amqp import frames"),
        ("mxworker.worker.service", "from mxworker.amqp.consumer import Consumer"),
        ("mxworker.context", "if TYPE_CHECKING:\n    from mxworker.amqp.pool import Pool"),
        ("mxworker.master.processes", "import os\npid = os.fork()"),
        ("mxworker.cli", "from mxworker.master import loop\nfrom mxworker.worker import main"),
    ],
)
def test_the_checker_lets_the_allowed_pass(module: str, source: str) -> None:
    assert violations(module, source) == []


def violations(module: str, source: str) -> list[str]:
    """Return what `source`, being the text of `module`, does against the rules."""
    tree = ast.parse(source)
    layer = layer_of(module)
    if layer not in MAY_IMPORT:
        return [f"{module}: the folder '{layer}' has no place in the order of layers"]
    unloaded = annotation_only_lines(tree)
    found = [
        problem
        for line, name in imports(tree)
        if not (line in unloaded and (module, name) in ANNOTATION_ONLY)
        and (problem := refusal(layer, name, f"{module}:{line}"))
    ]
    if module != FORKING_MODULE:
        found += [f"{module}:{line}: only {FORKING_MODULE} forks" for line in forks(tree)]
    return found


def refusal(layer: str, imported: str, where: str) -> str | None:
    """Return why a module of `layer` must not import `imported`; None when it may."""
    root = imported.partition(".")[0]
    if root == "":
        return f"{where}: imports are absolute"
    if root in AMQP_LIBRARIES and layer != "amqp":
        return f"{where}: only amqp/ imports {root}"
    if root == "mxworker" and layer_of(imported) not in MAY_IMPORT[layer]:
        return f"{where}: {layer} does not import {imported}"
    return None


def layer_of(module: str) -> str:
    """Return the layer of a module of mxworker: its folder, `composition`, or `words`."""
    parts = module.split(".")[1:]
    if parts and parts[0] in COMPOSITION_ROOTS:
        return COMPOSITION
    if len(parts) > 1 or (parts and (PACKAGE / parts[0]).is_dir()):
        return parts[0]
    return WORDS


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every module imported, wherever the import stands; a relative name starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.module == "mxworker":  # `from mxworker import errors` imports the module mxworker.errors
                yield from ((node.lineno, f"mxworker.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, "." * node.level + (node.module or "")


def annotation_only_lines(tree: ast.Module) -> set[int]:
    """Return the lines of the imports that stand directly under `if TYPE_CHECKING:`."""
    return {
        statement.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
    }


def forks(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that fork, or import what does."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in FORKS:
                yield node.lineno
            case ast.ImportFrom(module="os", names=names) if FORKS & {alias.name for alias in names}:
                yield node.lineno
            case ast.Import() | ast.ImportFrom() if "multiprocessing" in ast.unparse(node):
                yield node.lineno
