"""The floors of the house: which room may import which, who may do I/O, touch the AMQP libraries, and fork (DESIGN 3).

A room is a folder of `mxworker/`; `amqp/`, `worker/` and `observer/` have rooms inside. The modules at the top, beside
`__init__` and `__main__`, are the ground, and so is the settings tree in `config/`. Rooms stand on floors: a module
imports what lies below its own room, and its own room. `master` and `worker` never meet; only `cli` and `__main__`,
which put it all together, may import everything.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import mxworker
from tests.harness.parsing import parsed

PACKAGE = Path(mxworker.__file__).parent
GROUND = "ground"
PUBLIC = "public"
COMPOSITION = "composition"
COMPOSITION_ROOTS = frozenset({"cli", "__main__"})
ROOMS_ON_THE_GROUND = frozenset({"config"})
ROOMS_INSIDE = frozenset({"amqp", "worker", "observer"})
BELOW_API = frozenset({GROUND, "system", "wire", "payloads"})
BELOW_AMQP = BELOW_API | {"api"}
BELOW_WORKER = BELOW_AMQP | {"amqp", "amqp.connecting", "amqp.consuming", "amqp.publishing", "board", "tracing"}
BELOW_OBSERVER = frozenset({GROUND, "system", "board", "control"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    GROUND: frozenset(),
    "system": frozenset({GROUND}),
    "wire": frozenset({GROUND, "system"}),
    "payloads": frozenset({GROUND, "system", "wire"}),
    "tracing": frozenset({GROUND, "system"}),
    "board": frozenset({GROUND, "system", "wire"}),
    "control": frozenset({GROUND, "system", "board"}),
    "devbroker": frozenset({GROUND, "system", "wire"}),
    "testing": BELOW_WORKER | {"worker", "worker.handling", "devbroker", "control"},
    "api": BELOW_API,
    "samples": BELOW_AMQP,
    PUBLIC: BELOW_AMQP,
    "amqp": frozenset(),
    "amqp.protocol": frozenset({GROUND, "system"}),
    "amqp.connecting": BELOW_AMQP | {"amqp.protocol"},
    "amqp.consuming": BELOW_AMQP | {"amqp.protocol", "amqp.connecting"},
    "amqp.publishing": BELOW_AMQP | {"amqp.protocol", "amqp.connecting", "tracing"},
    "letters": BELOW_AMQP | {"amqp.connecting", "amqp.consuming", "amqp.publishing"},
    "worker.handling": BELOW_WORKER,
    "worker.cpu": BELOW_WORKER | {"worker", "worker.handling", "worker.profiling"},
    "worker.profiling": BELOW_WORKER | {"worker.handling"},
    "worker": BELOW_WORKER | {"worker.handling", "worker.cpu", "worker.profiling"},
    "master": frozenset({GROUND, "system", "board", "control"}),
    "observer.http": frozenset({GROUND, "system"}),
    "observer.overview": BELOW_OBSERVER,
    "observer.scrape": BELOW_OBSERVER | {"observer.http", "observer.overview"},
    "observer.page": BELOW_OBSERVER | {"observer.overview"},
    "observer": BELOW_OBSERVER | {"observer.http", "observer.overview", "observer.scrape", "observer.page"},
}
# What a module may name in annotations alone, under TYPE_CHECKING: nothing of it is loaded, and an editor knows what an
# application imports, and what a handler gets from its context.
ANNOTATION_ONLY = frozenset(
    {
        ("mxworker", "mxworker.amqp.connecting.pool"),
        ("mxworker", "mxworker.amqp.publishing.publisher"),
        ("mxworker", "mxworker.amqp.publishing.stats"),
        ("mxworker.api.context", "mxworker.amqp.connecting.pool"),
        ("mxworker.api.context", "mxworker.amqp.publishing.publisher"),
    }
)
AMQP_LIBRARIES = frozenset({"aio_pika", "aiormq", "pamqp"})
CODEC_OF_THE_BROKER = "pamqp"  # which `devbroker` stands on; it has nothing to do with the client libraries
VIEWS = frozenset({"prometheus_client", "h11", "rich"})  # what only the views of a service need
# What decides is pure: in these rooms and modules nothing waits, and nothing reads or writes outside the process.
PURE_PLACES = (
    "api",
    "config",
    "payloads",
    "wire",
    "samples",
    "amqp.protocol",
    "amqp.consuming.found",
    "amqp.consuming.differences",
    *(f"cli.check.{name}" for name in ("comparison", "document", "findings", "lints", "names", "report", "texts")),
    *(f"cli.check.{name}" for name in ("totals", "words")),
    "letters.file_format",
    "letters.filters",
    "letters.letter",
    "letters.plan",
    "letters.summary",
    "letters.texts",
    "control.metrics_json",
    "control.protocol",
    "control.rates",
    "board.metric_values",
    "board.metrics",
    "board.metrics_layout",
    *(f"devbroker.{name}" for name in ("exchanges", "queues", "ready", "consumers", "dead_letters", "arguments")),
    *(f"devbroker.{name}" for name in ("topology", "message", "unacked", "confirms", "frames", "handshake", "clock")),
    *(
        f"devbroker.{name}"
        for name in ("vhost", "publishing", "consuming", "declaring", "channel", "client", "faults", "type_names")
    ),
)
IMPURE_LIBRARIES = frozenset({"asyncio", "ctypes", "mmap", "os", "select", "socket", "subprocess", "threading"})
IMPURE_ALL_THE_SAME = {
    ("mxworker.api.receipts", "asyncio"): "an application awaits a receipt, so the receipt makes futures",
}
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
    assert {
        "mxworker",
        "mxworker.errors",
        "mxworker.amqp.connecting.transport",
        "mxworker.master.fleet",
    } <= MODULES.keys()


def test_every_room_has_its_floor() -> None:
    assert {room_of(module) for module in MODULES} == {*MAY_IMPORT, COMPOSITION}
    assert all(below <= MAY_IMPORT.keys() and room not in below for room, below in MAY_IMPORT.items())


def test_at_most_six_modules_stand_at_the_top() -> None:
    assert len([path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]) <= 6


def test_no_modules_import_each_other_in_a_circle() -> None:
    imported = {name: set(imported_modules(path.read_text())) - {name} for name, path in MODULES.items()}
    assert circles(imported) == []


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("mxworker", AMQP_LIBRARIES | VIEWS | {"click", "msgspec", "pydantic"}),
        ("mxworker.worker.main", VIEWS | {"opentelemetry"} | {"click", "watchfiles"}),
        ("mxworker.worker.cpu.member", AMQP_LIBRARIES | VIEWS | {"click", "watchfiles"}),
        ("mxworker.observer.main", AMQP_LIBRARIES | {"click", "rich", "watchfiles", "msgspec", "pydantic"}),
        ("mxworker.cli", AMQP_LIBRARIES | VIEWS | {"asyncio", "watchfiles", "msgspec", "pydantic"}),
        ("mxworker.devbroker.keeping", {"asyncio", "pamqp", "mxworker.devbroker.server"}),
    ],
)
def test_what_a_process_does_not_need_is_not_imported(module: str, unwanted: frozenset[str]) -> None:
    source = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert unwanted & set(loaded) == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mxworker.errors", "import mxworker.amqp.protocol.frames"),
        ("mxworker.errors", "from mxworker import worker"),
        ("mxworker.errors", "from mxworker.master.fleet import plan"),
        ("mxworker.errors", "from mxworker.cli import main"),
        ("mxworker", "from mxworker.amqp.publishing import publisher"),
        ("mxworker.amqp.protocol.frames", "from mxworker.worker.service import serve"),
        ("mxworker.amqp.protocol.frames", "from mxworker.master import fleet"),
        ("mxworker.worker.service", "from mxworker.master import fleet"),
        ("mxworker.master.loop", "import mxworker.worker.main as entry"),
        ("mxworker.master.loop", "from mxworker.amqp import transport"),
        ("mxworker.control.client", "from mxworker.master import loop"),
        ("mxworker.newfolder.thing", "from mxworker import errors"),
        ("mxworker.worker.service", "def lazy():\n    from mxworker.master import loop"),
        ("mxworker.worker.service", "if TYPE_CHECKING:\n    from mxworker.master import loop"),
        ("mxworker.api.context", "from mxworker.amqp.connecting.pool import Pool"),
        ("mxworker.api.context", "def lazy():\n    from mxworker.amqp.connecting.pool import Pool"),
        ("mxworker.api.context", "if TYPE_CHECKING:\n    from mxworker.amqp.connecting.connection import Link"),
        (
            "mxworker.api.context",
            "if TYPE_CHECKING:\n    pass\nelse:\n    from mxworker.amqp.connecting.pool import Pool",
        ),
        ("mxworker.api.context", "if True:\n    from mxworker.amqp.connecting.pool import Pool"),
        ("mxworker.api.message", "if TYPE_CHECKING:\n    from mxworker.amqp.connecting.pool import Pool"),
        ("mxworker.worker.service", "from . import execution"),
        ("mxworker.worker.service", "import aio_pika"),
        ("mxworker.worker.service", "from aiormq.abc import DeliveredMessage"),
        ("mxworker.cli", "import pamqp.commands"),
        ("mxworker.master.loop", "import os\npid = os.fork()"),
        ("mxworker.worker.main", "from os import fork"),
        ("mxworker.cli", "import os as o\no.forkpty()"),
        ("mxworker.cli", "import multiprocessing"),
        ("mxworker.api.settlement", "import asyncio"),
        ("mxworker.api.settlement", "def lazy():\n    from asyncio.exceptions import CancelledError"),
        ("mxworker.api.receipts", "import threading"),
        ("mxworker.payloads.compression", "import os.path"),
        ("mxworker.wire.origins", "from socket import socket"),
        ("mxworker.amqp.protocol.reader", "import select"),
        ("mxworker.control.protocol", "import subprocess"),
        ("mxworker.devbroker.server", "import aiormq"),
        ("mxworker.devbroker.server", "from mxworker.amqp.protocol import frames"),
        ("mxworker.devbroker.queues", "import asyncio"),
    ],
)
def test_the_checker_sees_a_violation(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mxworker.errors", "import asyncio\nfrom mxworker.backoff import Backoff\nfrom mxworker import __version__"),
        (
            "mxworker.amqp.connecting.transport",
            "import aio_pika\nfrom mxworker import errors\nfrom mxworker.amqp.protocol import frames",
        ),
        ("mxworker.worker.service", "from mxworker.amqp.consuming.consumer import Consumer"),
        ("mxworker.api.context", "if TYPE_CHECKING:\n    from mxworker.amqp.connecting.pool import Pool"),
        ("mxworker.master.processes", "import os\npid = os.fork()"),
        ("mxworker.cli", "from mxworker.master import loop\nfrom mxworker.worker import main"),
        ("mxworker.api.receipts", "import asyncio"),
        ("mxworker.control.client", "import os\nimport socket"),
        ("mxworker.devbroker.connection", "import asyncio\nfrom pamqp import commands"),
        ("mxworker.amqp.connecting.pool", "import asyncio"),
    ],
)
def test_the_checker_lets_the_allowed_pass(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_each_exception_from_purity_is_still_needed() -> None:
    used = {(module, name.partition(".")[0]) for module, path in MODULES.items() for _, name in imports_of(path)}
    assert IMPURE_ALL_THE_SAME.keys() <= used


def test_an_application_that_imports_mxworker_loads_no_more_than_it_asks_for() -> None:
    heavy = {"aio_pika", "aiormq", "asyncio", "msgspec", "pydantic", "socket", "ssl", "subprocess"}
    program = f"import sys, mxworker; print(sorted({heavy!r}.intersection(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def violations(module: str, source: str) -> list[str]:
    """Return what `source`, being the text of `module`, does against the rules."""
    tree = ast.parse(source)
    room = room_of(module)
    if room not in MAY_IMPORT and room != COMPOSITION:
        return [f"{module}: the room '{room}' stands on no floor"]
    unloaded = annotation_only_lines(tree)
    found = [
        problem
        for line, name in imports(tree)
        if not (line in unloaded and (module, name) in ANNOTATION_ONLY)
        and (problem := refusal(room, name, f"{module}:{line}"))
    ]
    if is_pure(module):
        found += [
            f"{module}:{line}: a pure module imports {name}" for line, name in imports(tree) if acts(module, name)
        ]
    if module != FORKING_MODULE:
        found += [f"{module}:{line}: only {FORKING_MODULE} forks" for line in forks(tree)]
    return found


def refusal(room: str, imported: str, where: str) -> str | None:
    """Return why a module of `room` must not import `imported`; None when it may."""
    root = imported.partition(".")[0]
    if root == "":
        return f"{where}: imports are absolute"
    if room == "devbroker" and root == CODEC_OF_THE_BROKER:
        return None
    if root in AMQP_LIBRARIES and room.partition(".")[0] != "amqp":
        return f"{where}: only amqp/ imports {root}"
    if root == "mxworker" and not may_import(room, imported):
        return f"{where}: {room} does not import {imported}"
    return None


def is_pure(module: str) -> bool:
    """Whether a module must not do anything but decide."""
    name = module.removeprefix("mxworker.")
    return any(name == place or name.startswith(f"{place}.") for place in PURE_PLACES)


def acts(module: str, imported: str) -> bool:
    """Whether `imported` is what a pure module has no use for; `module` may have a reason."""
    root = imported.partition(".")[0]
    return root in IMPURE_LIBRARIES and (module, root) not in IMPURE_ALL_THE_SAME


def may_import(room: str, imported: str) -> bool:
    """Whether a module of `room` may import a module of mxworker, or the version."""
    if room == COMPOSITION or imported == "mxworker.__version__":
        return True
    return room_of(imported) in MAY_IMPORT[room] | {room}


def room_of(module: str) -> str:
    """Return the room of a module of mxworker: its folder, `composition`, `public` for the package, or `ground`."""
    parts = module.split(".")[1:]
    folders = parts if (PACKAGE / Path(*parts)).is_dir() else parts[:-1]
    if not parts:
        return PUBLIC
    if parts[0] in COMPOSITION_ROOTS:
        return COMPOSITION
    if folders and folders[0] in ROOMS_ON_THE_GROUND:
        return GROUND
    if folders and folders[0] in ROOMS_INSIDE:
        return ".".join(folders[:2])
    return folders[0] if folders else GROUND


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


def imported_modules(source: str) -> Iterator[str]:
    """Yield the modules of mxworker that `source` imports, those for annotations alone as well."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name in MODULES)
            case ast.ImportFrom(module=str(package), names=names):
                for alias in names:
                    name = f"{package}.{alias.name}"
                    yield name if name in MODULES else package


def circles(imported: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules each of which leads to all others of its set."""
    reached = {name: reachable(name, imported) for name in imported}
    found = [
        frozenset({name, *(other for other in reached[name] if name in reached.get(other, ()))})
        for name in imported
        if name in reached[name]
    ]
    return [set(circle) for circle in dict.fromkeys(found)]


def reachable(name: str, imported: Mapping[str, set[str]]) -> set[str]:
    """Return the modules that `name` imports, and what those import."""
    found: set[str] = set()
    left = list(imported[name])
    while left:
        each = left.pop()
        if each not in found:
            found.add(each)
            left += imported.get(each, ())
    return found


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what the module in `path` imports, as `imports` does."""
    return imports(parsed(path))


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
