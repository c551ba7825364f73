"""Looking before judging: has everything read that lies in the sockets of those whose time is over (`_core.look`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import trio
from attrs import frozen

from trio_wsout._core.look import Look, Motion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_wsout._core.disconnection import Disconnection

__all__ = ["UNCONNECTED", "Looked", "Suspect", "look"]


class Looked(Protocol):
    """A connection, as far as a look goes."""

    @property
    def disconnection(self) -> Disconnection | None:
        """Why it is over; None while it is open."""
        ...

    @property
    def motion(self) -> Motion:
        """How far it has come."""
        ...

    @property
    def lying(self) -> int | None:
        """Bytes that lie in its socket; None if nobody can tell."""
        ...


T = TypeVar("T", bound=Looked)


async def look(suspects: Iterable[T]) -> set[T]:
    """Wait until all that lies in the sockets of these has been read; return those that took more of a waiting write.

    It takes some turns of the loop and no time: whatever they do meanwhile, it ends.
    """
    looks = {each: Look(each.motion, lying=each.lying) for each in suspects}
    going = [each for each in looks if each.disconnection is None]
    while going:
        await trio.lowlevel.checkpoint()
        going = [each for each in going if each.disconnection is None and not looks[each].turned(each.motion)]
    return {each for each, done in looks.items() if done.found_room}


class _Unconnected:
    """Who has no connection as yet, and so nothing that can be told of it: a look takes the same turns."""

    disconnection = None
    motion = Motion(received=0, sent=0, reads=True, writes=False)
    lying = None


UNCONNECTED: Looked = _Unconnected()
"""For a handshake that takes too long: what lies in its socket is read in the turns of a look."""


class Judge(Protocol):
    """Finds out whether the time is over still, and does what follows."""

    def __call__(self, *, found_room: bool) -> object:
        """Judge, now that all that lay in the socket has been read; `found_room`: a write that waited could go on."""
        ...


@frozen
class Suspect:
    """Whose time is over, and who is to be judged once all that lies in the socket has been read."""

    connection: Looked
    judge: Judge
