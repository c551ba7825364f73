"""The account of a connection as its session reads it: a subscription to the log of peers, or the window of a link.

The rules stand in `log` and in `delivery`.
"""

from __future__ import annotations

from typing import Protocol

from trio_wsout._core.message import Accepted


class Account(Protocol):
    """The account of what was sent on a connection and confirmed."""

    @property
    def ready(self) -> bool:
        """Whether messages can be taken now."""
        ...

    @property
    def in_sync(self) -> bool:
        """Whether broadcasts are written to the connection, so that the account may be old (see `in_sync`)."""
        ...

    @property
    def in_flight(self) -> int:
        """The number of messages that were taken and are not confirmed."""
        ...

    @property
    def has_all(self) -> bool:
        """Whether everything that was posted is confirmed or lost."""
        ...

    @property
    def wants_ping(self) -> bool:
        """Whether the answer to a ping written now would confirm something."""
        ...

    @property
    def pings_now(self) -> bool:
        """Whether that confirmation is needed now."""
        ...

    @property
    def deadline(self) -> float | None:
        """The time at which the connection is stalled; None if there is nothing to wait for."""
        ...

    def ping_taken(self) -> None:
        """Note that a ping goes out behind everything taken so far."""

    def written(self) -> None:
        """Note that everything taken was handed to the kernel."""

    def pong_received(self, now: float) -> None:
        """Note that the outstanding ping was answered, as was found at `now`."""

    def acked(self, seq: int) -> None:
        """Note that the peer's application has every event up to `seq`."""

    def events_in_flight(self) -> list[Accepted]:
        """Return the events that an acknowledgement may name, oldest first."""
        ...

    def reading_paused(self) -> None:
        """Note that this side stopped reading, so that confirmations can't be seen."""

    def reading_resumed(self, now: float) -> None:
        """Note that this side reads again, or found that it had not run: time counts from `now`."""
