"""What the decoder makes of a peer's bytes is what wsproto makes of them, however they are cut."""

from __future__ import annotations

import os
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio_wsout._wire.decoder import (
    LONGEST_RUN,
    MOST_FRAGMENTS,
    Close,
    Decoder,
    Ping,
    Violation,
    parse_close,
)
from trio_wsout._wire.frames import BINARY, CLOSE, PING, PONG, TEXT, masked_frame, plain_frame
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as PingEvent
from wsproto.events import Pong as PongEvent
from wsproto.extensions import PerMessageDeflate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
STREAMS = 100_000 if DEEP else 3_000
MOST = 100_000
NO_LIMIT = 2**63
KEYS = st.binary(min_size=4, max_size=4)
TEXTS = st.text(max_size=40).map(str.encode)
CLOSES = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.sampled_from([999, 1000, 1001, 1004, 1005, 1006, 1013, 1014, 1015, 2999, 3000, 4999, 5000]),
        st.one_of(TEXTS, st.binary(max_size=9)),
    ),
    st.binary(max_size=3),
)


# -- streams ------------------------------------------------------------------------------------------------


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

    @property
    def blob(self) -> bytes:
        return b"".join(self.chunks)


WHOLE = st.tuples(st.sampled_from([0x80 | TEXT, 0x80 | BINARY]), TEXTS)
LAWFUL = st.one_of(
    WHOLE,
    WHOLE,
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


def frames(first: int, payload: bytes, *, masked: bool) -> bytes:
    return frame(first, payload, key=b"kEy!" if masked else None)


def cut(blob: bytes, draw: st.DrawFn) -> list[bytes]:
    """The bytes in pieces: sometimes single bytes."""
    if len(blob) < 200 and draw(st.booleans()):
        return single_bytes(blob)
    marks = sorted(draw(st.lists(st.integers(0, len(blob)), max_size=8)))
    return [blob[a:b] for a, b in pairwise([0, *marks, len(blob)])]


def single_bytes(blob: bytes) -> list[bytes]:
    return [blob[at : at + 1] for at in range(len(blob))]


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
        orderly = not faults or draw(st.integers(0, 3)) > 0
        if orderly and first & 0xF < CLOSE and first & 0x70 == 0:
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
    return Stream(cut(blob, draw), masked)


# -- outcomes -----------------------------------------------------------------------------------------------


@define
class Outcome:
    """What came of some bytes."""

    messages: list[str | bytes] = field(factory=list)
    pings: list[tuple[int, bytes]] = field(factory=list)
    """Each with how many messages came before it."""
    pongs: list[bytes] = field(factory=list)
    close: tuple[int, str] | None = None
    """Code and reason of the Close that came."""
    violation: int | None = None
    """The code that a violation is answered with."""

    @property
    def over(self) -> bool:
        return self.close is not None or self.violation is not None


@define
class Judge:
    """wsproto, and what came of what it was given."""

    outcome: Outcome = field(factory=Outcome)
    _text: str = ""
    _binary: bytes = b""

    def take(self, event: object, *, valid: bool) -> None:
        """Take an event; `valid` says whether a Close is the peer's, and not for its violation."""
        outcome = self.outcome
        match event:
            case TextMessage(data=data, message_finished=whole):
                self._text += data
                if whole:
                    outcome.messages.append(self._text)
                    self._text = ""
            case BytesMessage(data=data, message_finished=whole):
                self._binary += data
                if whole:
                    outcome.messages.append(self._binary)
                    self._binary = b""
            case PingEvent(payload=payload):
                outcome.pings.append((len(outcome.messages), bytes(payload)))
            case PongEvent(payload=payload):
                outcome.pongs.append(bytes(payload))
            case CloseConnection(code=code, reason=reason) if valid:
                outcome.close = int(code), reason or ""
            case CloseConnection(code=code):
                outcome.violation = int(code)
            case _:
                pytest.fail(f"unexpected: {event}")


def judged(chunks: Sequence[bytes], *, masked: bool, compressed: bool = False) -> Outcome:
    """What wsproto makes of the bytes."""
    judge = Judge()
    deflate = PerMessageDeflate(server_no_context_takeover=True, client_no_context_takeover=True)
    deflate.accept("permessage-deflate")
    side = ConnectionType.SERVER if masked else ConnectionType.CLIENT
    websocket = Connection(side, extensions=[deflate] if compressed else [])
    for chunk in chunks:
        if judge.outcome.over:
            break
        websocket.receive_data(chunk)
        for event in websocket.events():
            judge.take(event, valid=websocket.state is ConnectionState.REMOTE_CLOSING)
    return judge.outcome


def decoded(
    chunks: Sequence[bytes],
    *,
    masked: bool,
    most: int = NO_LIMIT,
    inflate: Callable[[bytes], bytes | Violation] | None = None,
) -> Outcome:
    """What the decoder makes of them. Each chunk is tried as a lone pong first, as a connection does."""
    outcome, decoder = Outcome(), Decoder(masked=masked, most=most, inflate=inflate)
    for chunk in chunks:
        pong = decoder.lone_pong(chunk)
        if pong is not None:
            outcome.pongs.append(pong)
            continue
        parts, pongs = decoder.feed(chunk)
        outcome.pongs += pongs
        for part in parts:
            assert not outcome.over, "something follows the end"
            match part:
                case Ping():
                    outcome.pings.append((len(outcome.messages), part.payload))
                case Close():
                    outcome.close = part.code, part.reason
                case Violation():
                    assert 0 < len(part.words.encode()) <= 123, "the reason of a Close"
                    outcome.violation = part.code
                case _:
                    assert 0 < len(part) <= LONGEST_RUN
                    outcome.messages += part
        assert decoder.over == outcome.over
    return outcome


FILLING = bytes(15)
"""Makes every header whole, and begins its payload."""


def assert_same(stream: Stream, got: Outcome, judge: Callable[[Sequence[bytes]], Outcome]) -> None:
    """An outcome is wsproto's, but that a fault of a header may be found before wsproto has looked at all of it."""
    expected = judge(stream.chunks)
    if got.violation == 1002 and not expected.over:
        assert judge([*stream.chunks, FILLING]).violation == 1002
        expected = evolve(expected, violation=1002)
    assert got == expected


# -- laws ---------------------------------------------------------------------------------------------------


@settings(max_examples=STREAMS)
@given(streams(faults=True))
def test_messages_pings_pongs_and_the_end_are_those_of_wsproto(stream: Stream) -> None:
    got = decoded(stream.chunks, masked=stream.masked)
    assert_same(stream, got, lambda chunks: judged(chunks, masked=stream.masked))


@given(streams(faults=False))
def test_without_a_fault_nothing_fails(stream: Stream) -> None:
    got = decoded(stream.chunks, masked=stream.masked)
    assert got == judged(stream.chunks, masked=stream.masked)
    assert not got.over


@given(streams(faults=True), st.integers(0, 300))
def test_the_outcome_does_not_depend_on_how_the_bytes_are_cut(stream: Stream, most: int) -> None:
    whole = decoded([stream.blob], masked=stream.masked, most=most)
    assert decoded(stream.chunks, masked=stream.masked, most=most) == whole
    if len(stream.blob) < 5000:
        assert decoded(single_bytes(stream.blob), masked=stream.masked, most=most) == whole


@given(st.lists(st.binary(max_size=60)), st.booleans(), st.booleans())
def test_whatever_comes_nothing_is_raised(chunks: list[bytes], masked: bool, compressed: bool) -> None:
    inflate = Inflater(1000) if compressed else None
    got = decoded(chunks, masked=masked, most=1000, inflate=inflate)
    assert got.violation in (None, 1002, 1007, 1009)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.booleans()), max_size=20), st.integers(0, 100)
)
def test_a_message_may_have_so_many_bytes_and_no_more(drawn: list[tuple[bool, int, bool]], most: int) -> None:
    """The violation comes with the header by which the message becomes too large."""
    blob, size, begun = b"", 0, False
    expected: list[int] = []
    for masked_text, length, ends in drawn:
        first = (0 if begun else TEXT if masked_text else BINARY) | (0x80 if ends else 0)
        blob += frame(first, b"x" * length, key=b"abcd")
        size, begun = size + length, not ends
        if size > most:
            got = decoded([blob[: len(blob) - length]], masked=True, most=most)
            assert got.violation == 1009
            break
        if ends:
            expected.append(size)
            size = 0
    else:
        got = decoded([blob], masked=True, most=most)
        assert not got.over
    assert [len(each) for each in got.messages] == expected


# -- compression --------------------------------------------------------------------------------------------


@frozen
class Inflater:
    """Stands in for an extension: RFC 7692 without context takeover."""

    most: int

    def __call__(self, payload: bytes) -> bytes | Violation:
        inflater = zlib.decompressobj(-15)
        try:
            found = inflater.decompress(payload + b"\x00\x00\xff\xff", self.most + 1)
        except zlib.error:
            return Violation(1007, "a message that can't be inflated")
        return (
            found if len(found) <= self.most else Violation(1009, "a message of more than max-message-size")
        )


def deflated(payload: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


@st.composite
def compressed_streams(draw: st.DrawFn) -> Stream:
    """Messages, some of them compressed, in fragments, with pings between them."""
    masked = draw(st.booleans())
    pieces: list[bytes] = []
    for text, compresses in draw(st.lists(st.tuples(st.text(max_size=200), st.booleans()), max_size=6)):
        payload = deflated(text.encode()) if compresses else text.encode()
        marks = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        ends = [0, *marks, len(payload)]
        for number, (start, stop) in enumerate(pairwise(ends)):
            first = (TEXT | (0x40 if compresses else 0)) if number == 0 else 0
            first |= 0x80 if number == len(marks) else 0
            pieces.append(frames(first, payload[start:stop], masked=masked))
            # wsproto's extension takes a control frame inside of a compressed message for its end.
            if draw(st.booleans()) and (number == len(marks) or not compresses):
                pieces.append(frames(0x80 | PING, b"?", masked=masked))
    return Stream(cut(b"".join(pieces), draw), masked)


@given(compressed_streams())
def test_with_compression_messages_are_those_of_wsproto_with_its_extension(stream: Stream) -> None:
    got = decoded(stream.chunks, masked=stream.masked, inflate=Inflater(MOST))
    assert got == judged(stream.chunks, masked=stream.masked, compressed=True)
    assert not got.over


@pytest.mark.parametrize(
    ("first", "violation"),
    [
        (0xC1, None),
        (0xC2, None),
        (0xE1, 1002),
        (0xD1, 1002),
        (0xA1, 1002),
        (0xC9, 1002),
        (0xC8, 1002),
        (0xC0, 1002),
    ],
)
def test_rsv1_marks_only_the_first_frame_of_a_message(first: int, violation: int | None) -> None:
    blob = frames(first, deflated(b"hello"), masked=True)
    got = decoded([blob], masked=True, inflate=Inflater(MOST))
    assert got.violation == violation
    assert len(got.messages) == (violation is None)
    assert decoded([blob], masked=True).violation == 1002
    rest = frames(0x01, b"a", masked=True) + frames(0xC0, b"b", masked=True)
    assert decoded([rest], masked=True, inflate=Inflater(MOST)).violation == 1002


def test_an_inflated_message_is_held_to_the_limit_and_a_text_to_utf_8() -> None:
    inflate = Inflater(1000)
    for payload, violation in ((b"x" * 1000, None), (b"x" * 1001, 1009), (b"\xff", 1007)):
        blob = frames(0xC1, deflated(payload), masked=False)
        assert decoded([blob], masked=False, inflate=inflate).violation == violation
    assert decoded([frames(0xC2, b"\x07", masked=False)], masked=False, inflate=inflate).violation == 1007
    bad_before_it_is_inflated = frames(0x41, b"\xff\xff", masked=False)
    assert not decoded([bad_before_it_is_inflated], masked=False, inflate=inflate).over


# -- examples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames_in", "violation"),
    [
        (b"\x83\x80abcd", "a frame with the unknown opcode 3"),
        (b"\x91\x80abcd", "a reserved bit, for which no extension was agreed on"),
        (b"\x81\x00", "a frame without a mask"),
        (b"\x09\x80abcd", "a control frame in fragments"),
        (b"\x89\xfe", "a control frame of more than 125 bytes"),
        (b"\x80\x80abcd", "a continuation of no message"),
        (b"\x01\x80abcd\x81\x80", "a new message inside of another"),
        (b"\x82\xfe\x00\x05", "a length that is not in its shortest form"),
        (b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff", "a length that is not in its shortest form"),
        (b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00", "a length that is not in its shortest form"),
        (b"\x88\x81\x00\x00\x00\x00\x03", "a Close with half a code"),
        (b"\x88\x82\x00\x00\x00\x00\x03\xed", "a Close with the code 1005"),
        (b"\x88\x83\x00\x00\x00\x00\x03\xe8\xff", "a Close whose reason is not UTF-8"),
        (b"\x81\x81\x00\x00\x00\x00\xff", "a text that is not UTF-8"),
        (b"\x01\x84\x00\x00\x00\x00ok\xff", "a text that is not UTF-8"),
        (b"\x81\xfe\x03\xe9", "a message of more than max-message-size"),
    ],
)
def test_what_is_wrong_is_said_in_words(frames_in: bytes, violation: str) -> None:
    for chunks in ([frames_in + bytes(20)], single_bytes(frames_in + bytes(20))):
        decoder = Decoder(masked=True, most=1000)
        parts = [part for chunk in chunks for part in decoder.feed(chunk)[0]]
        assert [part.words for part in parts if isinstance(part, Violation)] == [violation]
        assert decoder.over
        assert decoder.feed(b"more") == ([], [])


def test_a_frame_from_a_server_has_no_mask() -> None:
    (violation,) = Decoder(masked=False, most=10).feed(b"\x81\x81abcdx")[0]
    assert violation == Violation(1002, "a frame with a mask")


@pytest.mark.parametrize("masked", [True, False])
def test_a_message_has_so_many_frames_at_most(masked: bool) -> None:
    begin, more = frames(0x01, b"x", masked=masked), frames(0x00, b"x", masked=masked)
    end = frames(0x80, b"", masked=masked)
    longest = begin + more * (MOST_FRAGMENTS - 2) + frames(0x89, b"", masked=masked) + end
    assert decoded([longest + longest], masked=masked).messages == ["x" * (MOST_FRAGMENTS - 1)] * 2
    got = decoded([begin + more * (MOST_FRAGMENTS - 1) + end], masked=masked)
    assert (got.messages, got.violation) == ([], 1009)


def test_a_pong_does_not_wait_for_the_messages_in_front_of_it_and_a_ping_does() -> None:
    one, two = frames(0x82, b"1", masked=False), frames(0x81, b"2", masked=False)
    decoder = Decoder(masked=False, most=MOST)
    pong, ping = frames(0x8A, b"pong", masked=False), frames(0x89, b"ping", masked=False)
    parts, pongs = decoder.feed(one + pong + two + ping + one)
    assert pongs == [b"pong"]
    assert parts == [[b"1", "2"], Ping(b"ping"), [b"1"]]


def test_a_message_in_pieces_stands_in_one_run_with_those_around_it() -> None:
    whole, cut_first, cut_rest = frames(0x82, b"1", masked=False), b"\x01\x01a", b"\x80\x02bc"
    decoder = Decoder(masked=False, most=MOST)
    assert decoder.feed(whole + cut_first + cut_rest[:3])[0] == [[b"1"]]
    assert decoder.feed(cut_rest[3:] + whole * LONGEST_RUN)[0] == [
        ["abc", *[b"1"] * (LONGEST_RUN - 1)],
        [b"1"],
    ]
    full = whole * LONGEST_RUN + cut_first + cut_rest
    assert decoder.feed(full)[0] == [[b"1"] * LONGEST_RUN, ["abc"]]


def test_a_long_run_is_cut_so_that_other_tasks_run() -> None:
    parts, _ = Decoder(masked=False, most=MOST).feed(frames(0x82, b"x", masked=False) * (2 * LONGEST_RUN + 1))
    assert [len(part) for part in parts if isinstance(part, list)] == [LONGEST_RUN, LONGEST_RUN, 1]


@given(st.binary(max_size=125), st.booleans())
def test_a_lone_pong_is_known_at_once(payload: bytes, masked: bool) -> None:
    make, other = (masked_frame, plain_frame) if masked else (plain_frame, masked_frame)
    decoder = Decoder(masked=masked, most=MOST)
    assert decoder.lone_pong(make(payload, PONG)) == payload
    assert decoder.lone_pong(other(payload, PONG)) is None
    decoder.feed(b"\x01\x85abcdx" if masked else b"\x01\x05x")
    assert decoder.lone_pong(make(payload, PONG)) is None, "these bytes belong to the text"
    decoder.feed(b"xxxx")
    assert decoder.lone_pong(make(payload, PONG)) == payload, "a pong may stand inside of a message"
    decoder.feed(b"\x8a")
    assert decoder.lone_pong(make(payload, PONG)) is None


@given(st.binary(max_size=125), st.booleans(), st.data())
@example(b"", False, None)
def test_other_bytes_are_no_lone_pong(payload: bytes, masked: bool, data: st.DataObject | None) -> None:
    make = masked_frame if masked else plain_frame
    pong = make(payload, PONG)
    decoder = Decoder(masked=masked, most=MOST)
    part = 1 if data is None else data.draw(st.integers(0, len(pong) - 1))
    for other in (make(payload, PING), pong + b"\x8a", pong[:part], make(payload + b"x" * 126, PONG)):
        assert decoder.lone_pong(other) is None


@given(st.binary(max_size=125))
def test_a_close_is_valid_where_wsproto_says_so(payload: bytes) -> None:
    expected = judged([plain_frame(payload, CLOSE)], masked=False)
    part = parse_close(payload)
    if isinstance(part, Close):
        assert (part.code, part.reason) == expected.close
    else:
        assert part.code == expected.violation


def test_every_close_code_is_valid_where_wsproto_says_so() -> None:
    for code in range(6000):
        payload = code.to_bytes(2, "big")
        expected = judged([plain_frame(payload, CLOSE)], masked=False)
        assert isinstance(parse_close(payload), Close) == (expected.close is not None), code


def test_what_a_peer_said_is_in_no_repr() -> None:
    assert "secret" not in repr(parse_close(b"\x03\xe8secret"))
    assert "secret" not in repr(Ping(b"secret"))
