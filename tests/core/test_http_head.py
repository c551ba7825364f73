"""Where a head ends does not depend on how its bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.http_head import Fields, HeadReader, HeadTooLongError

MOST = 40


def heads_of(pieces: list[bytes], *, skips: bool) -> tuple[list[bytes], bytes | None]:
    """The heads in bytes that come in these pieces, and what is left; None: they are too long."""
    reader = HeadReader(MOST)
    found: list[bytes] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while True:
                if skips:
                    reader.skip_empty_lines(3)
                head = reader.next_head()
                if head is None:
                    break
                found.append(head)
    except HeadTooLongError:
        return found, None
    return found, bytes(reader.waiting)


BYTES = st.lists(st.sampled_from([b"a", b"b: c", b"\r", b"\n", b"\r\n", b"\r\n\r\n"]), max_size=30).map(
    b"".join
)


@given(BYTES, st.lists(st.integers(0, 60)), st.booleans())
def test_any_cut_gives_the_same_heads(data: bytes, marks: list[int], skips: bool) -> None:
    cuts = [0, *sorted(min(mark, len(data)) for mark in marks), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(cuts)]
    whole = heads_of([data], skips=skips)
    assert heads_of(pieces, skips=skips) == whole
    assert heads_of([data[at : at + 1] for at in range(len(data))], skips=skips) == whole


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_every_line_end_ends_a_head(end: bytes) -> None:
    assert heads_of([b"a" + end + b"b"], skips=False) == ([b"a" + end], b"b")


def test_a_head_of_just_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    head = b"x" * (MOST - 4) + b"\r\n\r\n"
    assert heads_of([head], skips=False) == ([head], b"")
    assert heads_of([b"x" + head], skips=False) == ([], None)
    assert heads_of([b"x" + head[:-1]], skips=False) == ([], b"x" + head[:-1])


def test_the_limit_is_for_all_heads_and_what_was_skipped() -> None:
    assert heads_of([b"a\n\n" * 13], skips=False)[1] == b""
    assert heads_of([b"a\n\n" * 14], skips=False)[1] is None
    assert heads_of([b"\n\r\n\n" + b"x" * 34 + b"\n\n"], skips=True) == ([b"x" * 34 + b"\n\n"], b"")
    assert heads_of([b"\n\r\n\n" + b"x" * 35 + b"\n\n"], skips=True)[1] is None


def test_elements_of_lists_stand_on_any_number_of_lines() -> None:
    fields = Fields(headers=[("a", "x, y"), ("b", ""), ("a", ",, z\t,")])
    assert fields.tokens("a") == ["x", "y", "z"]
    assert fields.values("a") == ["x, y", ",, z\t,"]
    assert fields.tokens("b") == fields.tokens("c") == []
