"""The values of ``${file|PATH}``: small text files, read when they are needed (SPEC 5)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import trio

from trio_wsout.config.templates import TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["read_text_file", "read_text_files"]

_MOST = 64 * 1024
"""Bytes of a file: more than any handshake takes."""


def read_text_file(path: str) -> str | None:
    """Return the text of a file without the white space at its end; None if there is no such file.

    Raises:
        TemplateError: The file can't be read or is no text; the message names the path and holds nothing of the content.
    """
    try:
        # A pipe without a writer must not block here.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            return _text(path, descriptor)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refused(path, f"can't be read: {error.strerror}") from None


def _text(path: str, descriptor: int) -> str:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise _refused(path, "is no regular file")
    content = b""
    while len(content) <= _MOST and (more := os.read(descriptor, _MOST + 1)):
        content += more
    if len(content) > _MOST:
        raise _refused(path, f"has more than {_MOST} bytes")
    try:
        text = content.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise _refused(path, "is not UTF-8 text")
    return text


def _refused(path: str, reason: str) -> TemplateError:
    return TemplateError(f"${{file|{path}}}: the file {reason}")


async def read_text_files(paths: Iterable[str]) -> Mapping[str, str | TemplateError | None]:
    """Return the texts of files by path, read in a thread because a disk may be slow; of a file that can't be read, why."""

    def read() -> dict[str, str | TemplateError | None]:
        return {path: _text_or_error(path) for path in paths}

    return await trio.to_thread.run_sync(read, abandon_on_cancel=True)


def _text_or_error(path: str) -> str | TemplateError | None:
    try:
        return read_text_file(path)
    except TemplateError as error:
        return error
