"""However an application configures logging, and whenever, its workers go on telling what they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.scales import crossed
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

PATIENCE_S = 60.0

APP = """
    import logging.config
    import os
    from pathlib import Path

    from mxworker import Context, Handlers, Reject

    handlers = Handlers()
    queue = os.environ["QUEUE"]
    theirs = {"class": "logging.FileHandler", "filename": os.environ["THEIRS"], "level": "INFO"}
    ini = Path(__file__).with_name("logging.ini")
    ini.write_text(
        "[loggers]\\nkeys=root\\n[handlers]\\nkeys=file\\n[formatters]\\nkeys=\\n[logger_root]\\nlevel=INFO\\nhandlers=file\\n"
        f"[handler_file]\\nclass=FileHandler\\nargs=({os.environ['THEIRS']!r},)\\n"
    )


    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("the log collector is gone")


    def configure(where):
        if os.environ["WHERE"] != where:
            return
        match os.environ["HOW"]:
            case "dictConfig":
                logging.config.dictConfig({"version": 1})
            case "dictConfig with a root handler":
                logging.config.dictConfig(
                    {"version": 1, "handlers": {"theirs": theirs}, "root": {"handlers": ["theirs"], "level": "INFO"}}
                )
            case "dictConfig with a root without handlers":
                logging.config.dictConfig({"version": 1, "root": {"level": "INFO"}})
            case "a handler that raises":
                logging.basicConfig(handlers=[Broken()], force=True, level="INFO")
            case "fileConfig":
                logging.config.fileConfig(ini)


    configure("import")


    @handlers.lifespan
    async def lifespan():
        configure("lifespan")
        yield


    def refuse(ctx):
        ctx.log.info("before")
        configure("handler")
        ctx.log.info("the handler says so")
        raise Reject("no")


    @handlers.consume(queue + ".async")
    async def in_the_loop(body: bytes, ctx: Context) -> None:
        refuse(ctx)


    @handlers.consume(queue + ".def")
    def in_a_thread(body: bytes, ctx: Context) -> None:
        refuse(ctx)


    @handlers.consume(queue + ".cpu", cpu=True)
    def in_a_process(body: bytes, ctx: Context) -> None:
        refuse(ctx)
"""

KINDS = {"async": "in_the_loop", "def": "in_a_thread", "cpu": "in_a_process"}
OURS = ["a handler that raises", "dictConfig", "dictConfig with a root without handlers"]
THEIRS = ["dictConfig with a root handler", "fileConfig"]


@pytest.mark.parametrize(("how", "where"), crossed([*OURS, *THEIRS], ["import", "lifespan", "handler"]))
def test_what_workers_tell_is_not_silenced(
    how: str, where: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    """It goes to the application's own root handlers where it has some, and else where it went before."""
    theirs = tmp_path / "theirs"
    theirs.touch()
    env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queues, "HOW": how, "WHERE": where, "THEIRS": str(theirs)}
    command = mxworker_run(write_app(tmp_path, APP), "--workers=1", app_dir=tmp_path)
    with Service(command, tmp_path, env=env) as service:
        service.wait_ready()
        for kind, handler in KINDS.items():
            admin.publish(f"{queues}.{kind}", [b"", b""])
            wait_until(lambda kind=kind: admin.counts(f"{queues}.{kind}.dlq").messages == 2, PATIENCE_S, "both")
            told = theirs.read_text() if how in THEIRS else service.log_text()
            rejected = [line for line in told.splitlines() if f"handler {handler} rejected" in line]
            # The process for cpu handlers begins as its application configures it; a worker may have done so before.
            assert len(rejected) == 2, told
            assert told.count("the handler says so") >= 2
