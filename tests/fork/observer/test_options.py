"""The options about HTTP: which address is taken, which is refused and why, and who needs a token."""

from __future__ import annotations

import base64
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from mxworker.cli.http import http_listen, metrics_directory
from mxworker.errors import ConfigError
from mxworker.observer.http.addresses import Address, address_of, listen_nearby
from tests.harness.http import Web
from tests.harness.places import open_directory
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until

APP = """
    from mxworker import Handlers

    handlers = Handlers()


    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        pass
"""
TOKEN = "correct-horse-battery-staple"
NOWHERE = "amqp://127.0.0.1:1/"  # nothing listens there, so the service tries for as long as --connect-wait

Run = Callable[..., Service]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """`run("--http=...")` starts a service that waits for a broker which never comes."""
    services: list[Service] = []

    def begin(*flags: str, **env: str) -> Service:
        app = write_app(tmp_path, APP)
        command = mxworker_run(
            app, f"--broker-url={NOWHERE}", "--connect-wait=5m", "--workers=1", *flags, app_dir=tmp_path
        )
        services.append(Service(command, tmp_path, name=f"service{len(services)}", env=env))
        return services[-1]

    yield begin
    for service in services:
        service.stop()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def status(service: Service) -> dict[str, object]:
    asked = wait_until(lambda: answered(service), 30, "the status")
    found: dict[str, object] = orjson.loads(asked)
    return found


def answered(service: Service) -> str:
    """Return what `status` writes, or nothing while there is no service."""
    asked = service.mxworker("status", "--json")
    return asked.stdout if asked.returncode == 0 else ""


# ---- addresses


def test_address_in_use_is_refused_at_the_start(run: Run, taken: int) -> None:
    service = run(f"--http=127.0.0.1:{taken}")
    assert service.wait_exit() == 2
    assert "is in use by another process" in service.log_text()
    assert "Traceback" not in service.log_text()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:{taken}", "is in use by another process"),
        ("192.0.2.1:9191", "this machine has no address 192.0.2.1"),
        ("no.such.name.invalid:9191", "no.such.name.invalid:9191 cannot be used"),
        ("two..dots:9191", "'two..dots' is no host name"),
        ("nonsense", "is no address"),
        ("0.0.0.0:0", "other machines can reach 0.0.0.0:"),
        ("[::]:0", "other machines can reach"),
    ],
)
def test_address_that_cannot_be_used_is_refused_with_a_remedy(taken: int, address: str, why: str) -> None:
    if address.startswith("[") and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with pytest.raises(ConfigError, match=re.escape(why)) as refused:
        http_listen(flags(http=address.format(taken=taken)))
    assert refused.value.exit_code == 2
    assert re.search("--http|Write it like", str(refused.value))


@pytest.mark.parametrize(
    ("address", "more", "host"),
    [
        ("LocalHost:0", (), "localhost:80"),
        ("{machine}:0", (), "{machine}"),
        ("127.0.0.1:0", ("Shop.Example.:443",), "shop.example"),
        ("127.0.0.1:0", ("*",), "any.example"),
    ],
)
def test_host_by_which_the_address_was_given_is_ours(
    address: str, more: tuple[str, ...], host: str, token_file: Path
) -> None:
    machine = socket.gethostname()
    try:
        socket.getaddrinfo(machine, 0)
    except OSError:
        pytest.skip("this machine's name has no address")
    http = http_listen(flags(http=address.format(machine=machine), http_host=more, http_token_file=str(token_file)))
    assert http is not None
    with http.listening:
        assert http.access.is_our_host(host.format(machine=machine))
        assert http.access.is_our_host("another.example") == ("*" in more)


def test_default_that_is_in_use_gives_way_to_the_next_free_port(taken: int) -> None:
    with listen_nearby(Address(port=taken)) as found:
        assert taken < address_of(found).port < taken + 100


def test_address_is_shown_at_the_start_and_in_the_status(run: Run) -> None:
    service = run("--log-format=text", MXWORKER_NO_HTTP="0")  # so the default address, or one beside it
    url = str(status(service)["http"])
    assert url.startswith("http://127.0.0.1:")
    assert f"http        {url}" in service.mxworker("status").stdout
    assert f"http        {url}" in service.log_text()
    assert Web(url).wait_for("/livez", 200).text == "alive\n"


def test_service_without_http_has_none(run: Run) -> None:
    service = run("--no-http", "--log-format=text")
    service.wait_for_log("http        none")
    assert status(service)["http"] == ""
    assert "\nhttp " not in service.mxworker("status").stdout


def test_both_options_exclude_each_other_and_the_command_line_overrides_the_environment(run: Run) -> None:
    both = run("--http=127.0.0.1:0", "--no-http")
    assert both.wait_exit() == 2
    assert "exclude each other" in both.log_text()
    assert str(status(run("--http=127.0.0.1:0", MXWORKER_NO_HTTP="1"))["http"]) != ""


# ---- tokens


def test_token_opens_what_others_must_not_see(run: Run, token_file: Path) -> None:
    service = run("--http=0.0.0.0:0", f"--http-token-file={token_file}", "--http-host=shop.example")
    port = Web(str(status(service)["http"])).port
    web = Web(f"http://127.0.0.1:{port}/")
    assert web.wait_for("/livez", 200)
    assert web.get("/metrics").status == 200
    assert web.get("/readyz").status == 503
    for path in ("/", "/status.json"):
        assert web.get(path).status == 401
        assert web.get(path, Authorization="Bearer wrong").status == 401
        assert web.get(path, Authorization=f"Bearer {TOKEN}").status == 200
        password = base64.b64encode(f"me:{TOKEN}".encode()).decode()
        assert web.get(path, Authorization=f"Basic {password}").status == 200
    assert web.get("/livez", Host="shop.example").status == 200
    assert web.get("/livez", Host="evil.example").status == 421
    assert web.get("/", "POST", Authorization=f"Bearer {TOKEN}").status == 405
    seen = service.log_text() + service.output_text() + service.mxworker("status", "--json").stdout
    assert TOKEN not in seen
    for process in service.survivors():
        assert TOKEN.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert TOKEN.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("short", "fewer than 16"),
        ("\n", "fewer than 16"),
        ("x" * 15 + " \n", "fewer than 16"),
        (f"{TOKEN}\n{TOKEN}\n", "line ends"),
        (f"{TOKEN}\0", "control characters"),
    ],
)
def test_token_that_could_be_guessed_or_cannot_be_sent_is_refused(token_file: Path, content: str, why: str) -> None:
    token_file.write_text(content)
    with pytest.raises(ConfigError, match=why):
        http_listen(flags(http="0.0.0.0:0", http_token_file=str(token_file)))


def test_token_that_others_may_change_is_refused() -> None:
    with open_directory() as place:
        path = place / "token"
        path.write_text(TOKEN)
        path.chmod(0o606)
        with pytest.raises(ConfigError, match="http-token-file") as refused:
            http_listen(flags(http="0.0.0.0:0", http_token_file=str(path)))
    assert TOKEN not in str(refused.value)


def test_token_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        http_listen(flags(http="0.0.0.0:0", http_token_file=str(tmp_path / "missing")))


def flags(**changed: object) -> dict[str, object]:
    return {"http": None, "no_http": False, "http_token_file": None, "http_host": ()} | changed


# ---- the directory for the application's own metrics


def test_directory_for_metrics_is_ours_alone_and_removed_at_the_end(tmp_path: Path) -> None:
    place = tmp_path / "shop.sock.metrics"
    place.mkdir(0o755)
    (place / "counter_1.db").write_bytes(b"of a service that was killed")
    with metrics_directory(tmp_path / "shop.sock") as directory:
        assert directory == place
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert list(directory.iterdir()) == []
        (directory / "counter_2.db").write_bytes(b"x")
    assert not place.exists()


def test_files_of_others_in_the_directory_for_metrics_stay(tmp_path: Path) -> None:
    place = tmp_path / "shop.sock.metrics"
    place.mkdir()
    (place / "notes").write_text("not ours")
    with metrics_directory(tmp_path / "shop.sock"):
        (place / "counter_1.db").write_bytes(b"x")
    assert [path.name for path in place.iterdir()] == ["notes"]


def test_service_without_a_directory_for_metrics_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with metrics_directory(tmp_path / "missing" / "shop.sock") as directory:
        assert directory is None
    assert "own metrics are not collected" in caplog.text
