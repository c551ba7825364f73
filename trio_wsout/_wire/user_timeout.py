"""Has the kernel give up on unanswered bytes when the heartbeat would (SPEC 8; RFC 5482)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from trio_wsout._wire.tcp import tcp_stream

if TYPE_CHECKING:
    import trio

    from trio_wsout.config.sections import Heartbeat

__all__ = ["set_user_timeout"]

_LARGEST = 2**31 - 1


def set_user_timeout(stream: trio.abc.Stream, heartbeat: Heartbeat | None) -> None:
    """Set TCP_USER_TIMEOUT where there is a heartbeat, a TCP socket and a system that has it."""
    tcp = tcp_stream(stream)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if heartbeat is None or option is None or tcp is None:
        return
    seconds = heartbeat.ping_interval + heartbeat.timeout
    tcp.setsockopt(socket.IPPROTO_TCP, option, min(int(seconds * 1000), _LARGEST))
