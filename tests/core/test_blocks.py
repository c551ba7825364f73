"""A block's joined pieces are its frames, and the same object for who asks for the same."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.blocks import Block


@pytest.mark.parametrize(
    ("sizes", "is_full"),
    [
        ([], False),
        ([65_535], False),
        ([65_535, 0], False),
        ([65_535, 1], True),
        ([65_536], True),
        ([1] * 9, False),
    ],
)
def test_a_block_is_full_from_64_kib_on(sizes: list[int], is_full: bool) -> None:
    block = Block(1)
    for size in sizes:
        block.append(b"x" * size)
    assert block.is_full is is_full
    assert block.end == 1 + len(sizes)


def test_who_asks_for_the_same_gets_the_same_object() -> None:
    block = Block(10)
    for letter in (b"a", b"b", b"c"):
        block.append(letter)
    first = block.joined(11, 13)
    assert first == b"bc"
    block.append(b"d")
    assert block.joined(11, 13) is first


def test_the_oldest_of_many_pieces_is_let_go() -> None:
    block = Block(0)
    for letter in (b"aa", b"bb", b"cc", b"dd", b"ee"):
        block.append(letter)
    pieces = [block.joined(0, last) for last in range(2, 6)]
    assert [block.joined(0, last) for last in range(2, 6)] == pieces
    assert all(block.joined(0, last) is piece for last, piece in zip(range(2, 6), pieces, strict=True))
    block.joined(1, 5)
    assert all(block.joined(0, last) is piece for last, piece in zip(range(3, 6), pieces[1:], strict=True))
    assert block.joined(0, 2) is not pieces[0]


class BlockMachine(RuleBasedStateMachine):
    """A block against a plain list of frames."""

    @initialize(start=st.integers(0, 10**6))
    def begin(self, start: int) -> None:
        self.start = start
        self.block = Block(start)
        self.frames: list[bytes] = []

    @precondition(lambda self: hasattr(self, "frames"))
    @rule(frame=st.binary(max_size=5) | st.just(b"x" * 20_000))
    def append(self, frame: bytes) -> None:
        self.block.append(frame)
        self.frames.append(frame)

    @precondition(lambda self: hasattr(self, "frames"))
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(self.frames)))
        last = data.draw(st.integers(first, len(self.frames)))
        joined = self.block.joined(self.start + first, self.start + last)
        assert joined == b"".join(self.frames[first:last])
        assert self.block.joined(self.start + first, self.start + last) is joined

    @invariant()
    def its_figures_are_those_of_the_list(self) -> None:
        if hasattr(self, "frames"):
            assert self.block.frames == self.frames
            assert self.block.end == self.start + len(self.frames)
            assert self.block.is_full == (sum(map(len, self.frames)) >= 64 * 1024)
            assert self.block.next is None


TestBlockMachine = BlockMachine.TestCase
