"""TLS to the broker: our SSL context, and its errors in an operator's words.

The library's own context is never used, because the text of the URL decides what that one verifies.

Invariants: the certificate and the host name are always verified, and TLS below 1.2 is never used.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from mxworker.brokers import Tls
from mxworker.errors import BrokerError, ConfigError, ConnectionLost, ProtocolViolation, TlsRefused
from mxworker.system.printable import foreign
from mxworker.system.secret_files import check_change, check_secret

_TLS_ALERT = repr(b"\x15\x03")[:-1]  # RFC 8446, 5.1: an alert, in any version of TLS

# X509_V_ERR_* of OpenSSL's x509_vfy.h, by the remedy
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_NOT_NOW = frozenset({9, 10})
_OTHER_HOST = frozenset({62, 64})

_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
_TOO_OLD = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW"})
_OUR_CERTIFICATE = "the broker asks for another certificate from us"
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the broker asks for a certificate from us; name it with --tls-cert",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the broker ended the TLS handshake.\n"
        "  It may ask for a certificate from us (name it with --tls-cert), or have no cipher in common with us."
    ),
    "TLSV1_ALERT_UNKNOWN_CA": f"{_OUR_CERTIFICATE}: it does not know the authority of the one in --tls-cert",
    "SSLV3_ALERT_BAD_CERTIFICATE": f"{_OUR_CERTIFICATE}: it cannot use the one in --tls-cert",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": f"{_OUR_CERTIFICATE}: it cannot use the one in --tls-cert",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"{_OUR_CERTIFICATE}: the one in --tls-cert has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": f"{_OUR_CERTIFICATE}: the one in --tls-cert is revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": f"{_OUR_CERTIFICATE}: it does not accept the one in --tls-cert",
}


def client_context(tls: Tls) -> ssl.SSLContext:
    """Return a new context for connecting. The files are read each time, so that a renewed certificate is used.

    Raises ConfigError, which names the flag, the file and its fault.
    """
    for flag, path in (("--tls-ca", tls.ca_file), ("--tls-cert", tls.certificate_file), ("--tls-key", tls.key_file)):
        if path is not None:
            _check_readable(flag, path)
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"--tls-ca names '{foreign(tls.ca_file)}', which holds no certificate in PEM form."
        ) from error
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)  # the system may ask for more
    if tls.certificate_file is not None:
        _load_own_certificate(context, tls.certificate_file, tls.key_file)
    return context


def check_files(tls: Tls) -> None:
    """Check the files as `client_context` does. Raise ConfigError too when others may read the key or change a file."""
    client_context(tls)
    key = ("--tls-key", tls.key_file) if tls.key_file is not None else ("--tls-cert", tls.certificate_file)
    for flag, path in (("--tls-ca", tls.ca_file), ("--tls-cert", tls.certificate_file), ("--tls-key", tls.key_file)):
        if path is not None:
            (check_secret if (flag, path) == key else check_change)(flag, path)


def _check_readable(flag: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{flag} names '{foreign(path)}', which cannot be read: {error.strerror}.") from error


def _load_own_certificate(context: ssl.SSLContext, certificate_file: str, key_file: str | None) -> None:
    key_path = key_file or certificate_file

    def refuse_to_ask() -> str:
        raise ConfigError(f"the key in '{foreign(key_path)}' is encrypted, and there is nobody to type its password.")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"--tls-cert names '{foreign(certificate_file)}', which holds no certificate in PEM form."
        ) from error
    try:
        context.load_cert_chain(certificate_file, key_file, password=refuse_to_ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"does not belong to the certificate in '{foreign(certificate_file)}'"
        else:
            what = "cannot be read as a private key in PEM form"
        raise ConfigError(f"the key in '{foreign(key_path)}' {what}.") from error


def verification_error(error: ssl.SSLCertVerificationError, host: str) -> TlsRefused:
    """Return our exception for a certificate of `host` that was not accepted."""
    text = f"the broker's certificate is not accepted: {foreign(error.verify_message).rstrip('.')}."
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return TlsRefused(f"{text}\n  Name the authority that signed it with --tls-ca FILE.")
    if error.verify_code in _NOT_NOW:
        return TlsRefused(f"{text}\n  Renew it, or set the clock of this machine.")
    if error.verify_code in _OTHER_HOST:
        return TlsRefused(f"{text}\n  Call the broker by a name in its certificate, or renew that for '{host}'.")
    return TlsRefused(text)


def tls_error(error: ssl.SSLError) -> BrokerError:
    """Return our exception for any other error in a TLS handshake, or right after it."""
    reason = error.reason or ""
    if reason in _NOT_TLS:
        return TlsRefused(
            "the broker does not speak TLS on this port.\n"
            "  RabbitMQ listens for amqps:// on port 5671 when it has a certificate, for amqp:// on 5672."
        )
    if reason in _TOO_OLD:
        return TlsRefused("the broker speaks no TLS 1.2 or later; allow it in the broker's ssl_options.versions.")
    if reason in _ALERTS:
        return TlsRefused(f"{_ALERTS[reason]}.")
    return ConnectionLost(f"the TLS handshake failed: {foreign(reason or error)}")


def answered_in_tls(error: ProtocolViolation) -> bool:
    """Tell whether the first bytes of the peer, which `error` shows, were TLS."""
    return _TLS_ALERT in str(error)
