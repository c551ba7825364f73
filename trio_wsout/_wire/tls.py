"""TLS contexts: for outgoing connections from `tls` (SPEC 5), for a listener from `server.tls` (SPEC 10)."""

import logging
import os
import ssl
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import trio
from attrs import define, evolve, field

from trio_wsout._core.disconnection import Cause
from trio_wsout._core.pem import certificate_fault, is_encrypted, key_fault
from trio_wsout._wire.tcp import AttemptFailed, chain
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import Config, ServerTls, Tls
from trio_wsout.config.templates import Resolve, Template, TemplateError, no_value
from trio_wsout.errors import ConfigError, Problem

_log = logging.getLogger("trio_wsout")

_PEM = "-----BEGIN"
_MISMATCHES = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
"""OpenSSL's reasons for a key of another certificate; the last is for a key of another kind."""
_MOST = 16 * 1024 * 1024
"""Bytes of a file that are read at most."""
_CHECK_EVERY = 1.0
"""Seconds between two checks whether the listener's files have changed."""


def client_context(tls: Tls, password: Secret | None = None) -> ssl.SSLContext:
    """Make the context for one attempt, so that files which were renewed are read anew.

    TLS 1.2 at least; the host name is checked; trust is `ca-certificate` alone, or the system's roots (through
    truststore where that is installed). Any trusted certificate ends a chain, also an intermediate CA's, and the
    strict rules of RFC 5280, which Python 3.13 adds for the system's roots only, are left out: so a certificate is
    accepted, or not, by every version of Python. `password` is `client_key_password`, expanded. Raise ConfigError
    if a file or PEM text can't be read or used; the error has every such problem.
    """
    context = _base_context(tls)
    problems = _trust(context, tls.ca_certificate)
    if tls.client_certificate is not None and tls.client_key is not None:
        key, called = tls.client_key.reveal(), "the key for tls.client-certificate"
        problems += _load_pair(
            context,
            _Source("tls.client-certificate", tls.client_certificate),
            _Source("tls.client-key", key, called, secret=True),
            password,
        )
    return _usable(context, problems)


def proxy_context(tls: Tls) -> ssl.SSLContext:
    """Make the context for an https proxy: trust is the system's roots and `ca-certificate`, and nothing is skipped."""
    context = _base_context(evolve(tls, ca_certificate=None, insecure_skip_verify=False))
    return _usable(context, _trust(context, tls.ca_certificate))


def _usable(context: ssl.SSLContext, problems: list[Problem]) -> ssl.SSLContext:
    if problems:
        raise ConfigError(problems)
    return context


def check_tls(config: Config, resolve: Resolve) -> None:
    """Check the `tls` of a link before anything is begun; if every `url` is known to be ``ws://`` it is not used.

    `resolve` returns the value of a ``${…}`` in `client-key-password`. Raise ConfigError if a certificate, key or
    password can't be used.
    """
    tls = config.tls
    if any(not url.startswith("ws:") for url in config.urls):
        client_context(tls, _key_password("tls.client-key-password", tls.client_key_password, resolve))


def _key_password(path: str, secret: Secret | None, resolve: Resolve) -> Secret | None:
    """Return the password of a key with its ``${…}`` expanded, or raise ConfigError; None if none is configured."""
    try:
        return None if secret is None else Secret(Template.parse(secret.reveal()).expand(resolve))
    except TemplateError as error:
        raise ConfigError([Problem(path=path, reason=str(error))]) from None


async def start_tls(
    stream: trio.abc.Stream,
    make_context: Callable[[], ssl.SSLContext],
    server_name: str,
    *,
    peer: str,
    cause: Cause,
) -> trio.SSLStream[trio.abc.Stream]:
    """Return the stream to a server with TLS around it, its handshake done.

    `make_context` is called in a thread, because it reads files. The certificate must have `server_name`. Errors
    call the server `peer`, and have this `cause` if the context can't be made. Raise AttemptFailed if the context
    can't be made, or the server's certificate is not accepted. Raise trio.BrokenResourceError if the handshake
    failed for another reason; `tls_error_in` finds it.
    """
    try:
        context = await trio.to_thread.run_sync(make_context)
    except ConfigError as error:
        raise AttemptFailed(cause, str(error.problems[0])) from None
    secured = trio.SSLStream(
        stream, context, server_hostname=server_name, server_side=False, https_compatible=True
    )
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        inner = tls_error_in(error)
        if isinstance(inner, ssl.SSLCertVerificationError):
            detail = f"the certificate of {peer} is not accepted: {inner.verify_message}"
            raise AttemptFailed(Cause.CERTIFICATE, detail) from None
        raise
    return secured


def tls_error_in(error: BaseException | None) -> ssl.SSLError | None:
    """Return OpenSSL's error in a chain of exceptions; None if there is none."""
    return next((each for each in chain(error) if isinstance(each, ssl.SSLError)), None)


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
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@define
class _Source:
    """One certificate or key as it is configured."""

    key_path: str
    """Path of its field in the configuration."""
    text: str
    """The path of a file, or PEM text."""
    called: str = "the PEM text"
    """Its name in problems that must not contain `text`."""
    secret: bool = False
    """Whether `text` may be a key: PEM text without its first line looks like the path of a file."""
    inline: bool = True
    """Whether it may be PEM text."""
    content: bytes = field(default=b"", init=False)
    """The bytes of the file, or of the PEM text."""

    @property
    def is_pem(self) -> bool:
        """Whether `text` is PEM text."""
        return self.inline and _PEM in self.text

    def problems(self, fault_of: Callable[[bytes], str | None]) -> list[Problem]:
        """Read `content`; return the problems with it alone."""
        try:
            # Characters that are not ASCII stand outside of the certificates.
            self.content = self.text.encode("ascii", "replace") if self.is_pem else _read(self.text)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no file has such a name"
            return [self.problem(f"can't be read: {reason}")]
        fault = fault_of(self.content)
        return [] if fault is None else [self.problem(fault)]

    def problem(self, reason: str) -> Problem:
        """Return a problem of this field."""
        is_path = not self.is_pem and (not self.secret or os.path.exists(self.text))  # noqa: PTH110 - it takes any text
        return Problem(path=self.key_path, reason=f"{self.text if is_path else self.called} {reason}")

    def in_file(self, folder: str) -> str:
        """Return the path of a file with the content; PEM text is written to a private file in `folder`."""
        if not self.is_pem:
            return self.text
        path = os.path.join(folder, f"{self.key_path}.pem")  # noqa: PTH118 - OpenSSL takes a string
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.content)
        return path


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_MOST)


def _trust(context: ssl.SSLContext, text: str | None) -> list[Problem]:
    """Load a `ca-certificate`, if there is one, into a context; return the problems with it."""
    if text is None:
        return []
    source = _Source("tls.ca-certificate", text)
    if problems := source.problems(certificate_fault):
        return problems
    damage = _load_certificates(context, source.content)
    return [] if damage is None else [source.problem(f"is damaged: OpenSSL says {damage.reason or 'no'}")]


def _load_certificates(context: ssl.SSLContext, content: bytes) -> ssl.SSLError | None:
    """Trust all certificates of a PEM text; return OpenSSL's error, None if it can read them."""
    try:
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except ssl.SSLError as error:
        return error
    return None


def _load_pair(
    context: ssl.SSLContext, certificate: _Source, key: _Source, secret: Secret | None
) -> list[Problem]:
    """Load a certificate and its key into a context; return the problems with them."""
    if problems := [*certificate.problems(certificate_fault), *key.problems(key_fault)]:
        return problems
    password_field = f"{key.key_path}-password"
    if secret is None and is_encrypted(key.content):
        return [key.problem(f"is encrypted, and {password_field} is not there")]
    # If it got no password, OpenSSL would ask for one at the terminal.
    password = "" if secret is None else secret.reveal()
    try:
        with tempfile.TemporaryDirectory(prefix="trio-wsout-") as folder:
            context.load_cert_chain(certificate.in_file(folder), key.in_file(folder), lambda: password)
    except ssl.SSLError as error:
        return [_refused(certificate, key, password_field, error)]
    except ValueError:
        return [Problem(path=password_field, reason="is longer than OpenSSL takes")]
    except OSError as error:
        return [key.problem(f"can't be used: {error.strerror}")]
    return []


def _refused(certificate: _Source, key: _Source, password_field: str, error: ssl.SSLError) -> Problem:
    """Return the problem that OpenSSL has with a certificate and its key."""
    reason = cast("str | None", error.reason)  # typeshed says str; it is None for much that is no PEM
    if reason in _MISMATCHES:
        return key.problem(f"does not fit the certificate in {certificate.key_path}")
    if _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate.content) is not None:
        return certificate.problem("is damaged: OpenSSL can't read a certificate in it")
    if reason is not None:
        return certificate.problem(f"can't be used: OpenSSL says {reason}")
    if is_encrypted(key.content):
        return Problem(
            path=password_field, reason=f"is not the password of {key.key_path}, or the key is damaged"
        )
    return key.problem("is damaged: OpenSSL can't read the private key in it")


@define(eq=False)
class ServerContext:
    """The listener's TLS context. It is renewed when its files change; if that fails, the old context stays.

    Raises:
        ConfigError: The files can't be used when it is made.
    """

    _tls: ServerTls
    _resolve: Resolve = no_value
    """Returns the value of a ``${…}`` in `key-password`."""
    _checked_at: float = field(default=-_CHECK_EVERY, init=False)
    _seen: tuple[object, ...] = field(init=False)
    """Fingerprint of the files that the context was made of."""
    _reported: tuple[object, ...] | None = field(default=None, init=False)
    """Fingerprint of the files whose failure was logged last."""
    _context: ssl.SSLContext = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._seen = _fingerprint(self._tls)
        self._context = _server_context(self._expanded())

    async def get(self) -> ssl.SSLContext:
        """Return the context for the next handshake."""
        now = trio.current_time()
        if now - self._checked_at >= _CHECK_EVERY:
            self._checked_at = now
            seen = await trio.to_thread.run_sync(_fingerprint, self._tls)
            if seen != self._seen:
                await self._renew(seen)
        else:
            await trio.lowlevel.checkpoint()
        return self._context

    async def _renew(self, seen: tuple[object, ...]) -> None:
        try:
            self._context = await trio.to_thread.run_sync(_server_context, self._expanded())
        except (OSError, ConfigError) as error:
            # The cause may be on this side, for example that no descriptor is free. So it is tried again, and logged once.
            if seen != self._reported:
                self._reported = seen
                why = error.strerror if isinstance(error, OSError) else "; ".join(map(str, error.problems))
                _log.error("server.tls changed and can't be used, the old one stays: %s", why)
        else:
            self._seen = seen
            _log.info("server.tls was read anew")

    def _expanded(self) -> ServerTls:
        password = _key_password("server.tls.key-password", self._tls.key_password, self._resolve)
        return evolve(self._tls, key_password=password)


def _server_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate = _Source("server.tls.cert", tls.cert, inline=False)
    key = _Source("server.tls.key", tls.key, inline=False)
    return _usable(context, _load_pair(context, certificate, key, tls.key_password))


def _fingerprint(tls: ServerTls) -> tuple[object, ...]:
    """Return a value that changes when one of the files does."""
    seen: list[object] = []
    for name in (tls.cert, tls.key):
        try:
            found = os.stat(name)  # noqa: PTH116 - a text, as OpenSSL takes it
        except (OSError, ValueError):
            seen.append(None)
        else:
            seen.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(seen)
