"""The frames of a log, in blocks that many subscriptions share. A block lives as long as one of them refers to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field

FULL = 64 * 1024
"""Bytes of messages from which on a block takes no further one: large enough that the system call costs next to nothing for
each message, small enough that a control frame never waits long."""
KEPT = 4
"""Joined pieces of a block that are kept for peers that ask for the same piece later."""


@define(eq=False, weakref_slot=False)
class Block:
    """A run of messages in a chain of blocks. Each is framed once, when a peer first asks for it or for one behind it."""

    start: int
    """Number of its first message."""
    frame: Callable[[bytes], bytes]
    """Returns the frame of a message's payload."""
    next: Block | None = field(default=None, init=False)
    """The block behind this one; None if this is the last."""
    _pieces: list[bytes] = field(factory=list[bytes], init=False)
    """The frames of the first `_framed` messages, and the payloads of the others."""
    _framed: int = field(default=0, init=False)
    _size: int = field(default=0, init=False)
    _joined: dict[tuple[int, int], bytes] = field(factory=dict[tuple[int, int], bytes], init=False)

    def append(self, payload: bytes) -> None:
        """Put a message at the end."""
        self._pieces.append(payload)
        self._size += len(payload)

    def append_framed(self, frame: bytes) -> None:
        """Put a message at the end that is framed already."""
        self.joined(self.start, self.end)
        self._pieces.append(frame)
        self._framed += 1
        self._size += len(frame)

    @property
    def is_full(self) -> bool:
        """Whether the block takes no further message."""
        return self._size >= FULL

    @property
    def end(self) -> int:
        """The number after the last message."""
        return self.start + len(self._pieces)

    def joined(self, first: int, last: int, without: Sequence[int] = ()) -> bytes:
        """Return the frames of the messages `first` to before `last`, in order, `without` some of them.

        Whoever asks for all of them gets the same object.
        """
        blob = None if without else self._joined.get((first, last))
        if blob is None:
            pieces, framed, count = self._pieces, self._framed, last - self.start
            if framed < count:
                pieces[framed:count] = map(self.frame, pieces[framed:count])
                self._framed = count
            wanted = pieces[first - self.start : count]
            for number in reversed(without):
                del wanted[number - first]
            blob = b"".join(wanted)
            if without:  # nobody else asks for the same
                return blob
            if len(self._joined) >= KEPT:
                del self._joined[next(iter(self._joined))]
            self._joined[first, last] = blob
        return blob
