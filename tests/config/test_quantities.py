"""Quantities: what is read is written back, and nonsense is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config.quantities import (
    BindAddress,
    UnixAddress,
    format_codes,
    format_duration,
    format_size,
    parse_allowed_origin,
    parse_bind,
    parse_codes,
    parse_dotted,
    parse_duration,
    parse_host,
    parse_origin,
    parse_path,
    parse_pointer,
    parse_proxy,
    parse_size,
    parse_url,
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
        ("5", 5.0),
        ("2.5", 2.5),
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
    [("64KiB", 65536), ("1MB", 10**6), ("8MiB", 8 * 2**20), ("10B", 10), ("7", 7), (0, 0), ("1 GiB", 2**30)],
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1kb", "-1", "1.5MiB", -1, True, 1.0, None, 2**60, "9" * 30])
def test_nonsense_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(0, 2**53))
def test_a_size_is_written_so_that_it_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", BindAddress("0.0.0.0", 8080)),
        ("localhost:0", BindAddress("localhost", 0)),
        ("[::1]:80", BindAddress("::1", 80)),
        (":80", BindAddress(None, 80)),
        ("*:80", BindAddress("*", 80)),
        ("[127.0.0.1]:80", BindAddress("127.0.0.1", 80)),
        ("bücher.example:80", BindAddress("xn--bcher-kva.example", 80)),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
    ],
)
def test_bind_addresses_are_read(text: str, address: object) -> None:
    assert parse_bind(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("::1:80", "99999", "+80", "", "host", "host:", "host:99999", "unix:", "unix:\0", " :80", "a b:80"),
        *("unix:\ud800", "a..b:80", "a" * 70 + ":80", "\ud800:80", "[1::2::3]:80", "a\xa0b:80"),
    ],
)
def test_nonsense_is_no_bind_address(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_bind(text)


def test_a_bind_address_with_a_host_that_is_no_name_says_so() -> None:
    with pytest.raises(ValueError, match="the host is not a valid name"):
        parse_bind("a..b:80")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://a/b?x=1", "ws://a/b?x=1"),
        ("https://a", "wss://a"),
        ("WS://a:80/", "ws://a:80/"),
        ("wss://[::1]:8443/x", "wss://[::1]:8443/x"),
        ("ws://bücher.example/", "ws://bücher.example/"),
        ("ws://a./", "ws://a./"),
        ("ws://a_b.c-d:1/", "ws://a_b.c-d:1/"),
        ("ws://[fe80::1%eth0]/", "ws://[fe80::1%eth0]/"),
        ("ws://[fe80::1%25eth0]/", "ws://[fe80::1%25eth0]/"),
    ],
)
def test_urls_are_read(text: str, url: str) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ws://u:p@h", "auth.basic"),
        ("ws://h#f", "fragment"),
        ("ws://h#", "fragment"),
        ("ws://h:99999", "port"),
        ("ws://h:0", "port"),
        ("ws://h:", "port"),
        ("ws://[::1", "port"),
        ("ftp://h", "ws://"),
        ("h", "ws://"),
        ("ws:///x", "host"),
        ("ws://a\r\nb", "control"),
        ("ws://a b", "spaces"),
        ("ws://" + "a" * 64, "valid name"),
        ("ws://a..b", "valid name"),
        ("ws://a\xa0b", "valid name"),
        ("ws://a\u2025b", "valid name"),
        ("ws://%41", "valid name"),
        ('ws://[fe80::1%e"]', "valid name"),
    ],
)
def test_bad_urls_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_url(text)


@given(st.text(max_size=8) | st.from_regex(r"[a-z0-9.é\xa0_-]{1,20}", fullmatch=True))
def test_a_host_is_ascii_and_one_word_for_whoever_reads_it_or_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except ValueError as error:
        assert str(error) == "the URL's host is not a valid name"
    else:
        assert host.isascii()
        assert host.isprintable()
        assert not set(host) & set(' /?#@[]\\"<>^`{|}')
        assert parse_host(host) == host
        assert host.encode("idna") == host.encode()


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", "localhost"),
        ("1.2.3.4", "1.2.3.4"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("fe80::1%25eth0", "fe80::1%eth0"),
        ("fe80::1%25", "fe80::1%25"),
        ("fe80::1%2", "fe80::1%2"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a。b", "a.b"),
    ],
)
def test_hosts_are_read(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize("text", ["", "a b", "a\xa0b", ":", "1::2::3", "v1.a:b", "::1%", "::1%é", "::1%a%b"])
def test_nonsense_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="valid name"):
        parse_host(text)


@pytest.mark.parametrize("text", ["none", "http://p:1", "socks5://u:p@p:1080"])
def test_proxies_are_read(text: str) -> None:
    assert parse_proxy(text) == text


@pytest.mark.parametrize(
    "text", ["", "http://p", "socks4://p:1", "http://:1", "http://p:99999", "http://p\n:1"]
)
def test_nonsense_is_no_proxy(text: str) -> None:
    with pytest.raises(ValueError, match="socks5"):
        parse_proxy(text)


@pytest.mark.parametrize("host", ["a\xa0b", "a..b", "a" * 64])
def test_a_proxy_has_a_name_that_can_be_looked_up(host: str) -> None:
    with pytest.raises(ValueError, match="host is not a valid name"):
        parse_proxy(f"socks5://{host}:1080")


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


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Example.COM", ("https", "example.com", 443)),
        ("HTTP://localhost:8080", ("http", "localhost", 8080)),
        ("http://[::1]", ("http", "::1", 80)),
        ("chrome-extension://abc", ("chrome-extension", "abc", None)),
    ],
)
def test_origins_are_read(text: str, origin: tuple[str, str, int | None]) -> None:
    assert parse_origin(text) == origin
    assert parse_allowed_origin(text) == text
    assert parse_allowed_origin("*") == "*"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "example.com",
        "https://a/path",
        "https://a/",
        "https://u@a",
        "http://a:99999",
        "http://a b",
    ],
)
def test_other_texts_are_no_origins(text: str) -> None:
    with pytest.raises(ValueError, match="expected an origin"):
        parse_origin(text)
    with pytest.raises(ValueError, match="expected an origin"):
        parse_allowed_origin(text)


@pytest.mark.parametrize("text", ["", "feed", "/a b", "/a?b", "/a#b", "/a\n"])
def test_other_texts_are_no_paths(text: str) -> None:
    assert parse_path("/feed/%20") == "/feed/%20"
    with pytest.raises(ValueError, match="starts with /"):
        parse_path(text)
