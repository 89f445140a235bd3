"""The mistakes of newcomers: each one ends with a text that names it, and what to do, within its first five lines.

The commands are real, on a real broker: in the text of a terminal and as a record of a JSON log.
"""

from __future__ import annotations

import json
import tempfile
import textwrap
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mxworker import Queue
from tests.harness.launching import Command, Ended, run_all
from tests.harness.scales import FULL_ONLY
from tests.rabbit.client import Client
from tests.rabbit.node import Node

LINES = 5
FORMATS = ("text", "json")
BEGIN = "from mxworker import Context, Handlers, Queue, Reject, RetryPolicy\n\nhandlers = Handlers()\n"
ORDER = '@handlers.consume("QUEUE")\nasync def order(payload: dict) -> None:\n    pass\n'
PLAIN = BEGIN + ORDER
URL = "amqp://guest:guest@PLACE/"
FOR_CHECKERS = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shop import Order\n"
WITHOUT_EXTRAS = """
import sys
from dataclasses import dataclass

sys.modules["msgspec"] = sys.modules["pydantic"] = None


@dataclass
class Order:
    id: int


"""
QUICK = "--connect-wait=100ms"


def handler(signature: str, body: str = "pass", options: str = "", head: str = "") -> str:
    """Return an app whose handler has these parts."""
    return f'{BEGIN}{head}\n@handlers.consume("QUEUE"{options})\nasync def order{signature}:\n    {body}\n'


@dataclass(frozen=True)
class Mistake:
    """What somebody does, and what has to be read in the text: what is wrong, and what to do."""

    names: str
    mends: str
    app: str | Mapping[str, str] = PLAIN
    arguments: Sequence[str] = ("app:handlers",)
    url: str | None = URL
    exit_code: int = 3
    has_message: bool = False


TWENTY_FIVE = {
    "wrong module": Mistake("there is no module 'ap'", "name its directory with --app-dir", arguments=("ap:handlers",)),
    "wrong attribute": Mistake(
        "module 'app' has no attribute 'handler'", "Try:  mxworker run app:handlers", arguments=("app:handler",)
    ),
    "wrong scheme": Mistake(
        "does not start with amqp:// or amqps://",
        "Write it like amqp://user:password@host:5672/vhost",
        url="http://guest:guest@PLACE/",
        exit_code=2,
    ),
    "wrong password": Mistake(
        "403 ACCESS_REFUSED", "Check user, password and virtual host", url="amqp://guest:no@PLACE/", exit_code=4
    ),
    "wrong virtual host": Mistake(
        "530 NOT_ALLOWED - vhost shop not found", "virtual host in amqp://guest:***@", url=f"{URL}shop", exit_code=4
    ),
    "wrong port": Mistake(
        "cannot connect: connection refused",
        "Check that RabbitMQ runs there and the address is right",
        arguments=("app:handlers", QUICK),
        url="amqp://guest:guest@127.0.0.1:1/",
        exit_code=4,
    ),
    "unescaped password": Mistake(
        "a character before its host has to be escaped",
        "/ : @ ? # % [ ]  as  %2F %3A %40",
        url="amqp://guest:pa/ss@PLACE/",
        exit_code=2,
    ),
    "no parameter": Mistake("handler 'order' takes ()", "Write it like (payload: dict)", handler("()")),
    "wrong annotation": Mistake(
        "takes its payload as type, which nothing can decode", "use bytes, str, dict", handler("(payload: type)")
    ),
    "forgotten await": Mistake(
        "was never awaited, so nothing was sent",
        "Write 'await ctx.publisher.publish(...)'",
        handler("(payload: dict, ctx: Context)", 'ctx.publisher.publish({}, routing_key="x")', ", retry=None"),
        arguments=("app:handlers", "--burst"),
        exit_code=0,
        has_message=True,
    ),
    "wrong return value": Mistake(
        "returned a dict",
        "return None, Ack(), Requeue(), Retry() or Reject()",
        handler("(payload: dict)", "return payload", ", retry=None"),
        arguments=("app:handlers", "--burst"),
        exit_code=0,
        has_message=True,
    ),
    "wrong duration": Mistake(
        "'soon' is not a duration",
        "Write it like 250ms, 30s, 5m or 1h",
        arguments=("app:handlers", "--drain-timeout=soon"),
        exit_code=2,
    ),
    "unknown key": Mistake(
        "mxworker.toml, line 1: there is no setting 'concurency'",
        "did you mean 'concurrency'?",
        {"app.py": PLAIN, "mxworker.toml": "concurency = 5\n"},
        exit_code=2,
    ),
    "existing queue": Mistake(
        "x-queue-type is 'classic', code says 'quorum'",
        'Write Queue("EXISTING", type="classic", declare="passive")',
        PLAIN.replace("QUEUE", "EXISTING"),
        exit_code=4,
    ),
    "no right to declare": Mistake(
        "403 ACCESS_REFUSED",
        'Write Queue("FORBIDDEN", dead_letter=False, declare="passive") and retry=None in its handler',
        PLAIN.replace("QUEUE", "FORBIDDEN"),
        url="amqp://LIMITED:secret@PLACE/",
        exit_code=4,
    ),
    "file like a standard module": Mistake(
        "'queue' is Python's own module",
        "mxworker run queue.py:handlers",
        {"queue.py": PLAIN},
        arguments=("queue:handlers",),
    ),
    "same queue twice": Mistake(
        "queue 'QUEUE' has a handler already, 'order' at ",
        "Do both in one function, or give each a queue of its own",
        PLAIN + ORDER,
    ),
    "two handlers of one queue in two files": Mistake(
        "queue 'QUEUE' has a handler already",
        "give each a queue of its own",
        {
            "app.py": f"{PLAIN}\nfrom shop import others\nhandlers.include(others)\n",
            "shop.py": f"{BEGIN}{ORDER}\nothers = handlers\n",
        },
    ),
    "no broker": Mistake("no broker URL", "mxworker run APP --embedded, or mxworker dev APP", url=None, exit_code=2),
    "option of another command": Mistake(
        "there is no option '--reload'", "mxworker dev APP", arguments=("app:handlers", "--reload"), exit_code=2
    ),
    "size without unit": Mistake(
        "'512' is not a size", "from 1MiB", arguments=("app:handlers", "--max-rss=512"), exit_code=2
    ),
    "misspelt option of a handler": Mistake(
        "unexpected keyword argument 'concurency'",
        "did you mean 'concurrency'?",
        handler("(payload: dict)", options=", concurency=5"),
    ),
    "decorator without a queue": Mistake(
        "consume needs the name of a queue",
        'write @handlers.consume("orders")',
        PLAIN.replace('@handlers.consume("QUEUE")', "@handlers.consume"),
    ),
    "no app": Mistake(
        "Missing argument 'APP'", "Try:  mxworker run app:handlers --broker-url", arguments=(), exit_code=2
    ),
    "missing package": Mistake(
        "No module named 'stripe_of_nobody'", "Install what has 'stripe_of_nobody'", f"import stripe_of_nobody\n{PLAIN}"
    ),
}

MORE = {
    "class instead of an object": Mistake(
        "Handlers.consume() missing", "handlers = Handlers()", PLAIN.replace("Handlers()", "Handlers")
    ),
    "class without handlers": Mistake(
        "not a Handlers object but a class",
        "handlers = Handlers()",
        BEGIN.replace("Handlers()", "Handlers"),
    ),
    "no handlers": Mistake("'app:handlers' has no handlers", "Register one with @handlers.consume(...)", BEGIN),
    "async generator": Mistake(
        "handler 'order' is a generator",
        "returns its settlement and yields nothing",
        handler("(payload: dict)", "yield 1"),
    ),
    "method of a class": Mistake(
        "handler 'order' is a method",
        "Register a function of the module",
        BEGIN + "class Shop:\n" + textwrap.indent(ORDER.replace("(payload", "(self, payload"), "    "),
    ),
    "annotation for type checkers only": Mistake(
        "name 'Order' is not defined",
        "The name has to be there at run time",
        handler(
            "(payload: 'Order')",
            head=FOR_CHECKERS,
        ),
    ),
    "context first": Mistake(
        "takes a Context as its first parameter", "the payload comes first", handler("(ctx: Context, payload: dict)")
    ),
    "prefetch 0": Mistake("has prefetch=0", "from 1 to 65535", handler("(payload: dict)", options=", prefetch=0")),
    "concurrency auto": Mistake(
        "has concurrency='auto'", "a whole number from 1", handler("(payload: dict)", options=', concurrency="auto"')
    ),
    "number of retries": Mistake(
        "has retry=3", "must be a RetryPolicy", handler("(payload: dict)", options=", retry=3")
    ),
    "empty name": Mistake("has 1 to 251 bytes", "and not 0", PLAIN.replace("QUEUE", "")),
    "long name": Mistake("has 1 to 251 bytes", "and not 260", PLAIN.replace("QUEUE", "q" * 260)),
    "reserved name": Mistake(
        "names that begin with 'amq.'", "Choose another name", PLAIN.replace("QUEUE", "amq.orders")
    ),
    "missing exchange": Mistake(
        "404 NOT_FOUND, no exchange 'nowhere'",
        "Create the exchange first",
        PLAIN.replace('"QUEUE"', 'Queue("QUEUE", bind=[("nowhere", "orders")])'),
        exit_code=4,
    ),
    "missing queue with passive": Mistake(
        "404 NOT_FOUND, no queue 'QUEUE.none'",
        'write Queue("QUEUE.none")',
        PLAIN.replace('"QUEUE"', 'Queue("QUEUE.none", declare="passive")'),
        exit_code=4,
    ),
    "missing extra": Mistake(
        "needs msgspec",
        "pip install 'mxworker[typed]'",
        handler(
            "(payload: Order)",
            head=WITHOUT_EXTRAS,
        ),
    ),
    "another directory": Mistake("there is no module 'app'", "Start mxworker where app.py is", {"sub/app.py": PLAIN}),
    "circular import": Mistake(
        "partially initialized module 'app'",
        "Two modules import each other",
        {"app.py": f"from shop import thing\n{PLAIN}", "shop.py": "from app import handlers\nthing = 1\n"},
    ),
    "relative import": Mistake(
        "attempted relative import", "from models import Order", f"from .models import Order\n{PLAIN}"
    ),
    "script that ends": Mistake("SystemExit: 0", 'if __name__ == "__main__":', f"{PLAIN}raise SystemExit(0)\n"),
    "syntax error": Mistake("SyntaxError", "app.py:1  def order(:", "def order(:\n"),
    "TLS on the plain port": Mistake(
        "the broker does not speak TLS on this port",
        "for amqp:// on 5672",
        arguments=("app:handlers", QUICK),
        url="amqps://guest:guest@PLACE/",
        exit_code=4,
    ),
    "port that is no number": Mistake(
        "its port is no number", "Write it like amqp://", url="amqp://guest:guest@localhost:amqp/", exit_code=2
    ),
    "no such profile": Mistake(
        "there is no profile 'prod'",
        "there are development, production",
        arguments=("app:handlers", "--profile=prod"),
        exit_code=2,
    ),
    "text without quotes in a file": Mistake(
        "is not valid TOML",
        'drain-timeout = "30s"',
        {"app.py": PLAIN, "mxworker.toml": "drain-timeout = 5s\n"},
        exit_code=2,
    ),
    "queue of another app": Mistake(
        "no handler consumes queue 'ordres'", "Check --queues", arguments=("app:handlers", "-Q", "ordres"), exit_code=2
    ),
}
MISTAKES = {**TWENTY_FIVE, **MORE}


@dataclass(frozen=True)
class Scene:
    """What the placeholders of mistakes stand for."""

    url: str
    prefix: str
    limited: str

    def fill(self, text: str, name: str) -> str:
        """Put the queue of a mistake, the broker and the user into a text."""
        words = {
            "EXISTING": f"{self.prefix}.existing",
            "FORBIDDEN": f"{self.prefix}.forbidden",
            "QUEUE": self.queue(name),
            "PLACE": urlsplit(self.url).netloc.rpartition("@")[2],
            "LIMITED": self.limited,
        }
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        return text

    def queue(self, name: str) -> str:
        return f"{self.prefix}.{name.replace(' ', '-')}"


@pytest.fixture(scope="module")
def scene(node: Node) -> Iterator[Scene]:
    prefix = f"mistakes-{uuid.uuid4().hex[:8]}"
    with node.user() as url, Client(node.url) as admin:
        limited = urlsplit(url).username or ""
        node.ctl("set_permissions", limited, "^$", ".*", ".*")
        made = Scene(node.url, prefix, limited)
        admin.declare(f"{prefix}.existing")
        admin.declare(f"{prefix}.forbidden")
        yield made
        names = [made.queue(f"{name}-{log_format}") for name in MISTAKES for log_format in FORMATS]
        for each in (f"{prefix}.existing", f"{prefix}.forbidden", *names):
            admin.delete(each)
            admin.delete(f"{each}.dlq")


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest, scene: Scene, node: Node, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    """How each mistake ended, by format and name."""
    chosen = MISTAKES if request.config.getoption("--full") else TWENTY_FIVE
    scratch = tmp_path_factory.mktemp("mistakes")
    made = [(name, mistake, log_format) for name, mistake in chosen.items() for log_format in FORMATS]
    with Client(node.url) as admin:
        for name, mistake, log_format in made:
            if mistake.has_message:
                queue = Queue(scene.queue(f"{name}-{log_format}"))
                admin.declare_quorum(queue.dead_letter_name)
                admin.declare(queue.name, arguments=queue.declared_arguments())
                admin.publish(queue.name, [b"{}"])
    with tempfile.TemporaryDirectory(prefix="mx-") as runtime, node.expect_precondition_failed():
        commands = {
            f"{name}-{log_format}": _command(scene, f"{name}-{log_format}", mistake, scratch / f"at-{number}", runtime)
            for number, (name, mistake, log_format) in enumerate(made)
        }
        return run_all(commands, scratch)


def _command(scene: Scene, name: str, mistake: Mistake, folder: Path, runtime: str) -> Command:
    files = {"app.py": mistake.app} if isinstance(mistake.app, str) else mistake.app
    for file, source in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(scene.fill(source, name))
    env = {
        "PATH": "/usr/bin:/bin",
        "XDG_RUNTIME_DIR": runtime,
        "MXWORKER_NO_HTTP": "1",
        "MXWORKER_LOG_FORMAT": name.rpartition("-")[2],
        "MXWORKER_WORKERS": "1",
    }
    if mistake.url is not None:
        env["MXWORKER_BROKER_URL"] = scene.fill(mistake.url, name)
    return Command(("run", *mistake.arguments), str(folder), env)


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("name", [*TWENTY_FIVE, *(pytest.param(name, marks=FULL_ONLY) for name in MORE)])
def test_mistake_and_mend_are_in_the_first_five_lines(
    name: str, log_format: str, ended: dict[str, Ended], scene: Scene
) -> None:
    key = f"{name}-{log_format}"
    mistake, end = MISTAKES[name], ended[key]
    assert end.exit_code == mistake.exit_code, end.output
    told = _told_as_text(end.output) if log_format == "text" else _told_as_json(end.output)
    assert len(told) <= LINES
    assert scene.fill(mistake.names, key) in "\n".join(told), end.output
    assert scene.fill(mistake.mends, key) in "\n".join(told), end.output
    assert "secret" not in end.output


def test_there_are_twenty_five() -> None:
    assert len(TWENTY_FIVE) >= 25


def _told_as_text(output: str) -> list[str]:
    """Return the first lines of the text that the command ended with, or of the error that it logged."""
    lines = output.splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith("Error: ") or " ERROR " in line]
    assert begins, output
    return lines[begins[0] : begins[0] + LINES]


def _told_as_json(output: str) -> list[str]:
    records = [json.loads(line) for line in output.splitlines()]
    errors = [record for record in records if record["level"] == "error"]
    assert errors, output
    return str(errors[0]["message"]).splitlines()[:LINES]
