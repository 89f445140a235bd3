"""What can be called can be registered; what is registered by mistake is refused with file, line and the way out.

Each case is a module of an application, imported and compiled as a worker does it.
"""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxworker.api.compilation import Handler, HandlerKind
from mxworker.config.overrides import Overrides
from mxworker.errors import AppLoadError
from mxworker.worker.loading import load, select
from tests.harness.imports import forgotten_imports

HEAD = "from mxworker import *\nhandlers = Handlers()\n"
MARK = "# here"
_NUMBERS = itertools.count()


class App:
    """A module in a folder of its own; the handlers in it."""

    def __init__(self, folder: Path) -> None:
        self.name = f"registering_{next(_NUMBERS)}"
        self.path = folder / f"{self.name}.py"
        self._folder = folder

    def compiled(self, source: str, head: str = HEAD) -> list[Handler]:
        """Import the module and compile its handlers."""
        self.path.write_text(head + textwrap.dedent(source))
        return list(select(load(f"{self.name}:handlers", str(self._folder)), (), Overrides()))

    def refusal(self, source: str, head: str = HEAD) -> str:
        """Return the text of the error, without the place, which must be the marked line."""
        with pytest.raises(AppLoadError) as caught:
            self.compiled(source, head)
        lines = self.path.read_text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if MARK in text)
        text = str(caught.value)
        assert f"{self.path.name}:{line} " in text, text
        assert "handlers.py" not in text, "frames of ours"
        assert "Traceback" not in text
        return text


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    made = App(tmp_path)
    with forgotten_imports(made.name):
        yield made


# ---- what can be called

CALLABLES = {
    "partial": """
        from functools import partial
        async def order(payload: dict, ctx: Context, *, shop: str): ...
        handlers.consume("q")(partial(order, shop="x"))
    """,
    "partial of a leading parameter": """
        from functools import partial
        async def order(shop, payload: dict, ctx: Context): ...
        handlers.consume("q")(partial(order, "x"))
    """,
    "partial of a wrapper": """
        from functools import partial, wraps
        async def order(payload: dict, ctx: Context, *, shop: str): ...
        @wraps(order)
        async def wrapper(*args, **kwargs): ...
        handlers.consume("q")(partial(wrapper, shop="x"))
    """,
    "Shop.order": """
        class Shop:
            async def order(self, payload: dict, ctx: Context): ...
        handlers.consume("q")(Shop().order)
    """,
    "Shop.order of a class": """
        class Shop:
            @classmethod
            async def order(cls, payload: dict, ctx: Context): ...
        handlers.consume("q")(Shop.order)
    """,
    "Order": """
        class Order:
            async def __call__(self, payload: dict, ctx: Context): ...
        handlers.consume("q")(Order())
    """,
    "Order in a partial": """
        from functools import partial
        class Order:
            async def __call__(self, payload: dict, ctx: Context, shop=1): ...
        handlers.consume("q")(partial(Order(), shop=2))
    """,
    "static method": """
        class Shop:
            @handlers.consume("q")
            @staticmethod
            async def order(payload: dict, ctx: Context): ...
    """,
    "static method of a handler": """
        class Shop:
            @staticmethod
            @handlers.consume("q")
            async def order(payload: dict, ctx: Context): ...
    """,
    "wrapper": """
        from functools import wraps
        async def order(payload: dict, ctx: Context): ...
        @handlers.consume("q")
        @wraps(order)
        async def wrapper(*args, **kwargs): ...
    """,
    "wrapper with a payload of its own": """
        from functools import wraps
        def logged(function):
            @wraps(function)
            async def wrapper(payload, *args): ...
            return wrapper
        @handlers.consume("q")
        @logged
        async def order(payload: dict, ctx: Context): ...
    """,
    "wrapper of a wrapper": """
        from functools import wraps
        async def order(payload: dict, shop, till): ...
        @wraps(order)
        async def with_shop(payload, ctx): ...
        @handlers.consume("q")
        @wraps(with_shop)
        async def wrapper(*args, **kwargs): ...
    """,
    "wrapper that takes what the wrapped one does not": """
        from functools import wraps
        def with_shop(function):
            @wraps(function)
            async def wrapper(payload, ctx): ...
            return wrapper
        @handlers.consume("q")
        @with_shop
        async def order(payload: dict, shop, till): ...
    """,
}


@pytest.mark.parametrize("case", CALLABLES)
def test_callable_is_called_with_payload_and_context(case: str, app: App) -> None:
    (handler,) = app.compiled(CALLABLES[case])
    assert handler.kind is HandlerKind.ASYNC
    assert handler.wants_context
    assert handler.decode.__qualname__.startswith("_by_content_type"), "dict, not Delivery"
    assert handler.name == {"Order": "Order", "Order in a partial": "Order"}.get(
        case, "Shop.order" if case.startswith("Shop") else "order"
    )


@pytest.mark.parametrize("cpu", [False, True])
@pytest.mark.parametrize("case", [case for case in CALLABLES if "wrap" not in case])
def test_plain_callable_runs_in_a_thread_or_a_process(case: str, cpu: bool, app: App) -> None:
    source = CALLABLES[case].replace("async def", "def").replace('"q"', f'"q", cpu={cpu}')
    (handler,) = app.compiled(source)
    assert handler.kind is (HandlerKind.PROCESS if cpu else HandlerKind.THREAD)


@pytest.mark.parametrize("case", ["partial", "Order", "Shop.order"])
def test_coroutine_function_in_another_form_does_not_compute_in_a_process(case: str, app: App) -> None:
    with pytest.raises(AppLoadError, match="is 'async def' and has cpu=True"):
        app.compiled(CALLABLES[case].replace('"q"', '"q", cpu=True'))


def test_generator_in_another_form_is_refused(app: App) -> None:
    text = app.refusal("""
        class Order:
            def __call__(self, payload: dict):
                yield 1
        handlers.consume("q")(Order())  # here
    """)
    assert "handler 'Order' is a generator" in text


# ---- annotations

LATER = "from __future__ import annotations\n"
ANNOTATED = {
    "return annotation that is for the type checker": """
        async def order(payload: dict) -> Nothing: ...
    """,
    "parameter with a default that is for the type checker": """
        async def order(payload: dict, shop: Nothing = 1, *, till: Nothing = 2) -> None: ...
    """,
    "Context for the type checker": """
        async def order(payload: dict, ctx: Context) -> None: ...
    """,
    "Delivery for the type checker": """
        async def order(payload: Delivery) -> None: ...
    """,
    "forward reference": """
        async def order(payload: dict[str, "Later"]) -> None: ...
        class Later(TypedDict):
            id: int
    """,
    "nothing": """
        async def order(payload, ctx=None): ...
    """,
}


@pytest.mark.parametrize("case", ANNOTATED)
def test_only_annotations_that_are_needed_are_evaluated(case: str, app: App) -> None:
    head = LATER + "from typing import TypedDict\nfrom mxworker import Handlers\nhandlers = Handlers()\n"
    app.compiled(ANNOTATED[case] + '\nhandlers.consume("q")(order)'.replace("\n", "\n        "), head)


@pytest.mark.parametrize("head", ["", LATER], ids=["at once", "later"])
def test_local_class_is_found(head: str, app: App) -> None:
    (handler,) = app.compiled(
        """
        from dataclasses import dataclass
        def make():
            @dataclass
            class Order:
                id: int
            @handlers.consume_batch("q")
            async def order(payloads: list[Order], ctx: Context) -> None: ...
        make()
        """,
        head + HEAD,
    )
    assert handler.wants_context


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of Python 3.12")
@pytest.mark.parametrize("head", ["", LATER], ids=["at once", "later"])
def test_generic_handler_is_taken(head: str, app: App) -> None:
    app.compiled(
        """
        @handlers.consume("q")
        async def order[T](payload: dict[str, T], ctx: Context) -> T: ...
        """,
        head + HEAD,
    )


@pytest.mark.parametrize("head", ["", LATER], ids=["at once", "later"])
@pytest.mark.parametrize(
    "parameter",
    [
        "ctx: Context = None",
        "ctx: Context | None = None",
        "ctx: Optional[Context] = None",
        "ctx: Optional[Context]",
        'ctx: "Context" = None',
        "ctx: 'Context | None' = None",
        "ctx=None",
        "context=None",
    ],
)
def test_context_with_a_default_is_filled(parameter: str, head: str, app: App) -> None:
    source = f"""
        from typing import Optional
        @handlers.consume("q")
        async def order(payload: dict, {parameter}): ...
    """
    (handler,) = app.compiled(source, head + HEAD)
    assert handler.wants_context


@pytest.mark.parametrize("parameter", ["limit: int = 3", "limit=3", "session=None", "limit: Nothing = None"])
def test_other_parameter_with_a_default_is_left_alone(parameter: str, app: App) -> None:
    source = f"""
        @handlers.consume("q")
        async def order(payload: dict, {parameter}): ...
    """
    (handler,) = app.compiled(source, LATER + HEAD)
    assert not handler.wants_context


@pytest.mark.parametrize("parameters", ["payload, *, ctx: Context = None", "payload, limit=3, ctx: Context = None"])
def test_context_that_nobody_would_fill_is_refused(parameters: str, app: App) -> None:
    text = app.refusal("""
        @handlers.consume("q")  # here
        async def order(payload, *, ctx: Context = None): ...
    """)
    assert "must take its Context, 'ctx', as the second parameter" in text


@pytest.mark.parametrize("parameters", ["ctx: Context", "ctx: Context, payload: dict", "ctx: 'Context', payload: dict"])
def test_context_in_the_place_of_the_payload_is_refused(parameters: str, app: App) -> None:
    text = app.refusal(f"""
        @handlers.consume("q")  # here
        async def order({parameters}): ...
    """)
    assert "takes a Context as its first parameter, 'ctx'; the payload comes first, and then the Context." in text


def test_name_that_is_for_the_type_checker_alone_is_told(app: App) -> None:
    text = app.refusal(
        """
        @handlers.consume("q")  # here
        async def order(payload: Nothing): ...
        """,
        LATER + HEAD,
    )
    assert "name 'Nothing' is not defined, in 'payload: Nothing'." in text
    assert "not only under TYPE_CHECKING" in text


# ---- what is registered by mistake

ORDER = "async def order(payload: dict): ..."
MISTAKES = {
    "no parentheses": (f"@handlers.consume  # here\n{ORDER}", 'write @handlers.consume("orders")'),
    "batch without parentheses": (
        f"@handlers.consume_batch  # here\n{ORDER}", 'write @handlers.consume_batch("orders")',
    ),
    "no queue": (f"@handlers.consume(None)  # here\n{ORDER}", "needs the name of a queue, or a Queue, not None"),
    "number for a queue": (f"@handlers.consume(5)  # here\n{ORDER}", "needs the name of a queue, or a Queue, not 5"),
    "queue that is no Unicode text": (
        f'@handlers.consume("q\\ud800")  # here\n{ORDER}', r"the name 'q\ud800' has more than letters",
    ),
    "long queue that is no Unicode text": (
        f'@handlers.consume("\\ud800" * 84)  # here\n{ORDER}', "a queue name has 1 to 251 bytes, and not 252",
    ),
    "routing key that is no Unicode text": (
        f'@handlers.consume(Queue("q", bind=[("shop", "k\\ud800")]))  # here\n{ORDER}',
        r"queue 'q': the routing key 'k\ud800' is no Unicode text",
    ),
    "context manager": (
        'import contextlib\n@handlers.consume("q")  # here\n@contextlib.contextmanager\n'
        "def order(payload: dict): yield",
        "handler 'order' is a context manager, which nothing would enter",
    ),
    "asynchronous context manager": (
        'import contextlib\n@handlers.consume("q")  # here\n@contextlib.asynccontextmanager\n'
        "async def order(payload: dict): yield",
        "handler 'order' is a context manager, which nothing would enter",
    ),
    "context manager as middleware": (
        "import contextlib\n@handlers.middleware  # here\n@contextlib.asynccontextmanager\n"
        "async def audit(payload, ctx, call_next): yield",
        "middleware 'audit' is a context manager, which nothing would enter",
    ),
    "empty queue": (f'@handlers.consume("")  # here\n{ORDER}', "a queue name has 1 to 251 bytes"),
    "twice": (
        f'@handlers.consume("q")\n{ORDER}\n@handlers.consume("q")  # here\n{ORDER}',
        "queue 'q' has a handler already",
    ),
    "class method": (
        'class Shop:\n    @handlers.consume("q")  # here\n    @classmethod\n    async def order(cls, payload): ...',
        "register it below the class: handlers.consume(\"...\")(Thing.order)",
    ),
    "method": (
        'class Shop:\n    @handlers.consume("q")  # here\n    async def order(self, payload: dict): ...',
        'is a method, and nothing here makes the object for its \'self\'. Register a function of the module, or the '
        'method of an object, once that exists: handlers.consume("...")(thing.order)',
    ),
    "method in a class method": (
        'class Shop:\n    @classmethod  # here\n    @handlers.consume("q")\n    async def order(cls, payload): ...',
        "is a method",
    ),
    "class": (
        'class Shop:\n    async def __call__(self, payload: dict): ...\nhandlers.consume("q")(Shop)  # here',
        'is a class; register a function, or an object that can be called: handlers.consume("...")(Shop())',
    ),
    "value": ('handlers.consume("q")(5)  # here', "a handler is a function, or an object that can be called, not 5"),
    "lambda": ('handlers.consume("q")(lambda: 1)  # here', "handler '<lambda>' takes ()"),
    "built-in": ('handlers.consume("q")(max)  # here', "handler 'max' does not tell its parameters"),
    "wrapper without wraps": (
        f'{ORDER}\n@handlers.consume("q")  # here\nasync def wrapper(*args, **kwargs): ...',
        "takes (*args, **kwargs), which a wrapper replaces by what it wraps with functools.wraps",
    ),
    "number for a payload": (
        '@handlers.consume("q")  # here\nasync def order(payload: int): ...', "takes its payload as int",
    ),
    "number for a payload of a batch": (
        '@handlers.consume_batch("q")  # here\nasync def order(payload: list[int]): ...', "takes its payload as int",
    ),
    "what is published": (
        '@handlers.consume("q")  # here\nasync def order(message: Message): ...',
        "takes its payload as a Message, which is what is published; what is received is a Delivery",
    ),
    "middleware": (
        "@handlers.middleware  # here\nasync def audit(payload, call_next): ...",
        "middleware 'audit' must take three parameters: payload, ctx, call_next",
    ),
    "class as middleware": (
        "@handlers.middleware  # here\nclass Audit:\n    def __init__(self, payload, ctx, call_next): ...",
        "middleware 'Audit' is a class; register an object of it that can be called",
    ),
    "generator as middleware": (
        "@handlers.middleware  # here\nasync def audit(payload, ctx, call_next): yield",
        "middleware 'audit' is a generator",
    ),
    "including a module": ("import sys\nhandlers.include(sys)  # here", "include takes a Handlers object, not <module"),
    "codec": ("handlers.codec(5, repr)  # here", "a content type is text"),
    "async codec": (
        'async def read(body): ...\nhandlers.codec("text/csv", read)  # here',
        "the codec of 'text/csv' must be plain functions: 'read' is async",
    ),
    "misspelt option": (
        f'@handlers.consume("q", retries=3)  # here\n{ORDER}',
        "consume() got an unexpected keyword argument 'retries'; did you mean 'retry'?",
    ),
    "option of batches": (
        f'@handlers.consume("q", size=3)  # here\n{ORDER}',
        "consume() got an unexpected keyword argument 'size'; it takes circuit_breaker, concurrency, cpu, objective",
    ),
    "option of single deliveries": (
        f'@handlers.consume_batch("q", cpu=True)  # here\n{ORDER}',
        "consume_batch() got an unexpected keyword argument 'cpu'; it takes circuit_breaker, concurrency, max_bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_told_with_the_line_it_is_in(case: str, app: App) -> None:
    source, text = MISTAKES[case]
    assert text in app.refusal(source)


KINDS_OF_NUMBERS = """
import decimal, enum, typing
from typing import Annotated, Any, Final, Literal, NewType, Optional
UserId = NewType("UserId", int)
class Level(enum.IntEnum): LOW = 1
class State(enum.Enum): OFF = False; UNKNOWN = None
class Name(enum.Enum): ANN = "Ann"
"""


@pytest.mark.parametrize(
    "annotation",
    ["UserId", "Final[int]", "Annotated[int, 'an id']", "int | None", "Optional[UserId]", "decimal.Decimal", "Level",
     "State", "Literal[1, True, None]"],
)  # fmt: skip
def test_number_under_another_name_is_told(annotation: str, app: App) -> None:
    text = app.refusal(f'@handlers.consume("q")  # here\nasync def order(payload: {annotation}): ...',
                       KINDS_OF_NUMBERS + HEAD)  # fmt: skip
    assert "but the payload is the whole body" in text


@pytest.mark.parametrize("annotation", ["Name", "Literal['a', None]", "dict | None", "str | None", "list[UserId]"])
def test_payload_that_may_be_more_than_a_number_is_taken(annotation: str, app: App) -> None:
    app.compiled(f'@handlers.consume("q")\nasync def order(payload: {annotation}): ...', KINDS_OF_NUMBERS + HEAD)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ('concurrency="8"', "has concurrency='8'; it must be a whole number from 1 to 65535"),
        ("concurrency=True", "has concurrency=True; it must be a whole number"),
        ("concurrency=8.0", "has concurrency=8.0; it must be a whole number"),
        ("concurrency=[8]", "has concurrency=[8]; it must be a whole number"),
        ("prefetch=1.5", "has prefetch=1.5; it must be a whole number from 1 to 65535"),
        ("prefetch=float('nan')", "has prefetch=nan; it must be a whole number"),
        ('timeout="30s"', "has timeout='30s'; it must be a number of seconds"),
        ("timeout=True", "has timeout=True; it must be a number of seconds"),
        (
            "timeout=__import__('datetime').timedelta(minutes=1)",
            "has timeout=datetime.timedelta(seconds=60); it must be a number of seconds: write timeout=60",
        ),
        ("timeout=float('inf')", "has timeout=inf; it must be at most 31536000 seconds"),
        ("timeout=1e300", "has timeout=1e+300; it must be at most"),
        ("timeout=2**2000", "it must be at most"),
        ("objective='soon'", "has objective='soon'; write it like 250ms, 30s, 5m or 1h"),
        ("objective='-5m'", "has objective='-5m'; write it like"),
        ("objective=[5]", "has objective=[5]; it must be a number of seconds"),
        (
            "objective=__import__('datetime').timedelta(minutes=1)",
            "has objective=datetime.timedelta(seconds=60); it must be a number of seconds: write objective=60",
        ),
        ("retry=3", "has retry=3; it must be a RetryPolicy, or None"),
        ("retry=False", "has retry=False; it must be a RetryPolicy, or None"),
        (
            "circuit_breaker=True",
            "has circuit_breaker=True; it must be a CircuitBreaker, such as CircuitBreaker(), or None",
        ),
        ("reject_on='ValueError'", "has reject_on='ValueError'; it must be exception classes"),
        ("reject_on=int", "has reject_on=(<class 'int'>,); it must be exception classes"),
        ("reject_on=ValueError()", "it must be exception classes"),
        ("reject_on=[ValueError()]", "it must be exception classes"),
        ("reject_on=None", "has reject_on=None; it must be exception classes"),
        ("on_error=None", "has on_error=None; it must be one of"),
        ("on_error=['retry']", "has on_error=['retry']; it must be one of"),
    ],
)
@pytest.mark.parametrize("decorator", ["consume", "consume_batch"])
def test_option_of_the_wrong_type_is_told(decorator: str, option: str, text: str, app: App) -> None:
    payload = "dict" if decorator == "consume" else "list"
    source = f'@handlers.{decorator}("q", {option})  # here\nasync def order(payload: {payload}): ...'
    assert text in app.refusal(source)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ('size="10"', "has size='10'; it must be a whole number from 1 to 65535"),
        ("size=None", "has size=None; it must be a whole number"),
        ("wait=None", "has wait=None; it must be a number of seconds"),
        ("wait='1s'", "has wait='1s'; it must be a number of seconds"),
        ("max_bytes='1MB'", "has max_bytes='1MB'; it must be a whole number"),
        ("max_bytes=1.5", "has max_bytes=1.5; it must be a whole number"),
    ],
)
def test_batch_of_the_wrong_type_is_told(option: str, text: str, app: App) -> None:
    assert text in app.refusal(f'@handlers.consume_batch("q", {option})  # here\nasync def order(payloads: list): ...')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('Queue("q", bind="shop")', "queue 'q': bind is a list of pairs, exchange and routing key, not 'shop'"),
        ('Queue("q", bind=[("shop",)])', "bind is a list of pairs"),
        ('Queue("q", bind=["ab"])', "bind is a list of pairs"),
        ('Queue("q", bind=[("shop", 5)])', "bind is a list of pairs"),
        ('Queue("q", bind={"shop": "orders"})', "bind is a list of pairs"),
        ('Queue("q", bind=None)', "bind is a list of pairs"),
        ('Queue("q", bind=[("", "q")])', 'every queue is bound to the default exchange "" by its name'),
        (
            'Queue("q", bind=[("shop", "a")], declare="off")',
            'it makes no bindings. Leave bind out, or write declare="p',
        ),
        ('Queue("amq.orders")', "names that begin with 'amq.' are the broker's own"),
        ('Queue("q", arguments=[1])', "queue 'q': arguments are a dict"),
        ('Queue("q", arguments={"x-a": object()})', "queue 'q': its arguments cannot be sent"),
        ('Queue("q", arguments={"x-a": 2**70})', "queue 'q': its arguments cannot be sent"),
        ('Queue("q", arguments={5: 1})', "queue 'q': its arguments cannot be sent"),
        ('Queue("q", max_priority="5", type="classic")', "max_priority is a whole number, not '5'"),
        ('Queue("q", consumer_priority=True)', "consumer_priority True is no 32-bit integer"),
        ('Queue("q", dead_letter="no")', "dead_letter is True or False, not 'no'"),
        ('Queue("q", type=["quorum"])', "type is 'quorum' or 'classic'"),
        ('Queue("q", declare=True)', "declare is 'ensure', 'passive' or 'off', not True"),
        ("Queue(5)", "the name of a queue is text, not 5"),
        ('RetryPolicy(max_retries="3")', "max_retries is '3', but must be a whole number"),
        ("RetryPolicy(max_retries=1.5)", "max_retries is 1.5, but must be a whole number"),
        ("RetryPolicy(max_retries=True)", "max_retries is True, but must be a whole number"),
        ("RetryPolicy(delays=5)", "delays are 5, but must be a list of seconds"),
        ('RetryPolicy(delays="15")', "delays are '15', but must be a list of seconds"),
        ('RetryPolicy(delays=["1s"])', "delays are ['1s'], but must be a list of seconds"),
        ("RetryPolicy(delays=[float('nan')])", "a delay is nan"),
        ("RetryPolicy(jitter=1)", "jitter is 1, but must be True or False"),
        ('CircuitBreaker(window="60")', "window is '60', but must be a number"),
        ("CircuitBreaker(min_deliveries=1.5)", "min_deliveries is 1.5, but must be a whole number"),
    ],
)
def test_value_of_the_wrong_type_is_told(value: str, text: str, app: App) -> None:
    assert text in app.refusal(f"{value}  # here")


def test_exception_class_stands_for_itself(app: App) -> None:
    (handler,) = app.compiled('@handlers.consume("q", reject_on=LookupError)\nasync def order(payload: dict): ...')
    assert handler.reject_on == (LookupError,)


def test_member_of_an_enum_is_its_value(app: App) -> None:
    (handler,) = app.compiled("""
        from enum import Enum
        class Names(str, Enum):
            ORDERS = "orders"
        @handlers.consume(Names.ORDERS)
        async def order(payload: dict): ...
    """)
    assert handler.queue.dead_letter_name == "orders.dlq"


def test_whatever_fails_in_compiling_names_the_handler(app: App) -> None:
    text = app.refusal("""
        class Odd(int):
            def __index__(self):
                raise LookupError("no such number")
            def __le__(self, other):
                raise LookupError("no such number")
            __ge__ = __le__
        class Policy(RetryPolicy):
            @property
            def steps_ms(self):
                raise LookupError("no such step")
        policy = object.__new__(Policy)
        @handlers.consume("q", retry=policy)  # here
        async def order(payload: dict): ...
    """)
    assert "handler 'order' cannot be made ready: LookupError: no such step." in text


def test_error_is_shown_at_the_line_that_has_the_mistake(app: App) -> None:
    """The machinery of a dataclass, which checks what it is made with, has no line of its own."""
    text = app.refusal('handlers.consume(Queue(""))  # here')
    (line,) = text.splitlines()[1:]
    assert line.endswith("# here    ValueError: a queue name has 1 to 251 bytes, and not 0: ''")


def test_error_of_several_lines_keeps_them(app: App) -> None:
    text = app.refusal("raise ValueError('one\\ntwo \\x1b[2J\\nthree')  # here")
    assert text.endswith("    ValueError: one\n    two \\x1b[2J\n    three")


def test_refusal_of_a_stream_has_its_lines(app: App) -> None:
    text = app.refusal('handlers.consume(Queue("q", arguments={"x-queue-type": "stream"}))  # here')
    assert "\\x0a" not in text
    assert "\n      Use a quorum queue" in text
