"""Has the kernel give up on unanswered bytes when the heartbeat would (SPEC 8; RFC 5482)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, cast

import trio

if TYPE_CHECKING:
    from trio_wsout.config.sections import Heartbeat

__all__ = ["set_user_timeout"]

_LARGEST = 2**31 - 1


def set_user_timeout(stream: trio.abc.Stream, heartbeat: Heartbeat | None) -> None:
    """Set TCP_USER_TIMEOUT where there is a heartbeat, a TCP socket and a system that has it."""
    transport: object = stream
    if isinstance(stream, trio.SSLStream):
        transport = cast("trio.SSLStream[trio.abc.Stream]", stream).transport_stream
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if heartbeat is None or option is None or not isinstance(transport, trio.SocketStream):
        return
    if transport.socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    seconds = heartbeat.ping_interval + heartbeat.timeout
    transport.setsockopt(socket.IPPROTO_TCP, option, min(int(seconds * 1000), _LARGEST))
