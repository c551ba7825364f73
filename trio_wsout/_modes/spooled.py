"""The way up the link through a spool (SPEC 7): in mode client the whole way of an event, in a relay one of two.

A relay's events go to its peers from memory and up its link from disk, so that each may be behind without the other. The link
has a log, numbers and an account of its own then; the numbers are those of the spool, which go on over restarts. The events
have the same order on both ways, and what is open on one of them is always the newest part of it.
"""

import logging
from collections.abc import Sequence
from heapq import heappop, heappush

import trio

from trio_wsout._core.message import Accepted, Message, OnDisk
from trio_wsout._core.statistics import SpoolStatistics
from trio_wsout._modes.common import Common
from trio_wsout._tasks.catch_up import Backlog, Reader
from trio_wsout._tasks.journal import Journal
from trio_wsout._tasks.sender import Sender
from trio_wsout._tasks.uncommitted import DiskEntry
from trio_wsout.config.sections import Spool
from trio_wsout.stores.from_config import open_spool_store

_log = logging.getLogger("trio_wsout")


class Spooled:
    """The entry, journal and sender of a spool; `Tree` opens, starts and closes it."""

    def __init__(self, common: Common, up: Common, spool: Spool) -> None:
        """Send what `entry` takes to the link of `up`, and in a relay to the peers of `common`; in a client both are the same."""
        store, most = common.hooks.spool or open_spool_store(spool), common.config.spool_bytes
        backlog = Backlog(Reader(store), up.revive)
        self._common = common
        self.up = up
        self.relays = up is not common
        """Whether what goes up goes to peers, too."""
        self.entry = DiskEntry(most, backlog)
        self.journal = Journal(
            store,
            self.entry,
            up.ledger,
            common.config.payload,
            max_bytes=most,
            backlog=backlog,
            peers=common.entry if self.relays else None,
        )
        self.sender = Sender(up.packer, self.journal, up.fan_out, up.ledger)
        self.subscription = up.fan_out.log.join_link(common.config.retry)
        self._began = 0
        """The position of the last event of earlier runs."""
        self._went_down = 0
        """Events that came down the link, and are confirmed by all peers."""
        self._peers_have = 0
        """The position up to which no peer lacks an event."""
        self._given_up: list[int] = []
        """Positions behind it of events that the link has given up, as a heap."""
        self._unsettled: list[Accepted] = []
        """Events that the link had not settled when its account was closed (`drain`)."""
        self._kept: int | None = None
        """Events that stay on disk at the end; None before that."""

    # -- life -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take the spool over. Numbers go on, and so do the stamps, so that a receiver knows repeated events.

        Raises:
            SpoolError: The spool can't be used; no event was sent.
        """
        up, journal = self.up, self.journal
        extent = await journal.open(up.epoch)
        up.go_on(extent.epoch, extent.floor)
        self._common.counters.accepted = extent.events
        self._began = self._peers_have = extent.tail
        up.ledger.on_settled = journal.have_settled
        if self.relays:
            self._common.ledger.on_confirmed.append(self._confirmed_by_peers)
            up.ledger.on_failed = self._given_up_by_link
        if extent.events:
            _log.info("spool %s: %d events of an earlier run go first", journal.location, extent.events)

    def start(self, nursery: trio.Nursery) -> None:
        """Start to store, and to send up the link."""
        nursery.start_soon(self.journal.run, name="journal")
        nursery.start_soon(self.sender.run, name="sender")
        if self.relays:
            nursery.start_soon(self.up.ledger.run, name="reporter")

    async def aclose(self) -> None:
        """Store which events have settled, and close the spool."""
        await self.journal.aclose()

    def __len__(self) -> int:
        """Return how many items have not reached the sender of the peers; in a client that of the link."""
        return len(self.entry) + len(self.journal.passing) if self.relays else len(self.journal)

    # -- the account of a relay ---------------------------------------------------------------------------

    def _confirmed_by_peers(self, messages: Sequence[Message]) -> None:
        on_disk = [each.position for each in messages if isinstance(each, OnDisk)]
        self._went_down += len(messages) - len(on_disk)
        if on_disk:
            self._peers_have = on_disk[-1]
            while self._given_up and self._given_up[0] <= self._peers_have:
                heappop(self._given_up)

    def _given_up_by_link(self, event: Accepted) -> None:
        if event.seq > self._peers_have:
            heappush(self._given_up, event.seq)

    @property
    def accepted(self) -> int:
        """Events that were accepted, those of earlier runs included."""
        counters = self._common.counters
        # A task that waited in `send` counts its event a moment after the journal may have passed it on.
        return max(counters.accepted, self._earlier + self._stored + counters.came_down)

    @property
    def _earlier(self) -> int:
        return self._began - self.up.earlier

    @property
    def _stored(self) -> int:
        """Events of this run that are, or were, on disk."""
        return self.journal.extent.tail - self._began

    @property
    def open_events(self) -> int:
        """Events that are not on disk, or that the link or a peer may lack, without those that are undelivered."""
        if self._kept is not None:
            return self._kept
        counters, settled, peers_have = self._common.counters, self.up.ledger.settled, self._peers_have
        waiting = self.accepted - self._earlier - counters.came_down - self._stored
        lacking = self.journal.extent.tail - min(settled.upto, peers_have)
        lacking -= settled.beyond_upto(peers_have) + len(self._given_up)
        return waiting + lacking + counters.came_down - self._went_down

    @property
    def queued(self) -> int:
        """Events that wait in the intake, or on disk, for a sender."""
        common, up, accepted = self._common, self.up, self.accepted
        to_peers = accepted - self._earlier - (common.packer.last_seq - common.earlier)
        up_the_link = accepted - common.counters.came_down - (up.packer.last_seq - up.earlier)
        return max(to_peers, up_the_link + self.sender.pending)

    def statistics(self) -> SpoolStatistics:
        """Return the figures of this moment."""
        journal = self.journal
        waits = journal.full if len(self.entry) else None
        return SpoolStatistics(events=journal.events, bytes=journal.size, waits=waits)

    # -- the end ----------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Close the account of the link: what it confirms from now on does not count."""
        self._unsettled += self.up.fan_out.drain()

    def keep(self, left: Sequence[Accepted], reason: str) -> list[Accepted]:
        """Take nothing more, and keep what is on disk; tasks that wait for events that stay fail with `reason`.

        Args:
            left: Events that have left the journal, and are not settled; those of a relay are not settled by its peers.
            reason: The reason for which they are not confirmed.

        Returns:
            The events that do not stay: those that are not on disk, and those that only peers lack.
        """
        up, events = self.up, self.journal.events
        up.ledger.on_settled = up.ledger.on_failed = None
        ours, lost = left, list[Accepted]()
        if self.relays:
            self.drain()
            ours = self._unsettled + self.sender.leftovers()
            lost = [each for each in left if not self._told_or_kept(each)]
        up.ledger.keep(ours, reason)
        if self.relays:
            up.ledger.abandon((), reason)
        lost += self.entry.close()
        self.journal.close(reason)
        self._kept = events
        return lost

    def _told_or_kept(self, event: Accepted) -> bool:
        """Return whether an event that peers lack stays on disk for the link, or was undelivered already."""
        if not isinstance(event, OnDisk):
            return False
        return event.position > self.up.ledger.settled.upto or event.position in self._given_up
