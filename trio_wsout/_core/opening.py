"""The server's response to the opening handshake: whether the connection is open, and if not, why (SPEC 5; RFC 6455 section 4.1).

Rules
-----
1. Any status but 101 is a refusal. The caller leaves out informational responses before the final one.
2. A 101 must have ``upgrade`` in the list of ``Connection``, ``Upgrade: websocket``, the right ``Sec-WebSocket-Accept``, no
   extension (none is offered), and no subprotocol, or one that was offered. Lists may stand on several lines, empty elements
   are ignored, and an element that stands there twice counts once.
3. Errors describe the fault in words. They quote the server in one printable line of bounded length, without secrets of the
   handshake; an address that it points to is quoted without user info, parameters and query.
4. Of a refusal's body the first line is quoted: of HTML its first text, and JSON as one line.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit, urlunsplit

from attrs import field, frozen

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.http_head import Fields, reason_phrase, write_head
from trio_wsout.config.http_grammar import is_token
from trio_wsout.config.secret import redact_secrets

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Joined to the key of a request before it is hashed (RFC 6455 section 1.3)."""
_LONGEST_WAIT = 3600.0
"""Seconds that a Retry-After can ask for: no server can silence a link for longer."""
_SUCCESS, _REDIRECTION = 2, 3
"""First digits of the statuses of a success that is no 101, and of a redirection (RFC 9110 section 15)."""
_MAY_ASK_TO_WAIT = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_LONGEST_QUOTE = 200
"""Characters of a quote."""
_NO_TEXT = re.compile(r"<!--.*?-->|<(style|script)\b.*?</\1\s*>|<[^>]*>?", re.DOTALL | re.IGNORECASE)
_PARAMETERS = re.compile(r";[^/]*")


@frozen(kw_only=True)
class Asked:
    """The part of the client's handshake by which the response is judged."""

    secure: bool
    """Whether it was sent over TLS."""
    key: str
    """The Sec-WebSocket-Key."""
    subprotocols: Sequence[str]
    """The subprotocols that were offered."""
    secrets: Sequence[str] = field(default=(), repr=False)
    """Texts that no error may quote, even if the server sends them back."""


@frozen(kw_only=True)
class ResponseHead(Fields):
    """The head of an HTTP response."""

    status: int


def judge_opening(head: ResponseHead, asked: Asked) -> Disconnection | str | None:
    """Judge a 101: return everything that is wrong with it; or the subprotocol that the server chose, None if it chose none."""
    chosen = list(dict.fromkeys(head.tokens("sec-websocket-protocol")))
    wrong = list(_broken(head, asked))
    strange = [name for name in chosen if name not in asked.subprotocols]
    # Only a 101 that breaks the protocol is final: another server behind the same name may choose better.
    cause = Cause.BAD_HANDSHAKE if wrong else Cause.PROTOCOL
    wrong += [f"the subprotocol{_named(name, asked)} was not offered" for name in strange[:1]]
    if len(chosen) > 1:
        wrong.append("Sec-WebSocket-Protocol names several subprotocols")
    if wrong:
        return Disconnection(cause=cause, detail=f"the server's 101 is not valid: {'; '.join(wrong)}")
    return chosen[0] if chosen else None


def _broken(head: ResponseHead, asked: Asked) -> Iterator[str]:
    """Yield each way in which a 101 breaks RFC 6455."""
    upgrades, accepts = set(head.tokens("upgrade", lower=True)), set(head.values("sec-websocket-accept"))
    if "upgrade" not in head.tokens("connection", lower=True):
        yield "upgrade is missing in Connection"
    if upgrades != {"websocket"}:
        yield "Upgrade is not websocket" if upgrades else "Upgrade is missing"
    if accepts != {accept_of(asked.key)}:
        yield f"Sec-WebSocket-Accept is {'wrong' if accepts else 'missing'}"
    for extension in head.tokens("sec-websocket-extensions")[:1]:
        named = _named(extension.partition(";")[0].rstrip(), asked)
        yield f"an extension that was not offered{':' if named else ''}{named}"


def request_head(
    target: str, host: str, key: str, subprotocols: Sequence[str], more: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Return the head of the request of a client, with `more` fields at its end."""
    fields = [("Host", host), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", key)]
    fields.append(("Sec-WebSocket-Version", "13"))
    if subprotocols:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    return write_head(f"GET {target} HTTP/1.1", [*fields, *more])


def opening_head(key: str, subprotocol: str | None, more: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the head of a 101 to a request with this key, with `more` fields at its end."""
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_of(key))]
    if subprotocol is not None:
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    return write_head("HTTP/1.1 101 Switching Protocols", [*fields, *more])


def accept_of(key: str) -> str:
    """Return the Sec-WebSocket-Accept that fits a Sec-WebSocket-Key."""
    digest = hashlib.sha1(key.encode() + _GUID)  # noqa: S324 - RFC 6455 wants it, as a checksum
    return base64.b64encode(digest.digest()).decode("ascii")


def _named(name: str, asked: Asked) -> str:
    """Return a space and the name, as it may be quoted; empty if it is no name."""
    return f" {_cut(redact_secrets(name, asked.secrets))}" if is_token(name) else ""


def refusal(head: ResponseHead, body: bytes, asked: Asked, *, wall: float) -> Disconnection:
    """Return the disconnection of an attempt whose response is not 101.

    The body is as much of it as is known; `wall` is the time since 1970, for a Retry-After that is a date.
    """
    phrase = reason_phrase(head.status)
    answer = f"{head.status} {phrase}".rstrip()
    line = first_line_of(body, " ".join(head.values("content-type")), asked.secrets)
    quote = "" if line.lower() in ("", answer.lower(), phrase.lower()) else f" and said {line!r}"
    detail = f"the server answered {answer}{quote}{_advice(head, line, asked)}"
    wait = ", ".join(head.values("retry-after")) if head.status in _MAY_ASK_TO_WAIT else ""
    retry_after = _retry_after(wait.strip(), wall)
    return Disconnection(cause=Cause.REFUSED, detail=detail, status=head.status, retry_after=retry_after)


def first_line_of(body: bytes, kind: str, secrets: Sequence[str]) -> str:
    """Return the first line of a body of the Content-Type `kind`, as it may be quoted; empty if there is none."""
    text = body.decode("utf-8", "replace")
    if "html" in kind.lower() or text.lstrip()[:1] == "<":
        text = html.unescape(_NO_TEXT.sub("\n", text))
    if "json" in kind.lower() or text.lstrip()[:1] in ("{", "["):
        text = " ".join(text.split())
    line = next((line for line in map(_on_one_line, text.splitlines()) if line), "")
    return _cut(redact_secrets(line, secrets))


def _on_one_line(text: str) -> str:
    """Return the text with one space for each run of characters that are not printable."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"


def _advice(head: ResponseHead, line: str, asked: Asked) -> str:
    if head.status // 100 == _SUCCESS:
        return ": there is no WebSocket at this path"
    if head.status // 100 == _REDIRECTION:
        where = _where(" ".join(head.values("location")), asked.secrets)
        points = f" and points to {where}" if where else ""
        return f"{points}; redirects are not followed: put the final address into url"
    if head.status == HTTPStatus.BAD_REQUEST and not asked.secure and "https" in line.lower():
        return "; to speak TLS, write wss:// in url"
    return ""


def _where(location: str, secrets: Sequence[str]) -> str:
    """Return an address as it may be quoted: without user info, parameters, query and fragment."""
    with suppress(ValueError):
        parts = urlsplit(_on_one_line(location))
        host, path = parts.netloc.rpartition("@")[2], _PARAMETERS.sub("", parts.path)
        return _cut(redact_secrets(urlunsplit((parts.scheme, host, path, "", "")), secrets))
    return ""


def _retry_after(text: str, wall: float) -> float | None:
    """Return the seconds of a Retry-After header in either of its forms (RFC 9110 section 10.2.3); None if it is malformed."""
    with suppress(ValueError, OverflowError):
        is_number = text.isascii() and text.isdigit()
        seconds = float(text) if is_number else parsedate_to_datetime(text).timestamp() - wall
        return min(max(0.0, seconds), _LONGEST_WAIT)
    return None
