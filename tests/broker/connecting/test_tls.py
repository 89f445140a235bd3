"""amqps:// end to end: a broker that wants a certificate from us, and what an operator reads when TLS is refused.

The files may change under a running service: a new connection takes what they hold then.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.broker.apps import Recorded
from tests.harness.certificates import Authority, Identity, TlsStub
from tests.harness.proxy import Proxy
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.fixtures import need_nodes
from tests.rabbit.node import Node
from tests.rabbit.ports import free_port

SOON_S = 90.0

APP = """
    from mxworker import Handlers

    handlers = Handlers()


    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        pass
"""
CONFIG = """
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {identity.certificate}
ssl_options.keyfile = {identity.key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""


@dataclass
class TlsBroker:
    """A node whose amqps:// listener asks for a certificate of the same authority that signed its own."""

    node: Node
    port: int
    authority: Authority

    def url(self, scheme: str = "amqps", host: str = "127.0.0.1") -> str:
        return f"{scheme}://guest:guest@{host}:{self.port}/"

    @property
    def flags(self) -> list[str]:
        me = self.authority.issue("worker.example")
        return [f"--tls-ca={self.authority.file}", f"--tls-cert={me.certificate}", f"--tls-key={me.key}"]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    folder = tmp_path_factory.mktemp("certificates")
    authority, port = Authority(folder), free_port()
    config = CONFIG.format(port=port, ca=authority.file, identity=authority.issue())
    need_nodes()
    node = Node(tmp_path_factory.mktemp("tls-node"), config=config)
    try:
        node.start()
        yield TlsBroker(node, port, authority)
    finally:
        node.kill()


def refusal(folder: Path, url: str, flags: Sequence[str] = (), within_s: float = 50) -> str:
    """Return what the service says when it does not start, having ended with exit code 4 and not waited."""
    app = write_app(folder, APP)
    command = mxworker_run(
        app, "--workers=2", "--connect-wait=60s", "--log-level=error", "--log-format=text", *flags, app_dir=folder
    )
    with Service(command, folder, env={"MXWORKER_BROKER_URL": url}) as service:
        assert service.wait_exit(within_s) == 4, service.log_text()
        return service.log_text()


def test_messages_are_handled_over_tls_with_a_client_certificate(broker: TlsBroker, tmp_path: Path) -> None:
    recorded = Recorded(broker.node.url, tmp_path, "orders")
    recorded.declare()
    recorded.publish(500)
    with recorded.service("--workers=2", *broker.flags, url=broker.url()) as service:
        service.wait_ready()
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 30, "every id")
        assert "open to others" not in service.log_text()
        service.stop()
        assert service.exit_code == 0
    assert recorded.judge().exactly_once


def test_missing_client_certificate_is_told(broker: TlsBroker, tmp_path: Path) -> None:
    """One worker is told so at least.

    The alert comes after the handshake (RFC 8446, 4.4.2.4), and the reset that follows it may take it away: then the
    worker has only lost a connection, leaves the broker alone for a while and tries again.
    """
    ca, *_ = broker.flags
    assert "name it with --tls-cert" in refusal(tmp_path, broker.url(), [ca], within_s=80)


def test_unknown_authority_is_refused(broker: TlsBroker, tmp_path: Path) -> None:
    told = refusal(tmp_path, broker.url())
    assert told.startswith(
        "Error: the broker's certificate is not accepted: self-signed certificate in certificate chain."
    )
    assert "Name the authority that signed it with --tls-ca FILE." in told


def test_wrong_host_is_refused(broker: TlsBroker, tmp_path: Path) -> None:
    told = refusal(tmp_path, broker.url(host="localhost"), broker.flags)
    assert told.startswith("Error: the broker's certificate is not accepted: Hostname mismatch")


def test_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    expired: Identity = authority.issue(expired=True)
    with TlsStub(expired.server_context()) as stub:
        told = refusal(tmp_path, f"amqps://127.0.0.1:{stub.port}/", [f"--tls-ca={authority.file}"])
    assert told.startswith("Error: the broker's certificate is not accepted: certificate has expired.")


def test_ports_of_the_other_scheme_are_told_apart(broker: TlsBroker, tmp_path: Path) -> None:
    assert "write amqps:// instead of amqp://" in refusal(tmp_path, broker.url("amqp"))
    assert "does not speak TLS on this port" in refusal(tmp_path, broker.node.url.replace("amqp:", "amqps:"))


# ---- while the service runs


class Files:
    """The three files that a service is told of, which its operator replaces while it runs."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir()
        self.ca, self.certificate, self.key = (folder / name for name in ("ca.pem", "own.pem", "own.key"))
        self.put(authority)

    def put(self, authority: Authority) -> None:
        """Replace all files, each at once, by those of this authority."""
        own = authority.issue("worker.example")
        for file, source in ((self.ca, authority.file), (self.certificate, own.certificate), (self.key, own.key)):
            new = file.with_suffix(".new")
            shutil.copy(source, new)
            new.replace(file)

    @property
    def flags(self) -> list[str]:
        return [f"--tls-ca={self.ca}", f"--tls-cert={self.certificate}", f"--tls-key={self.key}"]


def no_authority(files: Files, strangers: Authority) -> str:
    files.ca.unlink()
    return f"--tls-ca names '{files.ca}', which cannot be read: No such file or directory"


def other_authority(files: Files, strangers: Authority) -> str:
    shutil.copy(strangers.file, files.ca)
    return "the broker's certificate is not accepted"


def junk(files: Files, strangers: Authority) -> str:
    files.certificate.write_text("junk")
    return f"--tls-cert names '{files.certificate}', which holds no certificate in PEM form"


def key_of_another(files: Files, strangers: Authority) -> str:
    files.key.write_bytes(strangers.issue("worker.example").key.read_bytes())
    return f"the key in '{files.key}' does not belong to the certificate in '{files.certificate}'"


@pytest.mark.parametrize("spoil", [no_authority, other_authority, junk, key_of_another])
def test_service_survives_files_that_are_wrong_at_a_reconnect_and_takes_the_good_ones(
    spoil: Callable[[Files, Authority], str], broker: TlsBroker, tmp_path: Path
) -> None:
    """The worker stays, says what is wrong, and goes on with what the files hold once they are right."""
    files = Files(tmp_path / "tls", broker.authority)
    recorded = Recorded(broker.node.url, tmp_path, f"orders-{spoil.__name__}")
    recorded.declare()
    with (
        Proxy("127.0.0.1", broker.port) as proxy,
        recorded.service("--workers=1", *files.flags, url=proxy.url(broker.url())) as service,
    ):
        service.wait_ready()
        before = service.worker_pids()
        told = spoil(files, Authority(tmp_path, "strangers"))
        proxy.cut()
        service.wait_for_log(told, SOON_S)
        recorded.publish(20)
        assert recorded.handled == 0
        files.put(broker.authority)
        assert_goes_on(service, recorded, before)


def assert_goes_on(service: Service, recorded: Recorded, workers: Sequence[int]) -> None:
    """Check that the same workers handle all messages exactly once, and that the service then ends well."""
    wait_until(lambda: recorded.finished_ids == set(recorded.ids), SOON_S, "every id")
    assert service.worker_pids() == workers
    service.stop()
    assert service.exit_code == 0
    assert recorded.judge().exactly_once


def test_worker_that_is_replaced_while_a_file_is_missing_waits_for_it(broker: TlsBroker, tmp_path: Path) -> None:
    """The service has been ready: what is wrong then is no failed start."""
    files = Files(tmp_path / "tls", broker.authority)
    recorded = Recorded(broker.node.url, tmp_path, "orders-replaced")
    recorded.declare()
    with recorded.service("--workers=1", *files.flags, url=broker.url()) as service:
        service.wait_ready()
        told = no_authority(files, broker.authority)
        service.kill_worker(random.Random(7))
        service.wait_for_log(told, SOON_S)
        waiting = service.worker_pids()
        recorded.publish(20)
        files.put(broker.authority)
        assert_goes_on(service, recorded, waiting)
