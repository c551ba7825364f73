"""The values of ``${file|PATH}``: small text files, read when they are needed (SPEC 5)."""

import os
import stat
from collections.abc import Iterable, Mapping

import trio

from trio_wsout.config.templates import TemplateError

_MOST = 64 * 1024
"""Bytes of a file: more than any handshake takes."""


def read_text_file(path: str) -> str | None:
    """Return the text of a file without the white space at its end; None if there is no such file.

    Raises:
        TemplateError: The file can't be read or is no text; the message names the path and holds nothing of the content.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refused(path, "is no regular file")
            content = file.read(_MOST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise _refused(path, "is no regular file") from None
    except OSError as error:
        raise _refused(path, f"can't be read: {error.strerror}") from None
    if len(content) > _MOST:
        raise _refused(path, f"has more than {_MOST} bytes")
    try:
        text = content.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise _refused(path, "is not UTF-8 text")
    return text


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; for a pipe, do not wait until somebody writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refused(path: str, reason: str) -> TemplateError:
    return TemplateError(f"${{file|{path}}}: the file {reason}")


async def read_text_files(paths: Iterable[str]) -> Mapping[str, str | TemplateError | None]:
    """Return the text, or the error, of each file by its path; a thread reads them because a disk may be slow."""

    def read() -> dict[str, str | TemplateError | None]:
        texts: dict[str, str | TemplateError | None] = {}
        for path in paths:
            try:
                texts[path] = read_text_file(path)
            except TemplateError as error:
                texts[path] = error
        return texts

    return await trio.to_thread.run_sync(read, abandon_on_cancel=True)
