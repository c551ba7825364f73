"""Where trio_websocket's reader runs: an exception there ends its own connection and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsout._core.disconnection import Cause, Disconnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from trio_wsout._wire.tap import Tap

__all__ = ["Guard"]


class Guard:
    """Stands in for the nursery that trio_websocket starts its reader in.

    An exception of trio_websocket, wsproto or h11 there (there are many, on hostile bytes) becomes
    the ending of that one connection.
    """

    def __init__(self, nursery: trio.Nursery, tap: Tap, not_opened: str) -> None:
        """Run readers in `nursery`; before the connection is `opened`, trouble is a handshake that is `not_opened`."""
        self._nursery = nursery
        self._tap = tap
        self._not_opened = not_opened
        self.opened = False

    def start_soon(self, reader: Callable[[], Awaitable[None]]) -> None:
        """Part of a nursery's interface, the only one that trio_websocket uses."""
        self._nursery.start_soon(self._guarded, reader, name="trio_websocket reader")

    async def _guarded(self, reader: Callable[[], Awaitable[None]]) -> None:
        try:
            await reader()
        except Exception as error:  # noqa: BLE001 - whatever hostile bytes bring about
            kind = type(error).__name__
            if self.opened:
                disconnection = Disconnection(
                    cause=Cause.PROTOCOL, detail=f"the peer broke the WebSocket protocol ({kind})"
                )
            else:
                disconnection = Disconnection(
                    cause=Cause.BAD_HANDSHAKE, detail=f"{self._not_opened} ({kind})"
                )
            self._tap.fail(self._tap.closed_by_peer() or disconnection)
        else:
            # trio_websocket has stopped reading, so nobody would see the end of the transport.
            if not self.opened:
                self._tap.fail(Disconnection(cause=Cause.BAD_HANDSHAKE, detail=self._not_opened))
        finally:
            self._tap.reader_gone()
