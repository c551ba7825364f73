"""The frames of a log in blocks that many readers share; a block lives as long as a reader holds it."""

from __future__ import annotations

__all__ = ["Block"]

_BLOCK = 64 * 1024
"""Bytes after which a block takes no further message: large enough that the system call costs
nothing a message, small enough that a control frame never waits long."""
_KEPT = 4
"""Joined pieces of a block that are kept for peers that come for the same."""


class Block:
    """A run of frames in a chain of blocks."""

    __slots__ = ("_joined", "_size", "frames", "next", "start")

    def __init__(self, start: int) -> None:
        """An empty block, whose first message will be `start`."""
        self.start = start
        self.frames: list[bytes] = []
        self._size = 0
        self.next: Block | None = None
        self._joined: dict[tuple[int, int], bytes] = {}

    def append(self, frame: bytes) -> None:
        """Put a message's frame at the end."""
        self.frames.append(frame)
        self._size += len(frame)

    @property
    def is_full(self) -> bool:
        """Whether the next message belongs into another block."""
        return self._size >= _BLOCK

    @property
    def end(self) -> int:
        """The number after the last message."""
        return self.start + len(self.frames)

    def joined(self, first: int, last: int) -> bytes:
        """The frames of the messages `first` to before `last`; the same object for who asks for the same."""
        blob = self._joined.get((first, last))
        if blob is None:
            blob = b"".join(self.frames[first - self.start : last - self.start])
            if len(self._joined) >= _KEPT:
                del self._joined[next(iter(self._joined))]
            self._joined[first, last] = blob
        return blob
