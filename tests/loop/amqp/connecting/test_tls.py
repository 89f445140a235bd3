"""TLS is verified or refused, and a refusal says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from pamqp import commands

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.tls import check_files, client_context
from mxworker.brokers import DEFAULT_TLS, BrokerUrl, Tls
from mxworker.errors import BrokerError, ConfigError, ConnectionLost, CredentialsRefused, TlsRefused
from tests.harness.certificates import LOOPBACK, Authority, Identity, TlsStub
from tests.harness.places import open_directory
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import FakeBroker, Peer
from tests.loop.loops import on_both_loops

pytestmark = pytest.mark.usefixtures("log_as_in_production")

SOON_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Authority:
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Authority:
    return Authority(folder, "theirs")


@pytest.fixture(scope="module")
def server(ours: Authority) -> Identity:
    return ours.issue()


@pytest.fixture
def tls(ours: Authority) -> Tls:
    return Tls(ca_file=str(ours.file))


async def decent(peer: Peer) -> None:
    """Do what a broker does."""
    await peer.handshake()
    await peer.serve()


async def never_reached(peer: Peer) -> None:
    """Fail the test when one byte of AMQP arrives."""
    await peer.greeting()
    raise AssertionError("the client spoke AMQP")


async def open_soon(url: BrokerUrl, tls: Tls, within_s: float = SOON_S) -> BrokerConnection:
    return await BrokerConnection.open(url, "a name", asyncio.get_running_loop().time() + within_s, tls)


async def failure(url: BrokerUrl, tls: Tls, within_s: float = SOON_S) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        await open_soon(url, tls, within_s)
    return caught.value


# ---- accepted


@on_both_loops
async def test_certificate_of_the_named_authority_is_accepted(server: Identity, tls: Tls) -> None:
    async with FakeBroker(decent, encryption=server.server_context()) as broker:
        connection = await open_soon(broker.url, tls)
        assert connection.server == "FakeMQ 1.0"
        await connection.channel()
        await connection.close()
        received = broker.peers[0].received
        await until(lambda: isinstance(received[-1][1], commands.Connection.Close), SOON_S, "the broker to see it")


@on_both_loops
async def test_client_certificate_is_shown_to_a_broker_that_asks(server: Identity, ours: Authority, tls: Tls) -> None:
    me = ours.issue("worker.example")
    tls = replace(tls, certificate_file=str(me.certificate), key_file=str(me.key))
    async with FakeBroker(decent, encryption=server.server_context(clients=ours)) as broker:
        connection = await open_soon(broker.url, tls)
        await connection.close()


@on_both_loops
async def test_renewed_authority_is_taken_without_a_restart(
    tmp_path: Path, server: Identity, ours: Authority, theirs: Authority
) -> None:
    file = tmp_path / "ca.pem"
    tls = Tls(ca_file=str(file))
    async with FakeBroker(decent, encryption=server.server_context()) as broker:
        shutil.copy(theirs.file, file)
        assert isinstance(await failure(broker.url, tls), TlsRefused)
        file.unlink()
        assert str(await failure(broker.url, tls)).startswith(f"--tls-ca names '{file}', which cannot be read")
        shutil.copy(ours.file, file)
        connection = await open_soon(broker.url, tls)
        await connection.close()


ENDS: dict[str, Callable[[Peer], None]] = {
    "end of file": Peer.close,
    "reset": Peer.hang_up,
    "garbage": lambda peer: peer.write(b"garbage!"),
    "connection.close": lambda peer: peer.send(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0)),
    "silence": lambda peer: None,
}


@pytest.mark.parametrize("end", ENDS)
@on_both_loops
async def test_every_end_of_an_encrypted_connection_is_noticed(end: str, server: Identity, tls: Tls) -> None:
    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Channel.Open)
        ENDS[end](peer)
        await peer.gone()

    async with FakeBroker(script, heartbeat_s=1, encryption=server.server_context()) as broker:
        connection = await open_soon(broker.url, tls)
        async with asyncio.timeout(SOON_S):
            with pytest.raises(ConnectionLost):
                await connection.channel()
            assert isinstance(await asyncio.shield(connection.plane.lost), ConnectionLost)
            await connection.close()


# ---- refused


@on_both_loops
async def test_unknown_authority_is_refused(server: Identity, theirs: Authority) -> None:
    for tls in (DEFAULT_TLS, Tls(ca_file=str(theirs.file))):
        async with FakeBroker(never_reached, encryption=server.server_context()) as broker:
            error = await failure(broker.url, tls)
            assert isinstance(error, TlsRefused)
            assert "certificate is not accepted: unable to get local issuer certificate" in str(error)
            assert "--tls-ca FILE" in str(error)


@on_both_loops
async def test_named_authority_replaces_the_system_s(server: Identity, theirs: Authority, ours: Authority) -> None:
    context = client_context(Tls(ca_file=str(theirs.file)))
    assert len(context.get_ca_certs()) == 1


@on_both_loops
async def test_wrong_host_is_refused(ours: Authority, tls: Tls) -> None:
    async with FakeBroker(never_reached, encryption=ours.issue("rabbit.example").server_context()) as broker:
        for host in ("127.0.0.1", "localhost"):
            error = await failure(replace(broker.url, host=host), tls)
            assert isinstance(error, TlsRefused)
            assert "mismatch, certificate is not valid for" in str(error)
            assert f"renew that for '{host}'" in str(error)


@on_both_loops
async def test_expired_certificate_is_refused(ours: Authority, tls: Tls) -> None:
    async with FakeBroker(never_reached, encryption=ours.issue(expired=True).server_context()) as broker:
        error = await failure(broker.url, tls)
        assert isinstance(error, TlsRefused)
        assert "certificate is not accepted: certificate has expired" in str(error)
        assert "set the clock" in str(error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@on_both_loops
async def test_old_tls_is_refused(version: ssl.TLSVersion, server: Identity, tls: Tls) -> None:
    context = server.server_context()
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with TlsStub(context) as stub:
        error = await failure(BrokerUrl(LOOPBACK, stub.port, is_tls=True), tls)
        assert isinstance(error, TlsRefused)
        assert "no TLS 1.2 or later" in str(error)


@on_both_loops
async def test_nothing_of_amqp_is_sent_to_a_plain_text_broker(tls: Tls) -> None:
    greeted: list[bytes] = []

    async def as_rabbitmq_does(peer: Peer) -> None:
        greeted.append(await peer.first(8))
        peer.close_after(b"AMQP\x00\x00\x09\x01")

    async with FakeBroker(as_rabbitmq_does) as broker:
        error = await failure(replace(broker.url, is_tls=True), tls)
        assert isinstance(error, TlsRefused)
        assert "does not speak TLS on this port" in str(error)
        assert greeted[0].startswith(b"\x16\x03"), "a TLS handshake record (RFC 8446, 5.1)"


@pytest.mark.parametrize("alert", ["15 03 03 00 02 02 0a", "15 03 01 00 02 02 46 00"])  # RFC 8446, 6: fatal ones
@on_both_loops
async def test_tls_broker_asked_in_plain_text_is_named(alert: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.greeting()
        peer.close_after(bytes.fromhex(alert))

    async with FakeBroker(script) as broker:
        error = await failure(broker.url, DEFAULT_TLS)
        assert isinstance(error, TlsRefused), repr(error)
        assert "write amqps:// instead" in str(error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_missing_client_certificate_is_told(
    version: ssl.TLSVersion, server: Identity, ours: Authority, tls: Tls
) -> None:
    context = server.server_context(clients=ours)
    context.minimum_version = context.maximum_version = version
    with TlsStub(context) as stub:
        error = await failure(BrokerUrl(LOOPBACK, stub.port, is_tls=True), tls)
        assert isinstance(error, TlsRefused), repr(error)
        assert "name it with --tls-cert" in str(error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_client_certificate_of_another_authority_is_told(
    version: ssl.TLSVersion, server: Identity, ours: Authority, theirs: Authority, tls: Tls
) -> None:
    context = server.server_context(clients=ours)
    context.minimum_version = context.maximum_version = version
    stranger = theirs.issue("worker.example")
    tls = replace(tls, certificate_file=str(stranger.certificate), key_file=str(stranger.key))
    with TlsStub(context) as stub:
        error = await failure(BrokerUrl(LOOPBACK, stub.port, is_tls=True), tls)
        assert isinstance(error, TlsRefused), repr(error)
        assert "it does not know the authority of the one in --tls-cert" in str(error)


@on_both_loops
async def test_credentials_are_refused_over_tls_as_without(server: Identity, tls: Tls) -> None:
    async def refuses(peer: Peer) -> None:
        await peer.start()
        peer.send(commands.Connection.Close(403, "ACCESS_REFUSED", 0, 0))

    async with FakeBroker(refuses, encryption=server.server_context()) as broker:
        assert isinstance(await failure(broker.url, tls), CredentialsRefused)


@on_both_loops
async def test_tls_handshake_that_is_not_answered_is_given_up_at_the_deadline(tls: Tls) -> None:
    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with FakeBroker(silent) as broker:
        error = await failure(replace(broker.url, is_tls=True), tls, within_s=0.5)
        assert type(error) is ConnectionLost
        assert str(error).startswith("no answer from 127.0.0.1:")
        async with asyncio.timeout(SOON_S):
            await asyncio.wait(broker.tasks)  # each ends when the client has closed its socket


@on_both_loops
async def test_broker_that_hangs_up_in_the_tls_handshake_is_a_lost_connection(tls: Tls) -> None:
    for end in (Peer.close, Peer.hang_up):

        async def script(peer: Peer, end: Callable[[Peer], None] = end) -> None:
            await peer.first(1)
            end(peer)

        async with FakeBroker(script) as broker:
            error = await failure(replace(broker.url, is_tls=True), tls)
            assert type(error) is ConnectionLost, repr(error)


# ---- the files


def refusal(tls: Tls) -> str:
    with pytest.raises(ConfigError) as caught:
        client_context(tls)
    return str(caught.value)


def test_verification_is_on_and_old_tls_is_off(tls: Tls) -> None:
    for settings in (DEFAULT_TLS, tls):
        context = client_context(settings)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_missing_file_is_named(tmp_path: Path, server: Identity) -> None:
    nothing, certificate = str(tmp_path / "nothing"), str(server.certificate)
    why = f"names '{nothing}', which cannot be read: No such file or directory."
    assert refusal(Tls(ca_file=nothing)) == f"--tls-ca {why}"
    assert refusal(Tls(certificate_file=nothing)) == f"--tls-cert {why}"
    assert refusal(Tls(certificate_file=certificate, key_file=nothing)) == f"--tls-key {why}"
    assert "Is a directory" in refusal(Tls(ca_file=str(tmp_path)))


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_file_that_is_not_pem_is_named(tmp_path: Path, server: Identity, junk: bytes) -> None:
    file = tmp_path / "junk"
    file.write_bytes(junk)
    assert refusal(Tls(ca_file=str(file))) == f"--tls-ca names '{file}', which holds no certificate in PEM form."
    assert f"--tls-cert names '{file}', which holds no cert" in refusal(Tls(certificate_file=str(file)))
    assert f"the key in '{file}' cannot be read" in refusal(
        Tls(certificate_file=str(server.certificate), key_file=str(file))
    )


def test_certificate_without_its_key_is_refused(server: Identity, theirs: Authority) -> None:
    certificate = str(server.certificate)
    assert f"the key in '{certificate}' cannot be read" in refusal(Tls(certificate_file=certificate))
    foreign = str(theirs.issue("other.example").key)
    assert "does not belong to the certificate" in refusal(Tls(certificate_file=certificate, key_file=foreign))


def test_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path, server: Identity) -> None:
    key = serialization.load_pem_private_key(server.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"S3cr3t/x"),
        )
    )
    told = refusal(Tls(certificate_file=str(server.certificate), key_file=str(locked)))
    assert told == f"the key in '{locked}' is encrypted, and there is nobody to type its password."


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that everybody can enter."""
    with open_directory() as place:
        yield place


@pytest.mark.parametrize("is_apart", [False, True])
@pytest.mark.parametrize(("mode", "is_exposed"), [(0o600, False), (0o400, False), (0o604, True), (0o644, True)])
def test_key_that_others_can_read_is_refused(
    open_to_all: Path, server: Identity, mode: int, is_exposed: bool, is_apart: bool
) -> None:
    certificate, key = open_to_all / "own.pem", open_to_all / ("own.key" if is_apart else "own.pem")
    certificate.write_bytes(server.certificate.read_bytes())
    key.write_bytes(server.key.read_bytes() + (b"" if is_apart else server.certificate.read_bytes()))
    key.chmod(mode)
    tls = Tls(certificate_file=str(certificate), key_file=str(key) if is_apart else None)
    if not is_exposed:
        check_files(tls)
        return
    with pytest.raises(ConfigError) as caught:
        check_files(tls)
    assert str(caught.value) == (
        f"--tls-{'key' if is_apart else 'cert'} names a secret, and everybody on this machine may read '{key}'.\n"
        f"  Try:  chmod 600 {key}"
    )


@pytest.mark.parametrize("changed", ["ca", "cert", "key"])
def test_file_of_tls_that_others_can_change_is_refused(open_to_all: Path, server: Identity, changed: str) -> None:
    """Who can change the authority decides which broker gets the password."""
    files = {"ca": server.certificate, "cert": server.certificate, "key": server.key}
    for name, source in files.items():
        (open_to_all / name).write_bytes(source.read_bytes())
        (open_to_all / name).chmod(0o600)
    (open_to_all / changed).chmod(0o602)
    with pytest.raises(ConfigError, match=f"--tls-{changed} names '{open_to_all}/{changed}', but everybody on this"):
        check_files(Tls(*(str(open_to_all / name) for name in files)))
