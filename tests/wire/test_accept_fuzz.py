"""Handshakes and frames, mutated at random, at a listener in memory on a mock clock.

The clock jumps, so that deadlines cost nothing and are exact. A failure prints its seed: run it again with
`FUZZ_SEED=n`.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio.testing
import trio_wsout
from attrs import define, field, frozen
from trio_wsout._wire.decoder import Close, parse_close
from trio_wsout._wire.frames import BINARY, CLOSE, PING, PONG, TEXT, masked_frame
from trio_wsout.testing import open_listener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsout.testing import MemoryListener

pytestmark = pytest.mark.heavy

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
BATCHES = 500 if DEEP else 25
"""For each of two seeds."""
BATCH = 100
"""Strangers at a time."""
HANDSHAKE_TIMEOUT = 10.0
LINGER = 1.0
"""Seconds that one who was refused may hold on."""
SILENCE = 3.0
"""Seconds after which a peer that answers no ping, or says nothing, is closed or cut."""
PARTING = 6.0
"""Seconds that this takes at most."""
LARGEST = 2000
"""Bytes of a message."""
STATUSES = {101, 200, 400, 403, 404, 405, 426, 431}

GOOD = (
    b"GET /feed HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Origin: https://good.example\r\n"
)
HEADS = (
    GOOD + b"\r\n",
    GOOD + b"Sec-WebSocket-Protocol: v0, v1\r\nSec-WebSocket-Extensions: permessage-deflate; a=b\r\n\r\n",
    GOOD + b"Last-Event: 12-34\r\nCookie: a=b; c=d\r\nUser-Agent: somebody/1.0 (x; y)\r\n\r\n",
    GOOD.replace(b"/feed", b"/%66eed?last=1-2&b=%20%00") + b"Content-Length: 0\r\n\r\n",
    GOOD.replace(b"/feed", b"http://peer/feed?last=0") + b"\r\n",
    GOOD.replace(b"\r\n", b"\n") + b"\n",
    GOOD.replace(b"Upgrade\r\n", b"keep-alive,\r\n upgrade\r\n") + b"\r\n",
    GOOD.replace(b"Host: peer", b"Host: [::1]:80") + b"X-Long: " + b"x" * 15_000 + b"\r\n\r\n",
    GOOD + b"X: y\r\n" * 92 + b"\r\n",
    GOOD.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    GOOD.replace(b"1.1", b"1.0").replace(b": 13", b": 8") + b"\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: peer\r\n\r\n",
)
FRAMES = (
    masked_frame(b"hello", TEXT),
    masked_frame("é€😀".encode(), TEXT),
    masked_frame(b'{"ack": "1-1"}', TEXT),
    masked_frame(b"", TEXT),
    masked_frame(bytes(range(256)), BINARY),
    masked_frame(b"x" * LARGEST, TEXT),
    masked_frame(b"x" * (LARGEST + 1), TEXT),
    masked_frame(bytes(70_000), BINARY),
    b"\x01" + masked_frame(b"one", TEXT)[1:] + masked_frame(b"p", PING) + masked_frame(b"two", 0),
    masked_frame(b"continues nothing", 0),
    masked_frame(b"ping", PING),
    masked_frame(b"x" * 125, PING),
    masked_frame(b"pong", PONG),
    masked_frame(b"\x03\xe8", CLOSE),
    masked_frame(b"\x0f\xa0because", CLOSE),
    masked_frame(b"", CLOSE),
    masked_frame(b"\x03", CLOSE),
    b"\x81\x05hello",
    b"\x82\xff" + b"\x7f" + b"\xff" * 7 + bytes(20),
)
TELLING = (0x00, 0x0A, 0x0D, 0x20, 0x2C, 0x3A, 0x7F, 0x80, 0x81, 0x88, 0x89, 0xC3, 0xFE, 0xFF)
"""Bytes that mean something to one parser or another."""


# -- what strangers do ---------------------------------------------------------------------------------


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same with one thing wrong."""
    start = chance.randrange(len(data) + 1)
    stop = min(len(data), start + chance.choice([1, 1, 2, 4, 16, 64]))
    part = data[start:stop]
    match chance.randrange(8):
        case 0:
            part = bytes(byte ^ 1 << chance.randrange(8) for byte in part)
        case 1:
            part = bytes(chance.choice(TELLING) for _ in part)
        case 2:
            part += chance.randbytes(chance.randrange(1, 9))
        case 3:
            part = bytes([chance.choice(TELLING)]) + part
        case 4:
            part = b""
        case 5:
            part *= chance.choice([2, 2, 3, 200])
        case 6:
            other = chance.choice([*HEADS, *FRAMES])
            cut = chance.randrange(len(other))
            part = other[cut : cut + chance.choice([5, 50, 500])]
        case _:
            return (
                data[:start] if chance.random() < 0.5 else part.swapcase().join([data[:start], data[stop:]])
            )
    return data[:start] + part + data[stop:]


def sliced(data: bytes, chance: random.Random) -> list[bytes]:
    """The same bytes in pieces."""
    if len(data) < 600 and chance.random() < 0.1:
        return [data[index : index + 1] for index in range(len(data))]
    marks = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice([0, 0, 1, 2, 5])))
    return [data[start:stop] for start, stop in zip([0, *marks], [*marks, len(data)], strict=True)]


@frozen
class Plan:
    """What one stranger does."""

    begin: float
    pieces: Sequence[bytes]
    pauses: Sequence[float]
    """Seconds after each piece."""
    end: str
    """Then: ``hold`` on, say ``eof``, or ``close``."""
    bounded: bool
    """Whether what is written waits until it is read."""


def mutant(chance: random.Random) -> tuple[bytes, bytes]:
    """A handshake, and frames behind it."""
    head = chance.choice(HEADS) if chance.random() < 0.5 else HEADS[0]
    frames = b"".join(chance.choices(FRAMES, k=chance.choice([0, 1, 1, 2, 3, 6])))
    where = chance.choice(["nowhere", "head", "head", "frames", "frames", "everywhere"])
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        if where == "head":
            head = mutated(head, chance)
        elif where == "frames":
            frames = mutated(frames, chance)
        elif where == "everywhere":
            head, frames = mutated(head + frames, chance), b""
    return head, frames


def plan(chance: random.Random) -> Plan:
    head, frames = mutant(chance)
    # Mostly the frames come once there was time to answer, as peers do.
    apart = chance.random() < 0.7
    pieces = sliced(head, chance) + sliced(frames, chance) if apart else sliced(head + frames, chance)
    slowness = chance.choice([(0.0,), (0.0, 0.01), (0.0, 0.01), (0.0, 0.5, 3.0)])
    pauses = [chance.choice(slowness) for _ in pieces]
    return Plan(
        begin=chance.uniform(0, 2),
        pieces=pieces,
        pauses=pauses,
        end=chance.choice(["hold", "hold", "hold", "eof", "close"]),
        bounded=chance.random() < 0.2,
    )


@define(eq=False)
class Visit:
    """A connection: what came, and when."""

    stream: trio.abc.HalfCloseableStream
    begun: float = field(factory=trio.current_time)
    came: bytes = b""
    answered_at: float | None = None
    ended_at: float | None = None
    answers_pings: bool = False

    async def read(self) -> None:
        """Read to the end."""
        chunk = b"-"
        while chunk:
            try:
                chunk = bytes(await self.stream.receive_some(65536))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                chunk = b""
            self.came += chunk
            if self.answers_pings and b"\r\n\r\n" in self.came:
                # What was written by one call comes by one call: no frame is torn here.
                for opcode, payload in frames_in(chunk.rpartition(b"\r\n\r\n")[2]):
                    if opcode == PING:
                        await self.stream.send_all(masked_frame(payload, PONG))
            if chunk and self.answered_at is None:
                self.answered_at = trio.current_time()
        self.ended_at = trio.current_time()
        await trio.aclose_forcefully(self.stream)

    async def say(self, text: str) -> None:
        await self.stream.send_all(masked_frame(text.encode(), TEXT))

    async def carry_out(self, plan: Plan) -> None:
        try:
            for piece, pause in zip(plan.pieces, plan.pauses, strict=True):
                await self.stream.send_all(piece)
                await trio.sleep(pause)
            if plan.end == "eof":
                await self.stream.send_eof()
            elif plan.end == "close":
                await self.stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    @property
    def status(self) -> int | None:
        """Of the answer; raises AssertionError where it is none."""
        if not self.came:
            return None
        assert self.came.startswith(b"HTTP/1.1 "), self.came[:50]
        return int(self.came[9:12])

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        return frames_in(self.came.partition(b"\r\n\r\n")[2])


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of every frame; raises AssertionError where one is torn or not legal."""
    found: list[tuple[int, bytes]] = []
    while data:
        opcode, size = data[0] ^ 0x80, data[1] if len(data) > 1 else 0
        assert opcode in (TEXT, CLOSE, PING, PONG), f"no frame: {data[:20]!r}"
        assert size < 126, f"a frame that nobody sent: {data[:20]!r}"
        assert len(data) >= 2 + size, f"a torn frame: {data[:20]!r}"
        assert CLOSE not in [each for each, _ in found], f"behind a Close: {data[:20]!r}"
        found.append((opcode, data[2 : 2 + size]))
        data = data[2 + size :]
    return found


# -- who they come to ----------------------------------------------------------------------------------


def config(mode: str) -> dict[str, Any]:
    server: dict[str, Any] = {
        "bind": "127.0.0.1:0",
        "path": "/feed",
        "allowed-origins": ["https://good.example"],
        "handshake-timeout": HANDSHAKE_TIMEOUT,
        "max-connections": BATCH + 1,
    }
    # Events go to everybody, so that nobody is idle there; but who answers no ping confirms none.
    more: dict[str, Any] = {"retry": {"timeout": SILENCE}}
    if mode == "server-input":
        server["idle-timeout"], more = SILENCE, {}
    return {"mode": mode, "server": server, "subprotocols": ["v1"], "max-message-size": LARGEST, **more}


@define(eq=False)
class Batch:
    """A listener, a bystander, and strangers who do as they planned; `wrong` is what should not be."""

    mode: str
    chance: random.Random
    listener: MemoryListener = field(init=False)
    sent: list[str] = field(factory=list)
    """Events to the bystander, or from it."""
    heard: list[str] = field(factory=list)
    """Events from the bystander that the application got."""
    enough: trio.CancelScope = field(factory=trio.CancelScope)
    wrong: list[str] = field(factory=list)
    outcomes: Counter[int | None] = field(factory=Counter)

    async def run(self) -> None:
        async with (
            open_listener() as self.listener,
            trio_wsout.open_output(config(self.mode), listeners=[self.listener]) as output,
        ):
            async with trio.open_nursery() as nursery:
                bystander = await self.enter(nursery)
                bystander.answers_pings = True
                if self.mode == "server-output":
                    nursery.start_soon(self.write_events, output.send)
                else:
                    nursery.start_soon(self.hear, output)
                    nursery.start_soon(self.write_events, bystander.say)
                await trio.testing.wait_all_tasks_blocked()
                before = trio.lowlevel.current_statistics().tasks_living
                async with trio.open_nursery() as visiting:
                    for number in range(BATCH):
                        visiting.start_soon(self.visit, number, plan(self.chance))
                await trio.sleep(PARTING)
                tasks = trio.lowlevel.current_statistics().tasks_living
                self.expect(tasks == before, f"{tasks - before} tasks are left")
                self.expect(output.statistics().peers == 1, f"{output.statistics().peers - 1} peers are left")
                await self.fill_every_place(nursery)
                self.enough.cancel()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            got = [payload.decode() for opcode, payload in bystander.frames if opcode == TEXT]
            got = got if self.mode == "server-output" else self.heard
            self.expect(bystander.ended_at is None, "the bystander was cut")
            self.expect(got == self.sent, f"the bystander missed something: {len(got)} of {len(self.sent)}")
            await trio.aclose_forcefully(bystander.stream)

    def expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            self.wrong.append(what)

    async def enter(self, nursery: trio.Nursery) -> Visit:
        """A peer that is let in."""
        visit = Visit(self.listener.dial())
        nursery.start_soon(visit.read)
        await visit.stream.send_all(HEADS[0])
        await trio.testing.wait_all_tasks_blocked()
        self.expect(visit.status == 101, f"{visit.came!r} to who should be let in")
        return visit

    async def fill_every_place(self, nursery: trio.Nursery) -> None:
        """All places but the bystander's are free."""
        if self.chance.random() < 0.1:
            visits = [await self.enter(nursery) for _ in range(BATCH)]
            for visit in visits:
                await visit.stream.aclose()

    async def write_events(self, send: Callable[[str], Any]) -> None:
        """Send events until `enough`."""
        with self.enough:
            while True:
                self.sent.append(f"event {len(self.sent)}")
                await send(self.sent[-1])
                await trio.sleep(0.25)

    async def hear(self, output: trio_wsout.Output) -> None:
        async for message in output.received:
            if str(message.event).startswith("event "):
                self.heard.append(str(message.event))

    async def visit(self, number: int, plan: Plan) -> None:
        await trio.sleep(plan.begin)
        visit = Visit(self.listener.dial(buffered=not plan.bounded))
        spoken_at = visit.begun
        with trio.move_on_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(visit.read)
                await visit.carry_out(plan)
                spoken_at = trio.current_time()
        try:
            self.see(plan, visit, spoken_at)
        except AssertionError as error:
            self.wrong.append(f"stranger {number}: {error}; {plan}")

    def see(self, plan: Plan, visit: Visit, spoken_at: float) -> None:
        """See whether this visit went as it must."""
        status, answered_at, ended_at = visit.status, visit.answered_at, visit.ended_at
        self.outcomes[status] += 1
        assert ended_at is not None, "it never ends"
        assert (answered_at or ended_at) - visit.begun <= HANDSHAKE_TIMEOUT, "it is late"
        assert status is None or status in STATUSES, f"answered by {status}"
        if status is not None and status != 101:
            assert answered_at is not None
            assert ended_at - answered_at <= LINGER, "it lingers"
            head, _, body = visit.came.partition(b"\r\n\r\n")
            assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head or not body, "a torn answer"
        if status == 101:
            assert ended_at - spoken_at <= SILENCE + PARTING, "it is served too long"
            frames = visit.frames
            texts = [int(payload.removeprefix(b"event ")) for opcode, payload in frames if opcode == TEXT]
            assert texts == list(range(texts[0], texts[-1] + 1) if texts else ()), "an event is missing"
            closes = [parse_close(payload) for opcode, payload in frames if opcode == CLOSE]
            assert all(isinstance(close, Close) for close in closes), "a Close that is none"


# -- the tests -----------------------------------------------------------------------------------------


def seed_for(which: str) -> int:
    """The same one always, or a fresh one, or what `FUZZ_SEED` says; it is printed."""
    given = os.environ.get("FUZZ_SEED")
    seed = 1 if which == "the same" else int(given) if given else random.randrange(2**32)
    print(f"FUZZ_SEED={seed}")
    return seed


@pytest.mark.parametrize("which", ["the same", "fresh"])
def test_a_listener_outlives_whatever_comes(which: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    seed = seed_for(which)
    outcomes: Counter[int | None] = Counter()
    for number in range(BATCHES):
        batch = Batch(("server-output", "server-input")[number % 2], random.Random(f"{seed}-{number}"))
        trio.run(batch.run, clock=trio.testing.MockClock(autojump_threshold=0))
        assert not batch.wrong, f"FUZZ_SEED={seed}, batch {number}:\n" + "\n".join(batch.wrong[:5])
        # Nothing that comes is an error of this side.
        assert {each.getMessage() for each in caplog.records} == set(), f"FUZZ_SEED={seed}, batch {number}"
        outcomes += batch.outcomes
    print(outcomes)
    # They are mutated so that they get as far as there is to get.
    assert set(outcomes) >= STATUSES - {403} | {None}
    assert outcomes[101] > BATCHES * BATCH / 5


@frozen
class Outcome:
    """What became of some bytes."""

    status: int | None
    pongs: tuple[bytes, ...]
    close: bytes | None
    """Payload of the listener's Close."""
    received: int
    """Messages that the listener counted."""


@pytest.mark.parametrize("which", ["the same", "fresh"])
def test_however_the_bytes_are_cut_the_outcome_is_the_same(which: str) -> None:
    seed = seed_for(which)
    wrong: list[str] = []
    listener: MemoryListener
    output: trio_wsout.Output

    async def outcome_of(pieces: Sequence[bytes], pause: float) -> Outcome:
        before = output.statistics().received
        visit = Visit(listener.dial())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(visit.read)
            pauses = [pause] * len(pieces)
            await visit.carry_out(Plan(begin=0, pieces=pieces, pauses=pauses, end="hold", bounded=False))
        status = visit.status
        frames = visit.frames if status == 101 else []
        pongs = tuple(payload for opcode, payload in frames if opcode == PONG)
        close = next((payload for opcode, payload in frames if opcode == CLOSE), None)
        return Outcome(status, pongs, close, output.statistics().received - before)

    async def drain(output: trio_wsout.Output) -> None:
        async for _ in output.received:
            pass

    async def main() -> None:
        nonlocal listener, output
        async with (
            open_listener() as listener,
            trio_wsout.open_output(config("server-input"), listeners=[listener]) as output,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain, output)
                for number in range(BATCHES * 8):
                    chance = random.Random(f"{seed}-{number}")
                    head, frames = mutant(chance)
                    outcomes = {
                        "in one": await outcome_of([head + frames], 0),
                        "in pieces": await outcome_of(sliced(head + frames, chance), 0),
                        "slowly": await outcome_of(sliced(head + frames, chance), 0.001),
                        "frames later": await outcome_of([head, frames], 0.001),
                        "frames later in pieces": await outcome_of([head, *sliced(frames, chance)], 0.001),
                    }
                    if len(set(outcomes.values())) > 1:
                        wrong.append(f"{head[-50:]!r} {frames[:200]!r}: {outcomes}")
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not wrong, f"FUZZ_SEED={seed}, {len(wrong)} times\n" + "\n".join(wrong[:5])
