"""What an operator reads when it does not start, and the exit code a supervisor sees."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from tests.harness.repository import REPOSITORY
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node
from tests.rabbit.ports import free_port

APP = """
    from mxworker import Handlers, Queue

    handlers = Handlers()


    @handlers.consume("QUEUE")
    async def order(payload: dict) -> None:
        pass
"""
PASSWORD = "S3cr3t%2Fx"


def run(
    folder: Path, *arguments: str, url: str | None = None, url_file: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `mxworker run` in `folder` to its end."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    if url is not None:
        environment["MXWORKER_BROKER_URL"] = url
    if url_file is not None:
        environment["MXWORKER_BROKER_URL_FILE"] = url_file
    command = [
        sys.executable,
        "-m",
        "mxworker",
        "run",
        "--workers=2",
        "--log-level=error",
        "--log-format=text",
        *arguments,
    ]
    with tempfile.TemporaryDirectory(prefix="mx-") as runtime:
        environment["XDG_RUNTIME_DIR"] = runtime
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def folder(tmp_path: Path, queue_name: str) -> Path:
    write_app(tmp_path, APP.replace("QUEUE", queue_name))
    return tmp_path


def test_missing_url(folder: Path) -> None:
    ended = run(folder, "app:handlers")
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: no broker URL.\n  Try:  mxworker run APP --broker-url amqp://")


def test_url_from_a_file(folder: Path, broker_url: str) -> None:
    (folder / "url").write_text(f"{broker_url}\n")
    ended = run(folder, "app:handlers", "--burst", url_file=str(folder / "url"))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_url_file_that_cannot_be_read(folder: Path) -> None:
    ended = run(folder, "app:handlers", url_file=str(folder / "nothing"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: MXWORKER_BROKER_URL_FILE names '")


def test_password_of_the_command_line_is_wiped_from_process_titles_and_logs(folder: Path, broker_url: str) -> None:
    url = broker_url.replace("guest:guest@", "guest:gu%65st@")
    command = mxworker_run("app:handlers", "--workers=1", f"--broker-url={url}", "--log-level=debug", app_dir=folder)
    with Service(command, folder) as service:
        service.wait_ready()
        pids = [service.pid, *service.worker_pids()]
        wanted = [f"mxworker: master {folder.name}/app:handlers", "mxworker: worker 1 [ready]"]
        wait_until(
            lambda: [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode() for pid in pids] == wanted,
            30,
            "the titles of processes that are ready",
        )
        log = service.log_text()
        assert "gu%65st" not in log
        assert "guest:guest" not in log
        assert "names a file to read it from" in log


def test_tls_files_are_checked_before_the_start(folder: Path) -> None:
    ended = run(folder, "app:handlers", "--tls-ca=nothing", url=f"amqps://me:{PASSWORD}@localhost/")
    assert ended.returncode == 2
    assert ended.stderr == "Error: --tls-ca names 'nothing', which cannot be read: No such file or directory.\n"
    ended = run(folder, "app:handlers", "--tls-ca=nothing", url=f"amqp://me:{PASSWORD}@localhost/")
    assert ended.returncode == 2
    assert "write amqps:// for TLS" in ended.stderr


def test_plain_text_to_another_machine_is_warned_about_once(folder: Path) -> None:
    url = f"amqp://me:{PASSWORD}@broker.invalid/"
    ended = run(folder, "app:handlers", "--connect-wait=1s", "--log-level=warning", url=url)
    assert ended.returncode == 4
    assert ended.stderr.count("go to broker.invalid:5672 in plain text; write amqps:// for TLS") == 1
    assert "S3cr3t" not in ended.stderr


@pytest.mark.parametrize(
    ("modes", "refused"), [((0o755, 0o757), "app"), ((0o1777, 0o1777), "app"), ((0o757, 0o755), "")]
)
def test_app_dir_that_everybody_may_write_to_is_refused(
    folder: Path, broker_url: str, modes: tuple[int, int], refused: str
) -> None:
    above, app_dir = folder / "above", folder / "above" / "app"
    app_dir.mkdir(parents=True)
    above.chmod(modes[0])
    app_dir.chmod(modes[1])
    ended = run(folder, "app:handlers", f"--app-dir={app_dir}", url=broker_url)
    place = above / refused
    assert ended.returncode == 2
    help_on_it = (
        f"'{place}' is shared by all users: use a separate directory."
        if modes[0] & stat.S_ISVTX
        else f"Try:  chmod o-w {place}"
    )
    assert ended.stderr == (
        f"Error: everybody on this machine may write to '{place}', and so choose what --app-dir {app_dir} runs.\n"
        f"  {help_on_it}\n"
        "  Where nobody else can do harm, as in a container, say so with --insecure-app-dir.\n"
    )


def test_app_dir_in_a_directory_with_the_sticky_bit_is_taken(folder: Path, broker_url: str) -> None:
    folder.chmod(0o1777)
    app_dir = folder / "app"
    app_dir.mkdir()
    (folder / "app.py").rename(app_dir / "app.py")
    ended = run(app_dir, "app:handlers", f"--app-dir={app_dir}", "--burst", url=broker_url)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_wrong_url_among_several_in_a_file(folder: Path) -> None:
    (folder / "urls").write_text(f"amqp://a/\n\namqp://me:{PASSWORD}@b:0/\n")
    ended = run(folder, "app:handlers", url_file=str(folder / "urls"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: URL 2 of 2: the broker URL has the port 0")


def test_bad_duration(folder: Path, broker_url: str) -> None:
    ended = run(folder, "app:handlers", "--drain-timeout=soon", url=broker_url)
    assert ended.returncode == 2
    assert "Invalid value for '--drain-timeout'" in ended.stderr
    assert "'soon' is not a duration.  Write it like 250ms, 30s, 5m or 1h." in ended.stderr


def test_settings_in_the_code_that_do_not_go_with_those_that_are_given(folder: Path, broker_url: str) -> None:
    pool = "PoolSettings(min_connections=5, max_connections=6)"
    app = (folder / "app.py").read_text().replace("import Handlers", "import Handlers, PoolSettings")
    (folder / "app.py").write_text(app.replace("Handlers()", f"Handlers(pool={pool})"))
    ended = run(folder, "app:handlers", "--burst", "--pool-max-connections=4", url=broker_url)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: pool: min_connections is 5, above max_connections, 4.")


def test_unknown_queue(folder: Path, broker_url: str, queue_name: str) -> None:
    ended = run(folder, "app:handlers", "--queues=nowhere", url=broker_url)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"Error: no handler consumes queue 'nowhere'.  The app consumes: {queue_name}.")


def test_wrong_attribute(folder: Path, broker_url: str) -> None:
    ended = run(folder, "app:handler", url=broker_url)
    assert ended.returncode == 3
    assert ended.stderr == (
        "Error: module 'app' has no attribute 'handler'.  It defines: handlers (Handlers, 1 consumer).\n"
        "  Try:  mxworker run app:handlers\n"
    )


def test_wrong_module(folder: Path, broker_url: str) -> None:
    ended = run(folder, "ap:handlers", url=broker_url)
    assert ended.returncode == 3
    assert ended.stderr.startswith("Error: there is no module 'ap'")
    assert "--app-dir" in ended.stderr


@pytest.mark.parametrize(
    ("source", "line"),
    [
        pytest.param(
            "# shop\nimport stripe_of_nobody\n",
            "broken.py:2  import stripe_of_nobody    ModuleNotFoundError: No module named 'stripe_of_nobody'",
            id="missing module",
        ),
        pytest.param(
            "import os\n\nos.environ['NOBODY_SET_THIS']\n",
            "broken.py:3  os.environ['NOBODY_SET_THIS']    KeyError: 'NOBODY_SET_THIS'",
            id="missing environment variable",
        ),
    ],
)
def test_error_at_import_shows_the_users_line_alone(source: str, line: str, folder: Path, broker_url: str) -> None:
    (folder / "broken.py").write_text(source)
    ended = run(folder, "broken:handlers", url=broker_url)
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"Error: 'broken' was found but failed to import:\n  {line}\n")
    assert len(ended.stderr.splitlines()) <= 3


def test_syntax_error_shows_the_users_line(folder: Path, broker_url: str) -> None:
    (folder / "broken.py").write_text("def order(:\n    pass\n")
    ended = run(folder, "broken.py", url=broker_url)
    assert ended.returncode == 3
    assert "  broken.py:1  def order(:    SyntaxError:" in ended.stderr


def test_handler_that_cannot_work_names_file_and_line(folder: Path, broker_url: str) -> None:
    write_app(folder, APP.replace("payload: dict", "payload: type"), "odd")
    ended = run(folder, "odd:handlers", url=broker_url)
    assert ended.returncode == 3
    assert "odd.py:" in ended.stderr
    assert "handler 'order' takes its payload as type, which nothing can decode" in ended.stderr


ODD = """
    from mxworker import Handlers


    class Odd(Handlers):
        @property
        def queues(self):
            raise LookupError("no such shop")


    handlers = Odd()
"""


def test_whatever_fails_in_making_the_application_ready_is_one_error(folder: Path) -> None:
    write_app(folder, ODD, "odd")
    ended = run(folder, "odd:handlers", "--log-level=info", url="amqp://127.0.0.1:1/")
    assert ended.returncode == 3
    assert "Error: 'odd:handlers' cannot be made ready, by a fault in it or in mxworker" in ended.stderr
    assert '\n  odd.py:8  raise LookupError("no such shop")    LookupError: no such shop\n' in ended.stderr
    assert "Traceback" not in ended.stderr


FAULTS = {
    "in a decorator": (
        "@handlers.consume",
        "Error: 'faulty' was found but failed to import:\n  faulty.py:7  @handlers.consume    TypeError: consume needs",
    ),
    "in an option": ('@handlers.consume("QUEUE", concurrency="8")', "handler 'order' has concurrency='8'; it must be"),
    "in a lifespan": (
        '@handlers.lifespan\n@handlers.consume("QUEUE")',
        "lifespan 'order' is 'async def' without a 'yield'.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_the_application_is_one_error_without_a_traceback(fault: str, folder: Path) -> None:
    decorator, text = FAULTS[fault]
    write_app(folder, APP.replace('    @handlers.consume("QUEUE")', textwrap.indent(decorator, "    ")), "faulty")
    ended = run(folder, "faulty:handlers", "--log-level=info", url="amqp://127.0.0.1:1/")
    assert ended.returncode == 3
    assert [line[:7] for line in ended.stderr.splitlines()].count("Error: ") == 1
    assert text in ended.stderr
    assert "faulty.py:7" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_unreachable_broker(folder: Path) -> None:
    url = f"amqp://me:{PASSWORD}@127.0.0.1:{free_port()}/"
    started_at = time.monotonic()
    ended = run(folder, "app:handlers", "--connect-wait=1s", url=url)
    assert ended.returncode == 4
    assert time.monotonic() - started_at < 1 + 20  # far from the 30 s of the default
    assert ended.stderr.startswith("Error: no broker at amqp://me:***@127.0.0.1:")
    assert "connection refused (tried for 1s)" in ended.stderr
    assert PASSWORD not in ended.stderr
    assert "S3cr3t/x" not in ended.stderr


def test_wrong_password_does_not_wait(folder: Path, broker_url: str) -> None:
    url = broker_url.replace("guest:guest", f"guest:{PASSWORD}")
    ended = run(folder, "app:handlers", "--connect-wait=60s", url=url)
    assert ended.returncode == 4
    assert ended.stderr.startswith("Error: the broker refused us: 403 ACCESS_REFUSED")
    assert PASSWORD not in ended.stderr


def test_no_broker_of_several(folder: Path, broker_url: str) -> None:
    refused = broker_url.replace("guest:guest", f"guest:{PASSWORD}")
    away = f"amqp://me:{PASSWORD}@127.0.0.1:{free_port()}/"
    ended = run(folder, "app:handlers", "--connect-wait=5s", url=f"{refused} {away}")
    assert ended.returncode == 4
    assert ended.stderr.startswith("Error: no broker at amqp://guest:***@127.0.0.1:")
    assert ": the broker refused us: 403 ACCESS_REFUSED" in ended.stderr
    assert ": cannot connect: connection refused (tried for 5s)" in ended.stderr
    assert "S3cr3t" not in ended.stderr


def test_several_brokers_that_all_refuse_us_do_not_wait(folder: Path, broker_url: str) -> None:
    urls = [broker_url.replace("guest:guest", f"{user}:{PASSWORD}") for user in ("guest", "nobody")]
    ended = run(folder, "app:handlers", "--connect-wait=60s", url="\n".join(urls))
    assert ended.returncode == 4
    assert ended.stderr.count("the broker refused us: 403 ACCESS_REFUSED") == 2
    assert "S3cr3t" not in ended.stderr


def test_one_broker_that_refuses_us_is_warned_about_and_another_is_used(folder: Path, broker_url: str) -> None:
    urls = [broker_url.replace("guest:guest", f"guest:{PASSWORD}"), broker_url]
    flags = [f"--broker-url={url}" for url in urls]
    ended = run(folder, "app:handlers", *flags, "--burst", "--log-level=warning")
    assert ended.returncode == 0, ended.stderr
    assert "the broker refused us: 403 ACCESS_REFUSED" in ended.stderr
    assert "a password on the command line is visible" in ended.stderr
    assert "S3cr3t" not in ended.stderr


def test_queue_of_others_is_refused_with_the_line_with_which_it_is_consumed(
    folder: Path, node: Node, queue_name: str
) -> None:
    write_app(folder, APP.replace("QUEUE", queue_name), "plain")
    with Client(node.url) as client, node.expect_precondition_failed():
        client.declare(queue_name)
        ended = run(folder, "plain:handlers", url=node.url)
    assert ended.returncode == 4
    line = f'Queue("{queue_name}", type="classic", declare="passive")'
    refused = f"Error: broker refused queue '{queue_name}': 406 PRECONDITION_FAILED"
    assert ended.stderr.startswith(f"{refused}, x-queue-type is 'classic', code says 'quorum'.\n")
    assert f"\n  Write {line} to take existing queues as they are.\n" in ended.stderr
    write_app(folder, APP.replace('"QUEUE"', line), "passive")
    ended = run(folder, "passive:handlers", "--burst", url=node.url)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_one_refused_queue_of_two_says_so(folder: Path, broker_url: str, queue_name: str) -> None:
    source = APP.replace("QUEUE", queue_name)
    source += """
    @handlers.consume(Queue("nowhere", declare="off", dead_letter=False), retry=None)
    async def other(payload: dict) -> None:
        pass
"""
    write_app(folder, source, "two")
    ended = run(folder, "two:handlers", url=broker_url)
    assert ended.returncode == 4
    assert ended.stderr.startswith("Error: broker refused queue 'nowhere': 404 NOT_FOUND")


def test_crash_at_import_ends_with_5(folder: Path, broker_url: str) -> None:
    (folder / "crash.py").write_text("import os\nos.abort()\n")
    ended = run(folder, "crash:handlers", url=broker_url)
    assert ended.returncode == 5
    assert "Error: no worker ever became ready" in ended.stderr


DYING = """
    import os
    import threading
    import time


    def die():
        while True:
            with open("/proc/self/cmdline") as title:
                if "[ready]" in title.read():
                    os._exit(1)
            time.sleep(0.05)


    threading.Thread(target=die, daemon=True).start()
"""


def test_code_that_dies_after_its_start_is_tried_for_ever(folder: Path, broker_url: str, queue_name: str) -> None:
    write_app(folder, APP.replace("QUEUE", queue_name) + DYING, "dying")
    command = mxworker_run("dying:handlers", "--workers=2", app_dir=folder)
    with Service(command, folder, env={"MXWORKER_BROKER_URL": broker_url}) as service:
        service.wait_ready()
        wait_until(lambda: service.log_text().count(" is ready") >= 8, 60, "four lives of each worker")
        assert service.exit_code is None
        assert "exit code 1; the next one starts in" in service.log_text()
        service.stop()
        assert service.exit_code in (0, 1)  # 1: one of them dies while it drains
