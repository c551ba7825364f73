"""Compares the credentials that a peer shows with `server.auth` (SPEC 10; RFC 6750, RFC 7617).

Rules
-----
1. The credentials of a peer are its ``Authorization`` header (``Basic`` or ``Bearer``) or, if it sends none, the query
   parameter `query_parameter`, which holds a bearer token. Two of either count as none.
2. A peer that shows a name and its password has that name as its identity; one that shows a token has the token's identity.
3. Credentials are compared with every entry, as a whole and in constant time, so that the duration gives no hint.
4. Templates are expanded for every peer, so that a changed file or secret counts from then on. An entry that can't be expanded, or
   is empty, admits nobody; `trouble` reports it.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from contextlib import suppress
from urllib.parse import parse_qsl

from attrs import field, frozen

from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import ServerAuth
from trio_wsout.config.templates import Resolve, Template, TemplateError


@frozen
class _Entry:
    """One name and password, or one token."""

    path: str
    """Key path in the configuration."""
    identity: str
    prefix: str
    """The text before the secret: the scheme, and the user name if there is one."""
    secret: Template = field(repr=False)

    def digest(self, resolve: Resolve) -> bytes:
        """Return the digest of prefix and secret; raise TemplateError if the secret has no value, or is empty."""
        secret = self.secret.expand(resolve)
        if not secret:
            raise TemplateError("it is empty")
        return _digest(self.prefix + secret)


def _entry(path: str, identity: str, prefix: str, secret: Secret) -> _Entry:
    return _Entry(f"server.auth.{path}", identity, prefix, Template.parse(secret.reveal()))


class Credentials:
    """The credentials of one listener."""

    def __init__(self, auth: ServerAuth, resolve: Resolve) -> None:
        """Admit the entries of `auth`; `resolve` returns the value of a ``${…}``."""
        basic = [_entry(f"basic.{name}", name, f"basic {name}:", each) for name, each in auth.basic.items()]
        bearer = [_entry(f"bearer.{name}", name, "bearer ", each) for name, each in auth.bearer.items()]
        schemes = {'Basic realm="trio-wsout", charset="UTF-8"': basic, 'Bearer realm="trio-wsout"': bearer}
        self.challenges = tuple(("WWW-Authenticate", scheme) for scheme, there in schemes.items() if there)
        """``WWW-Authenticate`` headers for a peer that shows none (RFC 9110 section 11.6.1)."""
        self.trouble: str | None = None
        """The reason for which an entry could not be used for the latest peer; None if all could be used."""
        self._entries = (*basic, *bearer)
        self._parameter = auth.query_parameter
        self._resolve = resolve

    def identity_of(self, authorizations: Sequence[str], query: str) -> str | None:
        """Return the identity of a peer by its ``Authorization`` headers and its query; None if no entry knows it."""
        shown = _digest(self._shown(authorizations, query) or "")
        found: str | None = None
        self.trouble = None
        for entry in self._entries:
            try:
                known = entry.digest(self._resolve)
            except TemplateError as error:
                self.trouble = f"{entry.path}: {error}"
            else:
                found = entry.identity if hmac.compare_digest(shown, known) else found
        return found

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the path of each entry that can't be used now, and why."""
        for entry in self._entries:
            try:
                entry.digest(self._resolve)
            except TemplateError as error:
                yield entry.path, str(error)

    def _shown(self, authorizations: Sequence[str], query: str) -> str | None:
        if authorizations:
            return _authorization(authorizations[0]) if len(authorizations) == 1 else None
        tokens = [value for name, value in parse_qsl(query) if name == self._parameter]
        return f"bearer {tokens[0]}" if len(tokens) == 1 else None


def _authorization(value: str) -> str | None:
    """Return scheme and secret as entries have them; None if it is neither of the two schemes, or malformed."""
    scheme, _, secret = value.partition(" ")
    secret = secret.strip(" ")
    if scheme.lower() == "bearer":
        return f"bearer {secret}"
    if scheme.lower() == "basic":
        with suppress(ValueError):
            return f"basic {base64.b64decode(secret, validate=True).decode()}"
    return None


def _digest(text: str) -> bytes:
    """Return a digest of a text; its length is always the same, so that comparing digests reveals nothing of the text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
