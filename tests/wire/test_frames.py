"""Frames out are what a server reads; frames in are found however they are cut."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._wire.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameScanner,
    masked_frame,
    masked_frames,
    parse_close,
    plain_frame,
)
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage


def read_by_a_server(blob: bytes) -> list[object]:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(blob)
    return list(server.events())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1024, 1025, 1026, 1027, 65535, 65536, 1 << 20])
def test_a_server_reads_what_was_framed(size: int) -> None:
    payload = os.urandom(size)
    events = read_by_a_server(masked_frame(payload, BINARY))
    assert all(isinstance(event, BytesMessage) for event in events)
    assert b"".join(bytes(event.data) for event in events) == payload  # type: ignore[attr-defined]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_many_messages_are_one_blob(payloads: list[bytes]) -> None:
    blob = b"".join(masked_frames(payloads, BINARY)) + masked_frame(b"p", PING)
    *messages, ping = read_by_a_server(blob)
    assert [bytes(event.data) for event in messages if isinstance(event, BytesMessage) and event.data] == [
        payload for payload in payloads if payload
    ]
    assert isinstance(ping, Ping)
    assert ping.payload == b"p"


def test_text_is_text() -> None:
    (event,) = read_by_a_server(masked_frame("é".encode(), TEXT))
    assert isinstance(event, TextMessage)
    assert event.data == "é"


def test_every_frame_has_a_mask_of_its_own() -> None:
    blob = b"".join(masked_frames([bytes(8)] * 100, BINARY))
    keys = {blob[at + 2 : at + 6] for at in range(0, len(blob), 14)}
    assert len(keys) > 90


def frame(opcode: int, payload: bytes, *, masked: bool, fin: bool = True) -> bytes:
    if masked and fin:
        return masked_frame(payload, opcode)
    length = len(payload)
    head = bytes((0x80 * fin | opcode,))
    if length < 126:
        return head + bytes((length,)) + payload
    if length < 65536:
        return head + b"\x7e" + length.to_bytes(2, "big") + payload
    return head + b"\x7f" + length.to_bytes(8, "big") + payload


FRAMES = st.one_of(
    st.tuples(st.just(PONG), st.binary(max_size=125)),
    st.tuples(st.just(CLOSE), st.binary(max_size=125)),
    st.tuples(st.just(PING), st.binary(max_size=125)),
    st.tuples(st.sampled_from([TEXT, BINARY, 0]), st.binary(max_size=300)),
    st.tuples(st.just(BINARY), st.sampled_from([bytes(70_000), bytes(126)])),
)


@given(st.lists(FRAMES, max_size=8), st.booleans(), st.data())
def test_pongs_and_closes_are_found_however_the_bytes_are_cut(
    frames: list[tuple[int, bytes]], masked: bool, data: st.DataObject
) -> None:
    blob = b"".join(frame(opcode, payload, masked=masked, fin=opcode != 0) for opcode, payload in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(blob)), max_size=6)))
    scanner = FrameScanner()
    seen = []
    for start, end in zip([0, *cuts], [*cuts, len(blob)], strict=True):
        seen += scanner.feed(blob[start:end])
    assert seen == [each for each in frames if each[0] in (PONG, CLOSE)]
    assert scanner.frames == len(frames)


def test_single_bytes_are_enough() -> None:
    blob = frame(PONG, b"hello", masked=False) + frame(PONG, b"", masked=True)
    scanner = FrameScanner()
    seen = [found for byte in blob for found in scanner.feed(bytes((byte,)))]
    assert seen == [(PONG, b"hello"), (PONG, b"")]


@given(st.lists(st.binary(max_size=40)))
def test_junk_never_fails(pieces: list[bytes]) -> None:
    scanner = FrameScanner()
    for piece in pieces:
        for opcode, payload in scanner.feed(piece):
            assert opcode in (PONG, CLOSE)
            assert len(payload) <= 125


@given(st.binary(max_size=125), st.booleans())
def test_a_pong_alone_is_known_at_once(payload: bytes, masked: bool) -> None:
    frame = masked_frame(payload, PONG) if masked else plain_frame(payload, PONG)
    scanner = FrameScanner()
    assert scanner.lone_pong(frame, masked=masked) == payload
    assert scanner.frames == 1
    other = plain_frame(payload, PONG) if masked else masked_frame(payload, PONG)
    assert scanner.lone_pong(other, masked=masked) is None


@given(st.binary(max_size=125), st.booleans(), st.data())
def test_other_bytes_are_no_pong_alone(payload: bytes, masked: bool, data: st.DataObject) -> None:
    make = masked_frame if masked else plain_frame
    frame = make(payload, PONG)
    scanner = FrameScanner()
    for other in (
        make(payload, PING),
        frame + b"\x8a",
        frame[: data.draw(st.integers(1, len(frame) - 1))],
        make(payload + b"x" * 126, PONG),
    ):
        assert scanner.lone_pong(other, masked=masked) is None
    scanner.feed(make(b"half", TEXT)[:-1])
    assert scanner.lone_pong(frame, masked=masked) is None  # these bytes belong to the text


@given(st.binary(max_size=70_000), st.sampled_from([TEXT, BINARY]))
def test_a_plain_frame_is_what_wsproto_reads(payload: bytes, opcode: int) -> None:
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(plain_frame(payload, BINARY))
    got = b"".join(bytes(event.data) for event in reader.events() if isinstance(event, BytesMessage))
    assert got == payload
    assert plain_frame(payload, opcode)[0] == 0x80 | opcode


@given(st.binary(max_size=125))
def test_a_close_is_valid_where_wsproto_says_so(payload: bytes) -> None:
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(plain_frame(payload, CLOSE))
    (event,) = reader.events()
    assert isinstance(event, CloseConnection)
    valid = reader.state is ConnectionState.REMOTE_CLOSING
    assert (parse_close(payload) is not None) == valid
    if valid:
        assert parse_close(payload) == (event.code, event.reason or "")


@pytest.mark.parametrize(
    ("payload", "close"),
    [
        (b"", (1005, "")),
        (b"\x03", None),
        (b"\x03\xe8", (1000, "")),
        (b"\x03\xe8ok", (1000, "ok")),
        (b"\x03\xe8\xff", None),
        (b"\x03\xed", None),
        (b"\x0b\xb8", (3000, "")),
        (b"\x13\x87", (4999, "")),
        (b"\x13\x88", None),
        (b"\x00\x00", None),
    ],
)
def test_closes_are_judged(payload: bytes, close: tuple[int, str] | None) -> None:
    assert parse_close(payload) == close
