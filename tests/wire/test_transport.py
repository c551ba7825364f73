"""Frames written without waiting: whole, in their order, by one writer at a time, and never to a closed socket."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._wire.transport import Transport, write_to_each

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.network

LARGE = bytes(range(256)) * 16_384


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Transport, trio.SocketStream, list[str]]]:
    """The transport of an open connection, the other side of its socket, and how often the writer was called."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    other = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    stream, calls = await listeners[0].accept(), list[str]()
    transport = Transport(stream)
    transport.on_queued = lambda: calls.append("writer")
    try:
        yield transport, other, calls
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
    async with opened() as (transport, other, calls):
        assert transport.write_nowait(b"one")
        assert transport.write_nowait(b"two")
        assert not transport.has_queued
        assert calls == []
        assert await read(other, 6) == b"onetwo"


async def test_the_rest_of_what_did_not_fit_goes_before_all_else() -> None:
    async with opened() as (transport, other, calls):
        assert transport.write_nowait(LARGE)
        assert transport.has_queued
        assert calls == ["writer"]
        assert not transport.torn, "its rest can still be written"
        assert not transport.write_nowait(b"no"), "nothing lands in the middle of a frame"
        transport.queue(b"ping")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.write, b"next")
            await trio.testing.wait_all_tasks_blocked()
            assert not transport.write_nowait(b"no"), "somebody is writing"
            whole = LARGE + b"pingnext"
            assert await read(other, len(whole)) == whole
        assert not transport.has_queued
        assert transport.write_nowait(b"again")
        assert await read(other, 5) == b"again"


async def test_where_there_is_no_room_at_all_nothing_is_taken() -> None:
    async with opened() as (transport, other, _):
        while transport.write_nowait(LARGE):
            await trio.lowlevel.checkpoint()
            if transport.has_queued:
                with trio.move_on_after(0.1):
                    await transport.write(b"")
                break
        assert transport.torn, "a write that was cancelled in the middle"
        assert not transport.write_nowait(b"no")
        del other


async def test_a_full_socket_takes_nothing_and_its_frames_stay_whole() -> None:
    async with opened() as (transport, other, _):
        sent = 0
        while transport.write_nowait(b"12345678"):
            sent += 8
        assert not transport.has_queued
        assert transport.disconnection is None
        assert await read(other, sent) == b"12345678" * (sent // 8)


async def test_a_close_is_the_last_that_is_written() -> None:
    async with opened() as (transport, other, _):
        await transport.write_last(b"close")
        assert not transport.write_nowait(b"no")
        assert await read(other, 5) == b"close"


async def test_nothing_follows_a_close_that_had_to_wait_until_it_could_be_written() -> None:
    async with opened() as (transport, other, calls):
        assert transport.write_nowait(LARGE)
        transport.queue(b"before")
        calls.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.write_last, b"close")
            await trio.testing.wait_all_tasks_blocked()
            assert transport.torn, "the write of the Close waits for room"
            transport.queue(b"pong")
            assert calls == [], "nobody is called for what is not to be said"
            assert transport.free_fileno is None
            assert not transport.write_nowait(b"no")
            whole = LARGE + b"beforeclose"
            assert await read(other, len(whole)) == whole
        transport.queue(b"pong")
        assert not transport.has_queued
        assert not transport.write_nowait(b"no")
        await transport.write_farewell(b"")
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(transport.stream)
        assert await other.receive_some(100) == b""


async def test_a_peer_that_is_gone_ends_the_connection_and_raises_nothing() -> None:
    async with opened() as (transport, other, _):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(other)
        with trio.fail_after(120):
            while transport.write_nowait(b"x"):
                await trio.sleep(0.001)
        assert transport.disconnection is not None
        assert transport.disconnection.cause is Cause.LOST
        assert not transport.write_nowait(b"x")


async def test_nothing_is_written_once_the_connection_is_over_or_its_socket_closed() -> None:
    async with opened() as (transport, _, _):
        transport.fail(Disconnection(cause=Cause.LOCAL, detail="over"))
        assert not transport.write_nowait(b"x")
    async with opened() as (transport, _, _):
        await trio.aclose_forcefully(transport.stream)
        assert not transport.write_nowait(b"x"), "its number may be another socket's now"
        assert transport.disconnection is not None


async def test_a_stream_that_can_t_is_written_to_by_its_task() -> None:
    one, _ = memory_stream_pair()
    transport = Transport(one)
    assert not transport.write_nowait(b"x")
    assert transport.free_fileno is None


async def test_many_are_written_the_same_and_who_takes_less_is_named() -> None:
    async with opened() as (first, one, _), opened() as (full, _, _), opened() as (part, three, _):
        async with opened() as (gone, four, _):
            four.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            await trio.aclose_forcefully(four)
            while full.write_nowait(b"12345678"):
                pass
            numbers = {
                name: transport.free_fileno
                for name, transport in {"one": first, "full": full, "gone": gone}.items()
            }
            assert None not in numbers.values()
            with trio.fail_after(120):
                while not isinstance((short := write_to_each(numbers, b"abc")).get("gone"), OSError):
                    await trio.sleep(0.001)
            assert short.keys() == {"full", "gone"}
            assert short["full"] == 0
        assert await read(one, 3) == b"abc"
        taken = write_to_each({"part": part.free_fileno}, LARGE)["part"]
        assert 0 < taken < len(LARGE)
        part.written_bytes += len(LARGE)
        part.keep_rest(LARGE, taken)
        assert part.written_bytes == taken
        assert part.free_fileno is None, "its writer has the rest"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part.write, b"next")
            assert await read(three, len(LARGE) + 4) == LARGE + b"next"
        assert part.written_bytes == len(LARGE) + 4
        assert part.free_fileno is not None


async def test_nobody_writes_to_a_connection_that_is_over_or_has_something_to_write_first() -> None:
    async with opened() as (transport, _, _):
        assert transport.free_fileno == transport.stream.socket.fileno()
        transport.queue(b"pong")
        assert transport.free_fileno is None
        await transport.write(b"")
        assert transport.free_fileno is not None
        transport.fail(Disconnection(cause=Cause.LOCAL, detail="over"))
        assert transport.free_fileno is None
    async with opened() as (transport, _, _):
        await trio.aclose_forcefully(transport.stream)
        assert transport.free_fileno is None
