"""TCP: the system's figures of a connection below TLS, and the causes of broken streams and failed attempts."""

import errno
import os
import select
import socket
import ssl
import sys
from collections.abc import Iterator
from math import ceil
from struct import Struct
from typing import Protocol, cast, runtime_checkable

import trio

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout.config.sections import Heartbeat

if sys.platform != "win32":
    import fcntl
    import termios

_LONGEST_TIMEOUT = 2**31 - 1
"""Milliseconds of TCP_USER_TIMEOUT at most."""
_LONGEST_IDLE = 32767
"""Seconds of TCP_KEEPIDLE and TCP_KEEPINTVL at most."""
_INT = Struct("=i")
_TCP_INFO = Struct("=120xQ16xI52xQQ")
"""Of Linux' ``struct tcp_info`` (linux/tcp.h): bytes_acked, notsent_bytes, bytes_sent, bytes_retrans (since 4.19)."""

_NOBODY_THERE = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}
)
"""Errors of a connection by which the system, and not the peer, ends it."""


class AttemptFailed(Exception):  # noqa: N818 - caught by the supervisor, never leaves the package
    """An attempt did not open; `disconnection` has the reason, ``__cause__`` is the foreign exception if any.

    The text is for people and contains no secret.
    """

    def __init__(
        self, cause: Cause, detail: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.disconnection = Disconnection(cause=cause, detail=detail, status=status, retry_after=retry_after)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, its cause, the cause of that, and so on; nothing for None."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def transport_trouble(error: BaseException) -> str:
    """Return one line about the cause of a broken stream, from the most telling exception of the chain."""
    for each in chain(error):
        if isinstance(each, ssl.SSLError):
            return f"TLS: {each.reason or 'broken'}"
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    return "the connection broke"


def system_gave_up(error: BaseException | None) -> bool:
    """Return whether the system itself ended a connection: nothing came from the peer, or no way leads there."""
    return any(isinstance(each, OSError) and each.errno in _NOBODY_THERE for each in chain(error))


def lost(detail: str, error: BaseException | None = None, *, more: str = "") -> Disconnection:
    """Return the disconnection by a transport that is gone; `error` is the exception that it raised, None at its end of file."""
    trouble = "" if error is None else f": {transport_trouble(error)}"
    cause = Cause.UNHEALTHY if system_gave_up(error) else Cause.LOST
    return Disconnection(cause=cause, detail=f"{detail}{trouble}{more}")


def connect_trouble(error: BaseException) -> str:
    """Return the reasons for which the resolving of a name or a connect failed, each once."""
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    if isinstance(inner, BaseExceptionGroup):
        reasons = [connect_trouble(each) for each in inner.exceptions]
        return "; ".join(dict.fromkeys(reasons))
    if isinstance(inner, socket.gaierror):
        return f"the name can't be resolved ({inner.strerror or inner})"
    if isinstance(inner, OSError) and inner.errno is not None:
        return os.strerror(inner.errno)
    return str(inner) or type(inner).__name__


@runtime_checkable
class KnowsProgress(Protocol):
    """A stream other than trio's that knows the number of acknowledged bytes."""

    def send_progress(self) -> tuple[int, int] | None:
        """Return how many bytes it was given and how many the other side has acknowledged; None if it does not know."""
        ...


@runtime_checkable
class KnowsPeerLeft(Protocol):
    """A stream other than trio's that knows whether the other side has closed it."""

    def peer_left(self) -> bool:
        """Return whether nothing more comes but what lies in the stream."""
        ...


def _tcp_stream(stream: trio.abc.Stream) -> trio.SocketStream | None:
    """Return the TCP socket below a stream and its TLS; None if the stream is of another kind."""
    stream = _transport(stream)
    if isinstance(stream, trio.SocketStream) and stream.socket.family in (socket.AF_INET, socket.AF_INET6):
        return stream
    return None


def set_user_timeout(stream: trio.abc.Stream, heartbeat: Heartbeat | None) -> None:
    """Have the system give up on bytes that nobody acknowledges when the heartbeat would (SPEC 8; RFC 5482).

    The system also asks a peer of which nothing came for as long whether it is there. That finds one that vanished while this
    side does not read from it, when nothing is written.
    Without a heartbeat, a TCP socket, or TCP_USER_TIMEOUT nothing is done.
    """
    tcp = _tcp_stream(stream)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if heartbeat is not None and option is not None and tcp is not None:
        seconds = heartbeat.ping_interval + heartbeat.timeout
        tcp.setsockopt(socket.IPPROTO_TCP, option, int(min(seconds * 1000, _LONGEST_TIMEOUT)))
        idle, again = (min(ceil(each), _LONGEST_IDLE) for each in (seconds, heartbeat.timeout))
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, again)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def send_progress(stream: trio.abc.Stream) -> tuple[int, int] | None:
    """Return how many bytes the system was given to send, and how many the peer's system has acknowledged.

    Both include the bytes that TLS adds. None if there is no TCP socket, or the system does not know: only Linux since 4.19 does.
    It is one system call.
    """
    transport = _transport(stream)
    if isinstance(transport, KnowsProgress):
        return transport.send_progress()
    tcp = _tcp_stream(transport) if sys.platform == "linux" else None
    if tcp is None:
        return None
    try:
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except (OSError, trio.ClosedResourceError):
        return None
    if len(info) < _TCP_INFO.size:
        return None
    # On the side that dialled `acknowledged` counts the SYN, too: one byte too many, which does no harm.
    acknowledged, unsent, sent, again = _TCP_INFO.unpack(info)
    return sent - again + unsent, acknowledged


def bytes_unread(stream: trio.abc.Stream) -> int | None:
    """Return how many bytes lie unread in the socket of a stream, TLS included; None if the system does not know.

    It is one system call.
    """
    if sys.platform == "win32":
        return None
    transport = _transport(stream)
    if not isinstance(transport, trio.SocketStream):
        return None
    try:
        number, size = transport.socket.fileno(), bytes(_INT.size)
        count = fcntl.ioctl(number, termios.FIONREAD, size)  # pyright: ignore[reportPossiblyUnboundVariable] - not on Windows
    except (OSError, ValueError):  # it is closed
        return None
    return int(_INT.unpack(count)[0])


def peer_left(stream: trio.abc.Stream) -> bool:
    """Return whether the connection below a stream and its TLS is closed by the other side, or broken, so that only unread bytes are left.

    False where nobody knows: for other streams than sockets, on Windows, and on other systems than Linux until it is broken.
    It is one system call.
    """
    transport = _transport(stream)
    if isinstance(transport, KnowsPeerLeft):
        return transport.peer_left()
    if sys.platform == "win32" or not isinstance(transport, trio.SocketStream):
        return False
    poll = select.poll()
    try:
        poll.register(transport.socket, getattr(select, "POLLRDHUP", 0))
    except ValueError:  # it is closed
        return True
    return bool(poll.poll(0))


def _transport(stream: trio.abc.Stream) -> trio.abc.Stream:
    while isinstance(stream, trio.SSLStream):
        stream = cast("trio.SSLStream[trio.abc.Stream]", stream).transport_stream
    return stream
