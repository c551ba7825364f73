"""A callable that is async where it must not be, or the other way round, is told by its name."""

from __future__ import annotations

import asyncio

import pytest
from trio_wsout._core.callables import CallableError, awaitable, plain


async def coroutine() -> str:
    return "secret"


def test_what_can_be_awaited_comes_back() -> None:
    given = coroutine()
    assert awaitable("token", given) is given
    given.close()
    assert plain("secrets", "text") == "text"


@pytest.mark.parametrize("returned", ["secret", None, {}, coroutine])
def test_what_cannot_be_awaited_is_told_by_its_type(returned: object) -> None:
    with pytest.raises(CallableError, match="the token callable must be async") as caught:
        awaitable("token", returned)  # type: ignore[arg-type]  # the mistake
    assert type(returned).__name__ in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_coroutine_is_told_and_python_does_not_warn_of_it() -> None:
    with pytest.raises(CallableError, match="the secrets callable must not be async"):
        plain("secrets", coroutine())


def test_any_awaitable_is_told() -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(CallableError, match="the on_state callable must not be async"):
            plain("on_state", loop.create_future())
    finally:
        loop.close()
