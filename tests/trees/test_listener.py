"""What befalls a listener: errors of accepting, and peers that go before they were answered."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from tests.trees.conftest import MemoryListener

if TYPE_CHECKING:
    from trio.testing import MockClock


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    return {"mode": "server-output", "server": server, **more}


class Troubled(MemoryListener):
    """A listener that raises these errors first."""

    def __init__(self, nursery: trio.Nursery, *errors: int) -> None:
        super().__init__(nursery)
        self.errors = list(errors)
        self.times: list[float] = []

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.errors:
            self.times.append(trio.current_time())
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return await super().accept()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
async def test_an_error_of_accepting_is_logged_and_accepting_goes_on(
    number: int, nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Troubled(nursery, number, number, number)
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        client = await listener.connect()
        assert client.status == 101
        await output.send("one")
        await client.wait_for(1)
    assert listener.times == [pytest.approx(at) for at in (0, 0, 0.1)], "one that repeats waits a moment"
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.getMessage() for each in warnings if "not accepted" in each.msg] == [
        f"a connection was not accepted: [Errno {number}] {os.strerror(number)}"
    ] * 3


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL])
async def test_a_listener_that_is_over_ends_the_output(
    number: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    listener = Troubled(nursery, number)
    with trio.fail_after(10), pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with trio_wsout.open_output(config(), listeners=[listener]):
            await trio.sleep_forever()
