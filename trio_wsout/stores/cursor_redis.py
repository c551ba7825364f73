"""A cursor in a hash of Valkey or Redis (SPEC 9), under the key ``trio-wsout:cursor:STATE-ID``.

Who loads it owns it: the script that reads it raises its epoch and notes the owner, and the script that writes it compares
both. So of two jobs that share a state id, the later one goes on from what the earlier one has saved, the earlier one is told at
its next save, and neither moves the cursor backwards. The connection is made anew for each access.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from typing import cast

from attrs import define, field

from trio_wsout.config.redis_url import RedisUrl
from trio_wsout.errors import CursorError
from trio_wsout.stores.cursor import AwayError, StoredCursor
from trio_wsout.stores.redis import Redis, RefusedError, Reply, Script, Waiting

__all__ = ["RedisCursorStore"]

_PATIENCE = 10.0
"""Seconds that one access tries to reach the engine."""
_CLAIM = Script("""
local stored = redis.call('HMGET', KEYS[1], 'value', 'epoch')
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
return {epoch, stored[1]}
""")
_SAVE = Script("""
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'owner')
local epoch, mine = tonumber(stored[1] or 0), tonumber(ARGV[2])
if epoch > mine or (epoch == mine and stored[2] ~= ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'owner', ARGV[3], 'value', ARGV[4])
return 1
""")


@define(eq=False)
class RedisCursorStore:
    """A `CursorStore` in an engine."""

    _url: Callable[[], RedisUrl]
    """Returns the address, with the credentials of this attempt."""
    _state_id: str
    _location: str
    """The URL, without values of secrets."""
    _draw: Callable[[], float] = field(default=random.random, alias="draw", kw_only=True)
    _patience: float = field(default=_PATIENCE, alias="patience", kw_only=True)
    _owner: str = field(factory=lambda: secrets.token_hex(8), init=False)
    _epoch: int = field(default=1, init=False)
    """The epoch of this owner."""

    async def load(self) -> StoredCursor | None:
        """Take the cursor over, and return it; None if none was ever stored."""
        try:
            reply = await self._run(_CLAIM, (self._owner,))
        except AwayError as error:
            raise CursorError(str(error)) from error
        self._epoch, value = cast("tuple[int, bytes | None]", reply)
        if value is None:
            return None
        return StoredCursor(value=value.decode("utf-8", "surrogatepass"), epoch=self._epoch - 1)

    async def save(self, cursor: StoredCursor) -> None:
        """Replace the cursor, unless another job has taken it over (CursorError); AwayError if the engine is away."""
        value = cursor.value.encode("utf-8", "surrogatepass")
        if not await self._run(_SAVE, (str(self._epoch), self._owner, value)):
            raise self._error("another process has taken it over; only one may use a state id at a time")

    async def _run(self, script: Script, arguments: Sequence[str | bytes]) -> Reply:
        key = f"trio-wsout:cursor:{self._state_id}"
        name = f"cursor in {self._location}"
        redis = Redis(self._url, "cursor.persist-to", key, Waiting(name), self._draw)
        try:
            return await redis.run_script_alone(script, (key,), arguments, patience=self._patience)
        except RefusedError as refused:
            failure = self._error(f"can't be used: {refused}")
            raise failure if refused.lasting else AwayError(str(failure)) from refused

    def _error(self, reason: str) -> CursorError:
        return CursorError(f"cursor in {self._location}: {reason}")
