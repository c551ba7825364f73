"""Quantities: what is read is written back, and nonsense is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config.event_paths import parse_dotted, parse_pointer
from trio_wsout.config.quantities import (
    format_codes,
    format_duration,
    format_size,
    parse_codes,
    parse_duration,
    parse_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable

YEARS = 10 * 365.25 * 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("2s", 2.0),
        ("1.5s", 1.5),
        ("1m30s", 90.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1w", 604800.0),
        ("10us", 1e-5),
        ("0.1s", 0.1),
        ("5min", 300.0),
        ("30 sec", 30.0),
        ("1h 30m", 5400.0),
        ("1 h 30 m", 5400.0),
        ("2 minutes", 120.0),
        ("1.5 hours", 5400.0),
        ("2hours1min5secs", 7265.0),
        ("1hr 2mins", 3720.0),
        ("3 days", 259200.0),
        ("2 wks", 1209600.0),
        ("1month", 2630016.0),
        ("1 year", 31557600.0),
        ("100ns", 1e-7),
        ("7nsec 1usec 1msec", 0.001001007),
        ("5µs", 5e-6),
        (5, 5.0),
        (0.25, 0.25),
        (0, 0.0),
    ],
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1m-30s",
        "1..5s",
        "-1s",
        "s",
        "5x",
        " 2s",
        "2s ",
        "1e3",
        "5",
        "2.5",
        "5M",
        "1h, 30m",
        "1 0s",
        "5 m s",
        "1hours30",
        "2S",
        "١s",
        "nan",
        "inf",
        -1,
        True,
        None,
        [],
        float("nan"),
        float("inf"),
        -0.1,
        "11y",
        "4000w",
        10**400,
        "9" * 500 + "s",
    ],
)
def test_nonsense_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.floats(0, YEARS))
def test_a_duration_is_written_so_that_it_reads_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.sampled_from(["d", "h", "m", "s", "ms"])), min_size=1, max_size=4
    )
)
def test_no_sum_of_units_is_shorter_than_what_is_written(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    written = format_duration(parse_duration(text))
    assert parse_duration(written) == parse_duration(text)
    assert len(written) <= max(len(text), 2) or "." in written


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (90.0, "90s"), (5400.0, "90m"), (3661.0, "3661s"), (7200.0, "2h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("1MB", 10**6), ("8MiB", 8 * 2**20), ("10B", 10), (0, 0), ("1 GiB", 2**30)],
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "7", "1kb", "-1", "1.5MiB", -1, True, 1.0, None, 2**60, "9" * 30])
def test_nonsense_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(0, 2**53))
def test_a_size_is_written_so_that_it_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("written", "codes"), [(4001, (4001, 4001)), ("4001", (4001, 4001)), ("4500-4999", (4500, 4999))]
)
def test_close_codes_are_read(written: object, codes: tuple[int, int]) -> None:
    assert parse_codes(written) == codes
    assert parse_codes(format_codes(codes)) == codes


@pytest.mark.parametrize(
    "written", [999, 5000, "4999-4500", "x", "", True, None, 4001.0, "4001-", "4001-50000"]
)
def test_nonsense_is_no_close_code(written: object) -> None:
    with pytest.raises(ValueError, match="close code"):
        parse_codes(written)


def test_a_number_that_no_text_can_say_is_no_close_code() -> None:
    with pytest.raises(ValueError, match="close code"):
        parse_codes(10**5000)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", ()), ("/", ("",)), ("/a/0", ("a", "0")), ("/a~1b/m~0n", ("a/b", "m~n")), ("/~01", ("~1",))],
)
def test_pointers_are_read(text: str, tokens: tuple[str, ...]) -> None:
    assert parse_pointer(text) == tokens


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_pointer, "a"),
        (parse_pointer, "/~"),
        (parse_pointer, "/~2"),
        (parse_dotted, ""),
        (parse_dotted, "a..b"),
    ],
)
def test_bad_paths_are_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="example|RFC 6901"):
        parse(text)


def test_dotted_paths_are_read() -> None:
    assert parse_dotted("data.id") == ("data", "id")


def test_infinity_is_not_ten_years() -> None:
    assert math.isfinite(parse_duration(YEARS))
