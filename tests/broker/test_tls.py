"""amqps:// end to end: a broker that wants a certificate from us, and what an operator reads when TLS is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.broker.apps import Recorded
from tests.harness.certificates import Authority, Identity, TlsStub
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.node import Node
from tests.rabbit.ports import free_port

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
    node = Node(tmp_path_factory.mktemp("tls-node"), config=config)
    try:
        node.start()
        yield TlsBroker(node, port, authority)
    finally:
        node.kill()


def refusal(folder: Path, url: str, flags: Sequence[str] = (), within_s: float = 20) -> str:
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
