"""TLS contexts: for outgoing connections from `tls` (SPEC 5), for a listener from `server.tls` (SPEC 10)."""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from importlib.util import find_spec
from typing import TYPE_CHECKING

import trio

from trio_wsout.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout.config.sections import ServerTls, Tls

__all__ = ["ServerContext", "client_context"]

_log = logging.getLogger("trio_wsout")

_PEM = "-----BEGIN"
_LOOK_EVERY = 1.0
"""Seconds between two looks at the listener's files."""


def client_context(tls: Tls) -> ssl.SSLContext:
    """Make the context for one attempt, so that files which were renewed are read anew.

    TLS 1.2 at least; the host name is checked; trust is `ca-certificate` alone, or the system's
    roots (through truststore where that is installed).

    Raises:
        ConfigError: A file or PEM text can't be read or used; every such problem at once.
    """
    problems: list[Problem] = []

    def attempt(path: str, what: str, load: Callable[[], None]) -> None:
        try:
            load()
        except (OSError, ValueError) as error:
            problems.append(Problem(path=path, reason=f"{what}: {_reason(error)}"))

    context = _base_context(tls)
    ca_certificate, certificate, key = tls.ca_certificate, tls.client_certificate, tls.client_key
    if ca_certificate is not None:
        attempt(
            "tls.ca-certificate",
            "can't be used as a CA certificate (PEM text, or the path of a PEM file)",
            lambda: _load_ca(context, ca_certificate),
        )
    if certificate is not None and key is not None:
        attempt(
            "tls.client-certificate",
            "can't be used together with tls.client-key (PEM text, or paths of PEM files)",
            lambda: _load_pair(context, certificate, key.reveal()),
        )
    if problems:
        raise ConfigError(problems)
    return context


def _base_context(tls: Tls) -> ssl.SSLContext:
    if tls.insecure_skip_verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    elif find_spec("truststore") is not None:
        import truststore  # noqa: PLC0415 - an optional dependency

        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load_ca(context: ssl.SSLContext, source: str) -> None:
    if _PEM in source:
        # Outside of the certificates there may be anything; Python takes ASCII only.
        context.load_verify_locations(cadata=source.encode("ascii", "replace").decode("ascii"))
    else:
        context.load_verify_locations(cafile=source)


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load the pair; OpenSSL takes files only, so PEM text goes through a private temporary directory."""
    with tempfile.TemporaryDirectory(prefix="trio-wsout-") as folder:
        context.load_cert_chain(
            _as_file(certificate, folder, "certificate.pem"),
            _as_file(key, folder, "key.pem"),
            # An encrypted key must fail, not ask the terminal.
            password=lambda: "",
        )


def _as_file(source: str, folder: str, name: str) -> str:
    if _PEM not in source:
        return source
    path = os.path.join(folder, name)  # noqa: PTH118 - OpenSSL takes a string
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(source)
    return path


def _reason(error: OSError | ValueError) -> str:
    """The error in words, without the PEM text or the path of a key in it."""
    if isinstance(error, ssl.SSLError):
        return f"OpenSSL says {error.reason or 'no'}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not usable"


class ServerContext:
    """The listener's TLS context, renewed when its files change; a renewal that fails leaves the old one."""

    def __init__(self, tls: ServerTls) -> None:
        """Read the files.

        Raises:
            ConfigError: They can't be used.
        """
        self._tls = tls
        self._looked = -_LOOK_EVERY
        self._seen = _fingerprint(tls)
        self._told: tuple[object, ...] | None = None
        try:
            self._context = _server_context(tls)
        except (OSError, ValueError) as error:
            reason = f"server.tls.cert and server.tls.key can't be used: {_reason(error)}"
            raise ConfigError([Problem(path="server.tls", reason=reason)]) from None

    async def get(self) -> ssl.SSLContext:
        """The context for the next handshake."""
        now = trio.current_time()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            await trio.to_thread.run_sync(self._renew)
        else:
            await trio.lowlevel.checkpoint()
        return self._context

    def _renew(self) -> None:
        seen = _fingerprint(self._tls)
        if seen == self._seen:
            return
        try:
            self._context = _server_context(self._tls)
        except (OSError, ValueError) as error:
            # It may be this side's trouble (no descriptor is free, say), so it is tried again, and told once.
            if seen != self._told:
                self._told = seen
                _log.error("server.tls changed and can't be used, the old one stays: %s", _reason(error))
        else:
            self._seen = seen
            _log.info("server.tls was read anew")


def _server_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    return context


def _fingerprint(tls: ServerTls) -> tuple[object, ...]:
    """What changes when one of the files does."""
    seen: list[object] = []
    for name in (tls.cert, tls.key):
        try:
            found = os.stat(name)  # noqa: PTH116 - a text, as OpenSSL takes it
        except (OSError, ValueError):
            seen.append(None)
        else:
            seen.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(seen)
