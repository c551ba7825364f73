"""A cursor in Valkey: who owns it, what an engine that is away means, and two jobs that share a state id."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
import trio
import valkey_server
from trio_wsout.config import Cursor
from trio_wsout.errors import CursorError
from trio_wsout.stores.cursor import AwayError, StoredCursor
from trio_wsout.stores.from_config import open_cursor_store
from valkey_server import ask

if TYPE_CHECKING:
    from trio_wsout.stores.cursor_redis import RedisCursorStore


def job(state_id: str, socket: object = None) -> RedisCursorStore:
    from trio_wsout.config.redis_url import parse_redis_url
    from trio_wsout.stores.cursor_redis import RedisCursorStore

    url = parse_redis_url(f"unix://{socket or valkey_server.server().socket}", stream=False)
    return RedisCursorStore(lambda: url, state_id, str(url), patience=0.2)


@pytest.fixture
def state_id() -> str:
    valkey_server.server()
    return uuid.uuid4().hex


def cursor(value: str, epoch: int = 1) -> StoredCursor:
    return StoredCursor(value=value, epoch=epoch)


async def test_what_was_saved_is_loaded(state_id: str) -> None:
    first = job(state_id)
    assert await first.load() is None
    for value in ("7", "", "ü\ud800"):
        await first.save(cursor(value))
        loaded = await job(state_id).load()
        assert loaded is not None
        assert loaded.value == value
        first = job(state_id)
        stored = await first.load()
        assert stored is not None
        assert stored.epoch == loaded.epoch + 1


async def test_of_two_jobs_the_later_one_goes_on_and_the_earlier_one_ends(state_id: str) -> None:
    earlier, later = job(state_id), job(state_id)
    await earlier.load()
    await earlier.save(cursor("5"))
    taken = await later.load()
    assert taken is not None
    assert taken.value == "5"
    for _ in range(2):
        with pytest.raises(CursorError, match="another process has taken it over"):
            await earlier.save(cursor("6"))
    await later.save(cursor("9"))
    again = await earlier.load()
    assert again is not None
    assert again.value == "9"


async def test_two_jobs_that_begin_together_do_not_both_own_it(state_id: str) -> None:
    jobs = [job(state_id) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for each in jobs:
            nursery.start_soon(each.load)
    saved = []
    for number, each in enumerate(jobs):
        try:
            await each.save(cursor(str(number)))
        except CursorError:
            continue
        saved.append(number)
    assert len(saved) == 1


async def test_an_engine_that_has_forgotten_it_takes_it_again(state_id: str) -> None:
    store = job(state_id)
    await store.load()
    await store.save(cursor("5"))
    await ask(valkey_server.server(), b"DEL", f"trio-wsout:cursor:{state_id}")
    await store.save(cursor("6"))
    loaded = await job(state_id).load()
    assert loaded is not None
    assert loaded.value == "6"


async def test_an_engine_that_is_away(state_id: str, tmp_path: object) -> None:
    store = job(state_id, f"{tmp_path}/nothing")
    with pytest.raises(CursorError, match=r"can't be reached: No such file.*; it is tried again"):
        await store.load()
    with pytest.raises(AwayError, match="can't be reached"):
        await store.save(cursor("1"))


async def test_a_refusal_is_an_error(state_id: str) -> None:
    await ask(valkey_server.server(), b"SET", f"trio-wsout:cursor:{state_id}", "x")
    for call in (job(state_id).load(), job(state_id).save(cursor("1"))):
        with pytest.raises(CursorError, match="holds something else"):
            await call


async def test_the_configuration_chooses_it(state_id: str) -> None:
    place = f"unix://{valkey_server.server().socket}?db=${{env|DB}}"
    section = Cursor(header_name="L", persist_to=place, state_id=state_id)
    store = await open_cursor_store(
        section, url="ws://h", resolve=lambda _, name: "3" if name == "DB" else None
    )
    assert await store.load() is None
    await store.save(cursor("5"))
    again = await open_cursor_store(section, url="ws://h", resolve=lambda *_: "3")
    loaded = await again.load()
    assert loaded is not None
    assert loaded.value == "5"
    nowhere = await open_cursor_store(section, url="ws://h")
    with pytest.raises(CursorError, match="has no value and no ..default"):
        await nowhere.load()
