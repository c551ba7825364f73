"""What is split comes to the same as what wsproto alone makes of the same bytes, however they are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._wire.frames import BINARY, CLOSE, MOST_FRAGMENTS, PING, PONG, TEXT, parse_close
from trio_wsout._wire.split import MOST_IN_RUN, Ping, Slow, Splitter
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as PingEvent
from wsproto.events import Pong as PongEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 100_000


@define
class Outcome:
    """What came of some bytes."""

    messages: list[str | bytes] = field(factory=list)
    answers: list[tuple[int, bytes]] = field(factory=list)
    """What was to be answered, each with how many messages came before it."""
    pongs: list[bytes] = field(factory=list)
    close: int | None = None
    """The code of the Close that came, or that a fault is answered with."""


@define
class Judge:
    """wsproto, and what trio_websocket makes of it."""

    masked: bool
    outcome: Outcome
    _websocket: Connection = field(init=False)
    _texts: list[str] = field(factory=list)
    _bytes: list[bytes] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._websocket = Connection(ConnectionType.SERVER if self.masked else ConnectionType.CLIENT)

    def take(self, data: bytes) -> int:
        """Judge the next bytes; gives how many messages end in them."""
        before = len(self.outcome.messages)
        if self.outcome.close is None:
            self._websocket.receive_data(data)
            for event in self._websocket.events():
                match event:
                    case TextMessage():
                        self._texts.append(event.data)
                        self._end(event.message_finished, "".join(self._texts))
                    case BytesMessage():
                        self._bytes.append(bytes(event.data))
                        self._end(event.message_finished, b"".join(self._bytes))
                    case PingEvent():
                        self.outcome.answers.append((len(self.outcome.messages), bytes(event.payload)))
                    case PongEvent():
                        self.outcome.pongs.append(bytes(event.payload))
                    case CloseConnection():
                        self.outcome.close = int(event.code)
                    case _:
                        pytest.fail(f"unexpected: {event}")
        return len(self.outcome.messages) - before

    def _end(self, ends: bool, message: str | bytes) -> None:
        if ends:
            self.outcome.messages.append(message)
            self._texts.clear()
            self._bytes.clear()


def judged(chunks: Sequence[bytes], *, masked: bool) -> Outcome:
    """What wsproto alone makes of the bytes."""
    judge = Judge(masked, Outcome())
    for chunk in chunks:
        judge.take(chunk)
    return judge.outcome


def split(chunks: Sequence[bytes], *, masked: bool, most: int = MOST) -> tuple[Outcome, Splitter]:
    """What the splitter and wsproto make of them together."""
    outcome, pongs = Outcome(), list[bytes]()
    judge, splitter = Judge(masked, outcome), Splitter(masked=masked, most=most)
    for chunk in chunks:
        lone = splitter.lone_pong(chunk) if chunk else None
        parts, more = ([], [lone]) if lone is not None else splitter.split(chunk)
        pongs += more
        for part in parts:
            if outcome.close is not None:
                break
            match part:
                case Ping():
                    outcome.answers.append((len(outcome.messages), part.payload))
                case Slow():
                    ended = judge.take(part.data)
                    assert ended <= 1
                    assert outcome.close is not None or ended == part.ends_message
                case _:
                    assert 0 < len(part) <= MOST_IN_RUN
                    outcome.messages += part
    assert outcome.pongs == [], "wsproto had a pong that could have been taken at once"
    outcome.pongs = pongs
    return outcome, splitter


def frame(
    first: int, payload: bytes, *, key: bytes | None, length: int = 0, claimed: int | None = None
) -> bytes:
    """A frame with any first byte, with a length in at least so many bytes, and one that need not be true."""
    size = len(payload) if claimed is None else claimed
    bit = 0 if key is None else 0x80
    if size < 126 and length == 0:
        head = bytes((first, bit | size))
    elif size < 65536 and length <= 2:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if key is None:
        return head + payload
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


@frozen
class Long:
    """A payload of so many pieces; its repr is short."""

    times: int
    piece: bytes = b"b"


@frozen
class Stream:
    """What one peer sends."""

    chunks: list[bytes] = field(repr=lambda chunks: f"{str(chunks)[:2000]}, {[*map(len, chunks)]}")
    masked: bool


KEYS = st.binary(min_size=4, max_size=4)
TEXTS = st.text(max_size=40).map(str.encode)
CLOSES = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.sampled_from([999, 1000, 1001, 1005, 1006, 1015, 3000, 4999, 5000]),
        st.one_of(TEXTS, st.binary(max_size=9)),
    ),
    st.binary(max_size=3),
)
PLAIN = st.tuples(st.sampled_from([0x80 | TEXT, 0x80 | BINARY]), TEXTS)
LAWFUL = st.one_of(
    PLAIN,
    PLAIN,
    st.tuples(st.sampled_from([TEXT, BINARY, 0, 0x80]), TEXTS),
    st.tuples(st.sampled_from([0x80 | PING, 0x80 | PONG]), st.binary(max_size=125)),
    st.tuples(st.just(0x80 | BINARY), st.sampled_from([125, 126, 1025, 70_000]).map(Long)),
    st.tuples(
        st.just(0x80 | TEXT), st.sampled_from([300, 30_000]).map(lambda times: Long(times, "€".encode()))
    ),
)
ANY = st.one_of(
    st.tuples(st.integers(0, 255), st.binary(max_size=130)),
    st.tuples(st.just(0x80 | CLOSE), CLOSES),
    st.tuples(st.sampled_from([TEXT, 0x80 | TEXT]), st.binary(max_size=20)),
)


@st.composite
def streams(draw: st.DrawFn, *, faults: bool) -> Stream:
    """Chunks of frames, and whether they are masked. Without faults every message is ended before the next."""
    masked = draw(st.booleans())
    pieces: list[bytes] = []
    is_open = False
    for first, drawn in draw(st.lists(st.one_of(LAWFUL, ANY) if faults else LAWFUL, max_size=12)):
        payload = drawn.piece * drawn.times if isinstance(drawn, Long) else drawn
        key = draw(KEYS) if masked else None
        begin = first
        if not faults and first & 0xF < CLOSE:
            begin = first & 0x80 if is_open else first | (0 if first & 0xF else BINARY)
            is_open = not first & 0x80
        length, claimed = 0, None
        if faults and draw(st.integers(0, 9)) == 0:
            length = draw(st.sampled_from([2, 8]))
        if faults and draw(st.integers(0, 19)) == 0:
            key = None if masked else draw(KEYS)
        if faults and draw(st.integers(0, 19)) == 0:
            claimed = draw(st.sampled_from([0, 200, 2**62, 2**63 + 5]))
        pieces.append(frame(begin, payload, key=key, length=length, claimed=claimed))
    blob = b"".join(pieces)
    if draw(st.booleans()):
        blob = blob[: draw(st.integers(0, len(blob)))]
    if len(blob) < 200 and draw(st.booleans()):
        return Stream([blob[at : at + 1] for at in range(len(blob))], masked)
    cuts = sorted(draw(st.lists(st.integers(0, len(blob)), max_size=8)))
    return Stream([blob[a:b] for a, b in zip([0, *cuts], [*cuts, len(blob)], strict=True)], masked)


@given(streams(faults=True))
def test_messages_answers_and_the_end_are_those_of_wsproto_alone(stream: Stream) -> None:
    chunks, masked = stream.chunks, stream.masked
    expected = judged(chunks, masked=masked)
    got, _ = split(chunks, masked=masked)
    pongs = got.pongs
    assert pongs[: len(expected.pongs)] == expected.pongs
    if expected.close is None:
        assert pongs == expected.pongs
    got.pongs = expected.pongs = []
    assert got == expected


@given(streams(faults=False))
def test_without_a_fault_nothing_fails(stream: Stream) -> None:
    chunks, masked = stream.chunks, stream.masked
    got, splitter = split(chunks, masked=masked)
    assert got == judged(chunks, masked=masked)
    assert not splitter.closed


@given(st.lists(PLAIN, min_size=1, max_size=600), st.booleans(), KEYS)
def test_whole_messages_never_come_to_wsproto(
    messages: list[tuple[int, bytes]], masked: bool, key: bytes
) -> None:
    blob = b"".join(frame(first, payload, key=key if masked else None) for first, payload in messages)
    for chunks in ([blob], [blob[at : at + 1000] for at in range(0, len(blob), 1000)]):
        splitter = Splitter(masked=masked, most=MOST)
        parts = [part for chunk in chunks for part in splitter.split(chunk)[0]]
        assert all(isinstance(part, list) for part in parts)
        got = [each for part in parts if isinstance(part, list) for each in part]
        assert got == [payload.decode() if first & 0xF == TEXT else payload for first, payload in messages]


def test_a_message_over_the_limit_and_one_that_comes_in_many_pieces_are_left_to_wsproto() -> None:
    blob = frame(0x82, bytes(1001), key=None)
    for chunks, most in (([blob], 1000), ([blob[:400], blob[400:800], blob[800:]], MOST)):
        splitter = Splitter(masked=False, most=most)
        parts = [part for chunk in chunks for part in splitter.split(chunk)[0]]
        assert all(isinstance(part, Slow) for part in parts)
        assert b"".join(part.data for part in parts if isinstance(part, Slow)) == blob
    assert split([blob[:400], blob[400:]], masked=False)[0].messages == [bytes(1001)]


def test_a_bad_text_is_passed_on_as_soon_as_it_is_bad() -> None:
    bad = frame(0x81, b"ok\xff" + bytes(50), key=b"abcd")
    got, _ = split([bad[:20]], masked=True)
    assert got.close == 1007


@given(st.integers(0, 4999), TEXTS, st.booleans(), KEYS)
def test_of_a_close_only_the_code_goes_on(code: int, reason: bytes, masked: bool, key: bytes) -> None:
    payload = code.to_bytes(2, "big") + reason[:123]
    splitter = Splitter(masked=masked, most=MOST)
    parts, _ = splitter.split(frame(0x88, payload, key=key if masked else None))
    (part,) = parts
    assert isinstance(part, Slow)
    assert part.close == payload
    assert splitter.closed
    outcome = Outcome()
    Judge(masked, outcome).take(part.data)
    if parse_close(payload) is not None:
        assert outcome.close == code
        assert len(part.data) == (8 if masked else 4)
    assert splitter.split(frame(0x81, b"more", key=key if masked else None)) == ([], [])


@pytest.mark.parametrize("masked", [True, False])
def test_a_message_in_too_many_frames_is_found_out(masked: bool) -> None:
    key = b"abcd" if masked else None
    begin, more = frame(0x01, b"x", key=key), frame(0x00, b"x", key=key)
    splitter = Splitter(masked=masked, most=MOST)
    parts, _ = splitter.split(begin + more * (MOST_FRAGMENTS - 1))
    assert not splitter.scattered
    assert len(parts) == MOST_FRAGMENTS
    parts, _ = splitter.split(more + frame(0x82, b"y", key=key))
    assert splitter.scattered
    assert len(parts) == 1


def test_a_pong_is_taken_out_of_the_middle_and_a_ping_keeps_its_place() -> None:
    one, two = frame(0x82, b"1", key=None), frame(0x81, b"2", key=None)
    splitter = Splitter(masked=False, most=MOST)
    parts, pongs = splitter.split(
        one + frame(0x8A, b"pong", key=None) + two + frame(0x89, b"ping", key=None) + one
    )
    assert pongs == [b"pong"]
    runs = [part for part in parts if isinstance(part, list)]
    assert [each for run in runs for each in run] == [b"1", "2", b"1"]
    assert parts[-2:] == [Ping(b"ping"), [b"1"]]


def test_a_long_run_is_cut_so_that_others_have_their_turn() -> None:
    parts, _ = Splitter(masked=False, most=MOST).split(frame(0x82, b"x", key=None) * (2 * MOST_IN_RUN + 1))
    assert [len(part) for part in parts if isinstance(part, list)] == [MOST_IN_RUN, MOST_IN_RUN, 1]


def test_a_header_with_a_fault_is_not_held_back_although_it_is_not_whole() -> None:
    for head in (b"\x83\xfe", b"\xc1\xfe", b"\x81\x7e", b"\x09\xfe", b"\x89\xfe", b"\x82\xfe\x00\x05"):
        splitter = Splitter(masked=True, most=MOST)
        assert splitter.split(head) == ([Slow(head, ends_message=False)], [])
        assert splitter.split(b"more") == ([Slow(b"more", ends_message=False)], [])
    for head in (b"\x81", b"\x81\xfe", b"\x82\xfe\x00\x7e", b"\x01\xfe", b"\x8a\x85ab"):
        assert Splitter(masked=True, most=MOST).split(head) == ([], [])
