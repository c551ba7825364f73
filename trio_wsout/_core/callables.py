"""Checks that the application's callables are async where they must be, and nowhere else."""

from collections.abc import Awaitable
from inspect import isawaitable, iscoroutine
from typing import TypeVar, cast

T = TypeVar("T")


class CallableError(TypeError):
    """A callable is async where it must not be, or is not where it must be; the text holds no value."""


def awaitable(name: str, returned: Awaitable[T]) -> Awaitable[T]:
    """Return what the async callable `name` returned; raise CallableError if it is not async."""
    if not isawaitable(cast("object", returned)):
        kind = type(returned).__name__
        raise CallableError(f"the {name} callable must be async (it returned {kind}, which can't be awaited)")
    return returned


def plain(name: str, returned: object) -> object:
    """Return what the callable `name` returned; raise CallableError if it is async."""
    if isawaitable(returned):
        if iscoroutine(returned):
            returned.close()  # Python would warn of one that nobody awaited
        raise CallableError(f"the {name} callable must not be async: write def, not async def")
    return returned
