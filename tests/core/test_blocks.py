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
    block = Block(1, bytes)
    for size in sizes:
        block.append(b"x" * size)
    assert block.is_full is is_full
    assert block.end == 1 + len(sizes)


def test_who_asks_for_the_same_gets_the_same_object() -> None:
    block = Block(10, bytes)
    for letter in (b"a", b"b", b"c"):
        block.append(letter)
    first = block.joined(11, 13)
    assert first == b"bc"
    block.append(b"d")
    assert block.joined(11, 13) is first


def test_the_oldest_of_many_pieces_is_let_go() -> None:
    block = Block(0, bytes)
    for letter in (b"aa", b"bb", b"cc", b"dd", b"ee"):
        block.append(letter)
    pieces = [block.joined(0, last) for last in range(2, 6)]
    assert [block.joined(0, last) for last in range(2, 6)] == pieces
    assert all(block.joined(0, last) is piece for last, piece in zip(range(2, 6), pieces, strict=True))
    block.joined(1, 5)
    assert all(block.joined(0, last) is piece for last, piece in zip(range(3, 6), pieces[1:], strict=True))
    assert block.joined(0, 2) is not pieces[0]


class BlockMachine(RuleBasedStateMachine):
    """A block against a plain list of payloads."""

    @initialize(start=st.integers(0, 10**6))
    def begin(self, start: int) -> None:
        self.start = start
        self.block = Block(start, self.framed)
        self.payloads: list[bytes] = []
        self.made = 0

    def framed(self, payload: bytes) -> bytes:
        assert payload == self.payloads[self.made], "in order, each once"
        self.made += 1
        return b"<" + payload + b">"

    @precondition(lambda self: hasattr(self, "payloads"))
    @rule(payload=st.binary(max_size=5) | st.just(b"x" * 20_000))
    def append(self, payload: bytes) -> None:
        self.block.append(payload)
        self.payloads.append(payload)

    @precondition(lambda self: hasattr(self, "payloads"))
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(self.payloads)))
        last = data.draw(st.integers(first, len(self.payloads)))
        made = self.made
        joined = self.block.joined(self.start + first, self.start + last)
        assert joined == b"".join([b"<" + each + b">" for each in self.payloads[first:last]])
        assert self.block.joined(self.start + first, self.start + last) is joined
        without = sorted(data.draw(st.sets(st.sampled_from(range(first, last))))) if first < last else []
        others = [b"<" + self.payloads[each] + b">" for each in range(first, last) if each not in without]
        numbers = [self.start + each for each in without]
        assert self.block.joined(self.start + first, self.start + last, numbers) == b"".join(others)
        assert self.block.joined(self.start + first, self.start + last) is joined, "and it is forgotten"
        assert self.made <= max(made, last), "nothing is framed that nobody asked for"

    @invariant()
    def its_figures_are_those_of_the_list(self) -> None:
        if hasattr(self, "payloads"):
            assert self.block.end == self.start + len(self.payloads)
            assert self.block.is_full == (sum(map(len, self.payloads)) >= 64 * 1024)
            assert self.block.next is None


TestBlockMachine = BlockMachine.TestCase
