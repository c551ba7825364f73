"""The replay: before a peer joins the log, it gets the history after its cursor, and a notice of a gap (SPEC 9).

A replay ends exactly where the peer's subscription begins. The history is written before the log, and a replay takes
only events that the log has posted. When none of them is left, the peer subscribes, with no task switch between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from attrs import define, field

from trio_wsout._core.history import Entry, first_cursor
from trio_wsout._core.packing import Packer, PackingError
from trio_wsout._tasks.fan_out import FanOut, gap_frame
from trio_wsout._tasks.history_journal import HistoryJournal
from trio_wsout._tasks.session import GONE, INTERNAL_ERROR, CloseNow, Session
from trio_wsout._wire.frames import plain_frame
from trio_wsout.errors import HistoryError


@define(eq=False)
class Replay:
    """One peer's way through the history."""

    _history_journal: HistoryJournal
    _fan_out: FanOut
    _packer: Packer
    _position: int
    """Position of the last event that the peer has."""
    _cursor: str | None
    """The last cursor that the peer has; None if its last event has none."""
    _notice: bytes = field(alias="notice")
    """The frame that reports a gap before the next event; empty if there is none."""
    _tells: bool = field(alias="tells")
    """Whether gaps are reported within the stream (history.on-gap)."""

    async def next_frames(self, session: Session) -> bytes:
        """Return the next frames to write; empty once the peer has caught up and joined the log.

        Raises:
            CloseNow: Events were lost meanwhile, and such a peer is refused (history.on-gap); or the history can't be read.
        """
        try:
            return await self._next_frames(session)
        except (HistoryError, PackingError) as error:
            self._fan_out.peer_log.error("a peer's replay was broken off: %s", error)
            raise CloseNow(INTERNAL_ERROR) from None

    async def _next_frames(self, session: Session) -> bytes:
        frames = b""
        log = self._fan_out.log
        while not frames and session.subscription is None:
            before = log.last_seq
            entries = await self._history_journal.after(self._position)
            posted = log.last_seq
            news = [entry for entry in entries if entry.position <= posted]
            # Events that were posted before the read were in the history; if none of them is left there, they have left it.
            self._look_for_gap(news, at_least=0 if news else before)
            if news:
                self._position, self._cursor = news[-1].position, news[-1].cursor
            elif self._position >= posted:
                session.join()
            frames, self._notice = self._notice + self._frames(news, session), b""
        return frames

    def _look_for_gap(self, news: Sequence[Entry], *, at_least: int) -> None:
        """Note a gap if events up to the floor left the history before they were read; the floor is at least `at_least`."""
        floor = max(self._history_journal.extent.floor, at_least)
        if floor <= self._position or (news and news[0].position == self._position + 1):
            return
        first = first_cursor(news)
        if not self._tells:
            raise CloseNow(GONE, first or "")
        self._position = floor
        self._notice = gap_frame(self._cursor, first)

    def _frames(self, news: Sequence[Entry], session: Session) -> bytes:
        """Return the frames of these events, without those that the peer itself sent meanwhile."""
        early = session.sent_early
        payloads = [entry.payload for entry in news if not early or entry.position not in early]
        if early:
            early.difference_update([entry.position for entry in news])
        messages = self._packer.repack(payloads, time.time()) if payloads else []
        self._fan_out.count_replayed(len(payloads), len(messages))
        return b"".join([plain_frame(message, self._fan_out.opcode) for message in messages])
