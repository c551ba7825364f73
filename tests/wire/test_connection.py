"""Frames written without waiting: whole, in their order, by one writer at a time, and never to a closed socket."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._wire.connection import Connection, write_to_each
from trio_wsout._wire.decoder import Decoder
from trio_wsout._wire.frames import CLOSE, PING, PONG, masked_frame, plain_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.network

LARGE = bytes(range(256)) * 16_384
OVER = Disconnection(cause=Cause.LOCAL, detail="over")
CLOSING = plain_frame(b"\x03\xe8", CLOSE)


def connection_over(stream: trio.abc.Stream) -> Connection:
    return Connection(stream, Decoder(masked=True, most=1024), plain_frame)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Connection, trio.SocketStream, list[str]]]:
    """An open connection, the other side of its socket, and how often the writer was called."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    other = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    stream, calls = await listeners[0].accept(), list[str]()
    connection = connection_over(stream)
    connection.on_queued = lambda: calls.append("writer")
    try:
        yield connection, other, calls
    finally:
        for each in (stream, other, *listeners):
            await trio.aclose_forcefully(each)


async def read(stream: trio.SocketStream, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        chunk = await stream.receive_some(65536)
        assert chunk
        found += chunk
    return bytes(found)


async def test_what_the_system_takes_is_written_and_nobody_is_woken() -> None:
    async with opened() as (connection, other, calls):
        connection.write_nowait(b"one")
        connection.write_nowait(b"two")
        assert not connection.has_queued
        assert (connection.written_bytes, calls) == (6, [])
        assert await read(other, 6) == b"onetwo"


async def test_the_rest_of_what_did_not_fit_goes_before_all_else() -> None:
    async with opened() as (connection, other, calls):
        connection.write_nowait(LARGE)
        assert connection.has_queued
        assert calls == ["writer"]
        assert not connection.torn, "its rest can still be written"
        assert connection.free_fileno is None, "nothing lands in the middle of a frame"
        connection.ping_nowait(b"?")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.write, b"next")
            await wait_all_tasks_blocked()
            assert connection.free_fileno is None, "somebody is writing"
            whole = LARGE + plain_frame(b"?", PING) + b"next"
            assert await read(other, len(whole)) == whole
        assert not connection.has_queued
        assert connection.written_bytes == len(whole)
        connection.write_nowait(b"again")
        assert await read(other, 5) == b"again"


async def test_a_write_that_is_cancelled_in_the_middle_is_the_last() -> None:
    async with opened() as (connection, other, _):
        while not connection.has_queued:
            connection.write_nowait(LARGE)
        with trio.move_on_after(0.1):
            await connection.write(b"")
        assert connection.torn
        assert connection.free_fileno is None
        with pytest.raises(trio.BrokenResourceError):
            await connection.write(b"no")
        assert not await connection.aclose()
        del other


async def test_a_full_socket_takes_nothing_and_its_frames_stay_whole() -> None:
    async with opened() as (connection, other, _):
        sent = 0
        while not connection.has_queued:
            connection.write_nowait(b"12345678")
            sent += 8
        assert connection.disconnection is None
        assert connection.written_bytes == sent - 8, "the last one waits as a whole"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.write, b"")
            assert await read(other, sent) == b"12345678" * (sent // 8)
        assert connection.written_bytes == sent


async def test_a_close_is_the_last_that_is_written() -> None:
    async with opened() as (connection, other, calls), trio.open_nursery() as nursery:
        nursery.start_soon(connection.aclose)
        assert await read(other, len(CLOSING)) == CLOSING
        assert connection.free_fileno is None
        connection.ping_nowait(b"no")
        assert (connection.has_queued, calls) == (False, [])
        nursery.cancel_scope.cancel()


async def test_nothing_follows_a_close_that_had_to_wait_until_it_could_be_written() -> None:
    async with opened() as (connection, other, calls):
        connection.write_nowait(LARGE)
        connection.ping_nowait(b"before")
        calls.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            await wait_all_tasks_blocked()
            assert connection.torn, "the write of the Close waits for room"
            connection.ping_nowait(b"no")
            assert calls == [], "nobody is called for what is not to be said"
            assert connection.free_fileno is None
            whole = LARGE + plain_frame(b"before", PING) + CLOSING
            assert await read(other, len(whole)) == whole
            connection.ping_nowait(b"no")
            assert not connection.has_queued
            connection.end(Disconnection(cause=Cause.CLOSED, detail="over"))
        await connection.farewell()
        await connection.cut()
        assert await other.receive_some(100) == b""


async def test_a_peer_that_is_gone_ends_the_connection_and_raises_nothing() -> None:
    async with opened() as (connection, other, _):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(other)
        with trio.fail_after(120):
            while connection.disconnection is None:
                connection.write_nowait(b"x")
                await trio.sleep(0.001)
        assert connection.disconnection.cause is Cause.LOST
        assert connection.free_fileno is None


async def test_nothing_is_written_once_the_connection_is_over_or_its_socket_closed() -> None:
    async with opened() as (connection, _, _):
        connection.end(OVER)
        connection.ping_nowait(b"no")
        assert connection.free_fileno is None
        assert connection.written_bytes == 0
    async with opened() as (connection, _, _):
        await trio.aclose_forcefully(connection.stream)
        assert connection.free_fileno is None
        connection.ping_nowait(b"no")
        assert connection.written_bytes == 0, "its number may be another socket's now"
        assert connection.disconnection is not None


async def test_a_stream_that_can_t_is_written_to_by_its_task() -> None:
    one, _ = memory_stream_pair()
    connection = connection_over(one)
    assert connection.free_fileno is None
    connection.ping_nowait(b"?")
    assert connection.has_queued


async def test_many_are_written_the_same_and_who_takes_less_is_named() -> None:
    async with opened() as (first, one, _), opened() as (full, _, _), opened() as (part, three, _):
        async with opened() as (gone, four, _):
            four.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            await trio.aclose_forcefully(four)
            numbers = {
                name: connection.free_fileno
                for name, connection in {"one": first, "full": full, "gone": gone}.items()
            }
            assert None not in numbers.values()
            while not full.has_queued:
                full.write_nowait(b"12345678")
            with trio.fail_after(120):
                short = write_to_each(numbers, b"abc")
                # The system may make some more room for the full one: then that is filled again, by large pieces.
                while not (isinstance(short.get("gone"), OSError) and short.get("full") == 0):
                    await trio.sleep(0.001)
                    for piece in (LARGE, b"x"):
                        with suppress(BlockingIOError):
                            while os.write(numbers["full"], piece):
                                pass
                    short = write_to_each(numbers, b"abc")
            assert short.keys() == {"full", "gone"}
            gone.wrote_part(b"abc", short["gone"])
            assert gone.disconnection is not None
        assert await read(one, 3) == b"abc"
        taken = write_to_each({"part": part.free_fileno}, LARGE)["part"]
        assert 0 < taken < len(LARGE)
        part.wrote(len(LARGE))
        part.wrote_part(LARGE, taken)
        assert part.written_bytes == taken
        assert part.free_fileno is None, "its writer has the rest"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part.write, b"next")
            assert await read(three, len(LARGE) + 4) == LARGE + b"next"
        assert part.written_bytes == len(LARGE) + 4
        assert part.free_fileno is not None


async def test_nobody_writes_to_a_connection_that_has_something_to_write_first() -> None:
    async with opened() as (connection, other, calls), trio.open_nursery() as nursery:
        assert connection.free_fileno == connection.stream.socket.fileno()
        nursery.start_soon(connection.receive_many)
        await other.send_all(masked_frame(b"?", PING))
        with trio.fail_after(120):
            while not calls:
                await trio.sleep(0.001)
        assert connection.free_fileno is None
        await connection.write(b"")
        assert await read(other, 3) == plain_frame(b"?", PONG)
        assert connection.free_fileno is not None
        nursery.cancel_scope.cancel()
