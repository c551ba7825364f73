"""The frames of a log, in blocks that many subscriptions share. A block lives as long as one of them refers to it."""

from __future__ import annotations

from attrs import define, field

__all__ = ["Block"]

_FULL = 64 * 1024
"""Bytes from which on a block takes no further frame: large enough that the system call costs next to nothing for each
message, small enough that a control frame never waits long."""
_KEPT = 4
"""Joined pieces of a block that are kept for peers that ask for the same piece later."""


@define(eq=False, weakref_slot=False)
class Block:
    """A run of frames in a chain of blocks."""

    start: int
    """Number of its first message."""
    frames: list[bytes] = field(factory=list[bytes], init=False)
    """One for each message."""
    next: Block | None = field(default=None, init=False)
    """The block behind this one; None if this is the last."""
    _size: int = field(default=0, init=False)
    _joined: dict[tuple[int, int], bytes] = field(factory=dict[tuple[int, int], bytes], init=False)

    def append(self, frame: bytes) -> None:
        """Put a message's frame at the end."""
        self.frames.append(frame)
        self._size += len(frame)

    @property
    def is_full(self) -> bool:
        """Whether the block takes no further message."""
        return self._size >= _FULL

    @property
    def end(self) -> int:
        """The number after the last message."""
        return self.start + len(self.frames)

    def joined(self, first: int, last: int) -> bytes:
        """Return the frames of the messages `first` to before `last`, the same object whenever the same are asked for."""
        blob = self._joined.get((first, last))
        if blob is None:
            blob = b"".join(self.frames[first - self.start : last - self.start])
            if len(self._joined) >= _KEPT:
                del self._joined[next(iter(self._joined))]
            self._joined[first, last] = blob
        return blob
