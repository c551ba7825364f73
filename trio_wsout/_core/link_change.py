"""What `on_state` is told whenever the state of a link changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from trio_wsout._core.disconnection import Disconnection
    from trio_wsout._core.link import State

__all__ = ["LinkChange"]


@frozen(kw_only=True)
class LinkChange:
    """One change of a link's state."""

    state: State
    """The state that was entered."""
    attempt: int
    """1-based number of the current or next attempt in this row of failures."""
    disconnection: Disconnection | None = None
    """Why the last attempt or connection ended; None before the first end."""
    delay: float | None = None
    """Seconds until the next attempt, when backing off."""
