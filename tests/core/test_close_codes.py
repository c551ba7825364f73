"""Which codes and reasons a Close may carry (RFC 6455 sections 5.5 and 7.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.close_codes import check_close
from trio_wsout._wire.decoder import Close, parse_close

CODES = st.integers(-1, 70_000) | st.sampled_from(
    [1000, 1004, 1005, 1006, 1014, 1015, 2999, 3000, 4999, 5000]
)


def refused(code: object, reason: object = "") -> str:
    with pytest.raises(ValueError, match="Close") as caught:
        check_close(code, reason)
    return str(caught.value)


@given(CODES, st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_allowed_is_exactly_what_a_peer_takes_for_a_close(code: int, reason: str) -> None:
    payload = code.to_bytes(2, "big") + reason.encode() if 0 <= code < 2**16 else b""
    arrives = parse_close(payload) == Close(code, reason) and len(payload) <= 125
    if arrives:
        check_close(code, reason)
    else:
        refused(code, reason)


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2000, 5000, "1000", 1000.0, None])
def test_another_code_is_named_and_so_are_those_that_are_allowed(code: object) -> None:
    assert refused(code).startswith(f"a Close can't carry the code {code!r}; allowed are 1000 to 1003")


def test_a_reason_is_measured_in_bytes() -> None:
    check_close(4000, "x" * 123)
    assert refused(4000, "é" * 62) == "the reason of a Close has at most 123 bytes in UTF-8, not 124"


@pytest.mark.parametrize("reason", [None, 5, b"bye", "\ud800"])
def test_a_reason_is_a_text(reason: object) -> None:
    assert refused(4000, reason) == (
        f"the reason of a Close is a Unicode text, empty if there is none, not {reason!r}"
    )
