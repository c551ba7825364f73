"""Callables of the application that raise or give nonsense: they cost an attempt or a line in the log, never the output."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Unreachable, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock

CLIENT = {"url": "ws://peer.test/", "reconnect": {"initial-backoff": "1s"}}


def broken() -> float:
    raise LookupError


@pytest.mark.parametrize(
    "drawn",
    [broken, nan, inf, None, "0.5", -0.1, 1, 1 + 2j, []],
    ids=lambda drawn: "raises" if drawn is broken else repr(drawn),
)
async def test_a_draw_that_is_none_costs_a_line_in_the_log(
    drawn: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as up:
        up.plan(Unreachable())
        async with trio_wsout.open_output(
            CLIENT, open_stream=up.open_stream, draw=drawn if callable(drawn) else lambda: drawn
        ) as output:
            await output.send("one")
            await output.flush()
        assert trio.current_time() <= 1
    told = [each.getMessage() for each in caplog.records if "draw" in each.getMessage()]
    what = "raised LookupError" if drawn is broken else "gave no number in [0, 1)"
    assert told == [f"the draw callable {what}; a number was drawn without it"]


@pytest.mark.parametrize("given", [None, 7, "stream"])
async def test_what_is_no_stream_costs_an_attempt(given: Any, autojump_clock: MockClock) -> None:
    attempts = 0
    async with open_peer() as up:

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            nonlocal attempts
            attempts += 1
            stream = await up.open_stream(host, port)
            if attempts > 1:
                return stream
            await trio.aclose_forcefully(stream)
            return given  # type: ignore[no-any-return] - what it must not do

        async with trio_wsout.open_output(CLIENT, open_stream=open_stream) as output:
            await output.send("one")
            await output.flush()
            assert "open_stream callable returned no stream" in (output.statistics().link.last_error or "")
    assert attempts == 2


def text() -> Any:
    return "no-awaitable"


def no_stream(host: str, port: int) -> Any:
    return None


@pytest.mark.parametrize("name", ["headers", "token", "open_stream"])
async def test_a_callable_that_is_not_async_ends_the_link_and_says_so(
    name: str, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        given: Any = {"open_stream": up.open_stream, name: no_stream if name == "open_stream" else text}
        with pytest.raises(trio_wsout.ConnectError, match=f"the {name} callable must be async") as caught:
            async with trio_wsout.open_output(CLIENT, **given) as output:
                await output.send("one")
        assert caught.value.attempts == 1
        assert "no-awaitable" not in str(caught.value)
        assert [each.event for each in caught.value.undelivered] == ["one"]


async def test_an_async_secrets_callable_is_told(autojump_clock: MockClock) -> None:
    async def secrets(name: str) -> str:
        return name

    config = {**CLIENT, "headers": {"X": "${secret|name}"}, "reconnect": {"max-attempts": 1}}
    async with open_peer() as up:
        with pytest.raises(trio_wsout.ConnectError, match="the secrets callable must not be async"):
            async with trio_wsout.open_output(
                config,
                open_stream=up.open_stream,
                secrets=secrets,  # type: ignore[arg-type]  # the mistake
            ) as output:
                await output.send("one")


async def test_an_async_on_state_is_told_and_costs_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_state(change: trio_wsout.LinkChange) -> None:
        pytest.fail("nobody awaits it")

    async with open_peer() as up:
        async with trio_wsout.open_output(CLIENT, open_stream=up.open_stream, on_state=on_state) as output:
            await output.send("one")
        assert up.messages == ["one"]
    assert "the on_state callable must not be async" in caplog.text


async def test_an_async_draw_is_told(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async def draw() -> float:
        return 0.5

    async with open_peer() as up:
        up.plan(Unreachable())
        async with trio_wsout.open_output(
            CLIENT,
            open_stream=up.open_stream,
            draw=draw,  # type: ignore[arg-type]  # the mistake
        ) as output:
            await output.send("one")
        assert up.messages == ["one"]
    assert "the draw callable raised CallableError" in caplog.text
