"""``${file|PATH}``: read at each attempt, and what is no text costs the attempt and is not told (SPEC 5)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio_wsout
from trio_wsout._tasks.text_files import read_text_file
from trio_wsout.config.templates import TemplateError
from trio_wsout.testing import Accept, Refuse, open_peer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"token", "token"),
        (b"token\n", "token"),
        (b" two\nlines \r\n\t \n", " two\nlines"),
        (b"", ""),
        ("\ufeffé".encode(), "é"),
        (b"x" * 65536, "x" * 65536),
    ],
)
def test_a_file_is_its_text_without_white_space_at_the_end(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert read_text_file(str(path)) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"canary\xff", "not UTF-8 text"),
        (b"canary\0", "not UTF-8 text"),
        (b"canary" * 20000, "more than 65536"),
    ],
)
def test_what_is_no_small_text_is_told_without_its_content(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(TemplateError, match=words) as caught:
        read_text_file(str(path))
    assert "canary" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_told_and_never_waited_for(tmp_path: Path) -> None:
    assert read_text_file(str(tmp_path / "none")) is None
    (tmp_path / "file").touch()
    assert read_text_file(str(tmp_path / "file" / "below")) is None
    with pytest.raises(TemplateError, match="no regular file"):
        read_text_file(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TemplateError, match="no regular file"):
        read_text_file(str(tmp_path / "pipe"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TemplateError, match="can't be read"):
        read_text_file(str(tmp_path / "loop"))


def test_a_file_that_fails_while_it_is_read_is_told() -> None:
    with pytest.raises(TemplateError, match="can't be read"):
        read_text_file("/proc/self/mem")


# Files are read in a thread, which a clock that jumps does not wait for: so these run on the real one, with no delays.
SOON = {"initial-backoff": "1ms", "max-backoff": "1ms"}


async def test_each_attempt_reads_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "token"
    fields: dict[str, Any] = {
        "url": f"ws://h/${{file|{path}}}",
        "auth": {"bearer-token": f"${{file|{path}}}"},
        "headers": {"X": "${file|/none||there is none}"},
        "reconnect": SOON,
    }
    path.write_text("first\n")
    async with open_peer() as peer:
        peer.plan(Refuse(status=503), Accept())

        def renew(change: trio_wsout.LinkChange) -> None:
            if change.delay is not None:
                path.write_text("second")

        async with trio_wsout.open_output(fields, open_stream=peer.open_stream, on_state=renew) as output:
            await output.send(1)
        requests = peer.connections
        assert [each.path for each in requests] == ["/first", "/second"]
        assert [each.headers["authorization"] for each in requests] == ["Bearer first", "Bearer second"]
        assert [each.headers["x"] for each in requests] == ["there is none"] * 2


async def test_a_file_that_is_no_text_costs_attempts_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"canary\xff")
    details: list[str] = []

    def note(change: trio_wsout.LinkChange) -> None:
        if change.disconnection is not None:
            details.append(change.disconnection.detail)
        if len(details) == 3:
            path.write_text("mended")

    async with open_peer() as peer:
        async with trio_wsout.open_output(
            {"url": "ws://h/", "auth": {"headers": {"X-Key": f"${{file|{path}}}"}}, "reconnect": SOON},
            open_stream=peer.open_stream,
            on_state=note,
        ) as output:
            await output.send(1)
            await output.flush()
        assert len(details) >= 3
        assert all("auth.headers.X-Key" in each and "not UTF-8 text" in each for each in details)
        assert "canary" not in "".join(details) + caplog.text
        assert peer.connections[-1].headers["x-key"] == "mended"


async def test_a_file_in_a_header_of_batches_is_read_for_each(tmp_path: Path, autojump_clock: object) -> None:
    path = tmp_path / "line"
    path.write_text("first\n")
    batch = {"mode": "fixed", "fixed-size": 1, "header": f"${{file|{path}}} ${{batch|number}}"}
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            {"url": "ws://h/", "batch": batch}, open_stream=peer.open_stream
        ) as output:
            await output.send(1)
            await output.flush()
            path.write_text("second\n")
            await output.send(2)
        assert peer.messages == ["first 1\n1", "second 2\n2"]
