"""An authority of the test's own, certificates it signs (PEM files in a folder), and a server that has nothing else."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

LOOPBACK = "127.0.0.1"
_PATIENCE_S = 5.0


class Authority:
    """Signs certificates; `file` holds its own, for `--tls-ca`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.file = folder / f"{name}.pem"
        self._folder = folder
        self._name = name
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, host: str = LOOPBACK, *, expired: bool = False) -> Identity:
        """Sign a certificate for `host`, which may be the name of a client."""
        begins = datetime.now(UTC) - timedelta(days=2)
        ends = begins + timedelta(days=1 if expired else 30)
        signed = self._authority.issue_cert(host, not_before=begins, not_after=ends)
        stem = f"{self._name}-{host}{'-expired' if expired else ''}"
        identity = Identity(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        identity.certificate.write_bytes(b"".join(blob.bytes() for blob in signed.cert_chain_pems))
        identity.key.touch(mode=0o600)
        signed.private_key_pem.write_to_path(identity.key)
        return identity


class Identity:
    """A certificate and its key, in two files."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self.key = key

    def server_context(self, clients: Authority | None = None) -> ssl.SSLContext:
        """Return what a server needs; with `clients` it asks for a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if clients is not None:
            context.load_verify_locations(clients.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class TlsStub:
    """Makes TLS handshakes on loopback with blocking sockets, and hangs up after them.

    An event loop's server would do, were it not that it closes a failed handshake without the alert that says why.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.port = 0
        self._context = context

    def __enter__(self) -> Self:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                accepted.settimeout(_PATIENCE_S)
                self._handshake(accepted)

    def _handshake(self, accepted: socket.socket) -> None:
        with accepted, suppress(OSError):
            try:
                self._context.wrap_socket(accepted.dup(), server_side=True).close()
            finally:
                accepted.shutdown(socket.SHUT_WR)
                while accepted.recv(1024):  # a close with unread bytes would be a reset, which overtakes the alert
                    pass
