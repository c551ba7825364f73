"""What a peer gets before it joins: the history after its cursor, or word of a gap (SPEC 9).

The events that a peer gets from the history end exactly where its place in the log begins: the
history is written before the log, and a replay takes of it only what the log has posted. When
nothing is left, the place is taken in the same moment.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trio_wsout._core.history import first_cursor
from trio_wsout._tasks.fan_out import gap_frame
from trio_wsout._wire.frames import plain_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout._core.history import Entry
    from trio_wsout._core.packing import Packer
    from trio_wsout._tasks.fan_out import FanOut, Member
    from trio_wsout._tasks.history_journal import HistoryJournal, Start

__all__ = ["Overtaken", "Replay"]


class Overtaken(Exception):  # noqa: N818 - caught by the peer's task, never leaves the package
    """Events that a replay was about to read left the history, and such a peer is refused (history.on-gap)."""

    def __init__(self, first: str | None) -> None:
        super().__init__("the history has overtaken a replay")
        self.first = first
        """The first cursor there is behind the gap; None: there is none."""


class Replay:
    """One peer's way through the history."""

    def __init__(
        self,
        history_journal: HistoryJournal,
        fan_out: FanOut,
        packer: Packer,
        start: Start,
        asked: str,
        *,
        tells: bool,
    ) -> None:
        """Begin at `start`; `tells` says that gaps are told within the stream."""
        self._history_journal = history_journal
        self._fan_out = fan_out
        self._packer = packer
        self._position = start.position
        self._cursor: str | None = asked
        self._tells = tells
        self._notice = gap_frame(asked, start.first) if start.gap else b""

    async def next_frames(self, peer: Member) -> bytes:
        """The next frames to write; empty: the peer has caught up, and has its place in the log.

        Raises:
            Overtaken: Events were lost meanwhile, and the peer is not told within the stream.
            HistoryError: The history can't be read.
        """
        frames = b""
        log = self._fan_out.log
        while not frames and peer.place is None:
            before = log.last_seq
            entries = await self._history_journal.after(self._position)
            posted = log.last_seq
            news = [entry for entry in entries if entry.position <= posted]
            # What was posted before the read was in the history; where nothing of it is left, it has left.
            self._look_for_gap(news, at_least=0 if news else before)
            if news:
                self._position, self._cursor = news[-1].position, news[-1].cursor
            elif self._position >= posted:
                peer.join_log()
            frames, self._notice = self._notice + self._frames(news, peer), b""
        return frames

    def _look_for_gap(self, news: Sequence[Entry], *, at_least: int) -> None:
        """Note that events left which were not read yet: those up to the floor, which is at least so high."""
        floor = max(self._history_journal.extent.floor, at_least)
        if floor <= self._position or (news and news[0].position == self._position + 1):
            return
        first = first_cursor(news)
        if not self._tells:
            raise Overtaken(first)
        self._position = floor
        self._notice = gap_frame(self._cursor, first)

    def _frames(self, news: Sequence[Entry], peer: Member) -> bytes:
        early = peer.sent_early
        payloads = [entry.payload for entry in news if not early or entry.position not in early]
        if early:
            early.difference_update([entry.position for entry in news])
        messages = self._packer.repack(payloads, time.time()) if payloads else []
        self._fan_out.count_replayed(len(payloads), len(messages))
        return b"".join([plain_frame(message, self._fan_out.opcode) for message in messages])
