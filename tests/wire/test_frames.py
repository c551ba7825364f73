"""Frames out are what a server reads; frames in are found however they are cut."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._wire.frames import (
    BINARY,
    PING,
    TEXT,
    masked_frame,
    masked_frames,
    plain_frame,
)
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, TextMessage


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


@given(st.binary(max_size=70_000), st.sampled_from([TEXT, BINARY]))
def test_a_plain_frame_is_what_wsproto_reads(payload: bytes, opcode: int) -> None:
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(plain_frame(payload, BINARY))
    got = b"".join(bytes(event.data) for event in reader.events() if isinstance(event, BytesMessage))
    assert got == payload
    assert plain_frame(payload, opcode)[0] == 0x80 | opcode
