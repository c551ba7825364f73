"""Where the elements of a list stand does not matter."""

from __future__ import annotations

from trio_wsout._core.http_head import Fields


def test_elements_of_lists_stand_on_any_number_of_lines() -> None:
    fields = Fields(headers=[("a", "x, y"), ("b", ""), ("a", ",, z\t,")])
    assert fields.tokens("a") == ["x", "y", "z"]
    assert fields.values("a") == ["x, y", ",, z\t,"]
    assert fields.tokens("b") == fields.tokens("c") == []
