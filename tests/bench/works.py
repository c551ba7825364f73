"""What is measured: the works, and which of them a run does."""

from __future__ import annotations

from dataclasses import dataclass, replace

PEERS = (1, 10, 100, 1000)
SIZES = (64, 256, 4096, 65536)
PACE = 0.005
SYNCED = 4_000
"""Roughly how many events of one task a disk takes in a second."""


@dataclass(frozen=True)
class Work:
    """One table."""

    kind: str
    """fanout, push, spool, receive or relay; it is what a subject's file calls it."""
    peers: int = 1
    size: int = 256
    pace: float = 0.0
    """Seconds between two events; 0: as fast as they go."""
    senders: int = 0
    """Peers of a relay, or tasks of a client with a spool, that send."""
    tls: bool = False

    @property
    def title(self) -> str:
        size = f"{self.size} B" if self.size < 1024 else f"{self.size // 1024} KiB"
        many = f"{self.peers:,} peer{'s' * (self.peers != 1)}"
        what = {
            "fanout": f"Fan-out to {many}, {'one event every %g ms' % (self.pace * 1000) if self.pace else 'a burst'}",
            "push": "A client pushes",
            "spool": f"A client with a spool, {self.senders:,} tasks, each of which waits for the disk",
            "receive": f"A server receives from {many}",
            "relay": f"A relay, {self.senders} of {self.peers} peers send to all others",
        }[self.kind]
        return f"{what}, {size}{', TLS' if self.tls else ''}"

    @property
    def key(self) -> str:
        """Its name in the raw figures and on the command line."""
        parts = ["paced" if self.pace else "burst" if self.kind == "fanout" else self.kind]
        if self.kind != "push":
            parts.append(str(self.senders if self.kind == "spool" else self.peers))
        parts.append(str(self.size))
        return "-".join([*parts, "tls"] if self.tls else parts)

    @property
    def unit(self) -> str:
        return "messages" if self.kind in {"push", "spool", "receive"} else "frames"

    def units(self, events: int) -> int:
        """How many frames the measured process reads or writes for so many events."""
        if self.kind == "fanout":
            return events * self.peers
        return events * (self.peers - 1) if self.kind == "relay" else events

    def events(self, rate: float, seconds: float) -> int:
        """How many events take about so long at so many frames a second."""
        if self.pace:
            return max(20, int(seconds / self.pace))
        if self.kind == "spool":
            rate = min(rate, SYNCED * self.senders**0.5)
        each = max(1, self.senders) * (self.peers if self.kind == "receive" else 1)
        return max(1, round(rate * seconds / self.units(1) / each)) * each


BURST = Work("fanout", peers=100)
PACED = Work("fanout", peers=100, pace=PACE)
PACED_1000 = Work("fanout", peers=1000, pace=PACE * 10)
PUSH = Work("push")
RECEIVE = Work("receive")
RELAY = Work("relay", peers=110, senders=10)
SPOOL = tuple(Work("spool", senders=senders) for senders in (1, 64, 1024))
MAIN = (BURST, PACED, PUSH, RECEIVE, RELAY)
"""The works that the bars are about, with PACED_1000 and the idle peers."""
SHAPES = (
    *(replace(BURST, peers=peers) for peers in PEERS if peers != 100),
    *(replace(BURST, size=size) for size in SIZES if size != 256),
)
"""The burst with other numbers of peers and other sizes."""
SECURE = tuple(replace(each, tls=True) for each in MAIN)


def whole_grid() -> list[Work]:
    """Every number of peers with every size, in a burst and paced, plain and with TLS; the others in all sizes."""
    grid: list[Work] = []
    for tls in (False, True):
        for size in SIZES:
            for peers in PEERS:
                pace = PACE * max(1, peers // 100)
                grid += [Work("fanout", peers, size, each, tls=tls) for each in (0.0, pace)]
            grid += [replace(each, size=size, tls=tls) for each in (PUSH, RECEIVE, RELAY)]
            grid += [replace(RECEIVE, peers=peers, size=size, tls=tls) for peers in PEERS[1:3]]
    return grid
