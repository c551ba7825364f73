"""Addresses: one host for a spelling, the one that browsers and resolvers mean; what can't mean anything is refused."""

from __future__ import annotations

import re
from ipaddress import ip_address

import idna
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from trio_wsout.config.addresses import (
    BindAddress,
    Origin,
    Proxy,
    UnixAddress,
    parse_address,
    parse_allowed_origin,
    parse_bind,
    parse_host,
    parse_host_and_port,
    parse_origin,
    parse_path,
    parse_proxy,
    parse_url,
)

# -- hosts ------------------------------------------------------------------------------------------------

HOSTS = {
    "localhost": "localhost",
    "EXAMPLE.com": "example.com",
    "a.": "a.",
    # IDNA 2008: these four letters have names of their own, which IDNA 2003 took for others.
    "straße.example": "xn--strae-oqa.example",
    "STRASSE.example": "strasse.example",
    "faß.de": "xn--fa-hia.de",
    "ςigma.gr": "xn--igma-fod.gr",
    "نامه\u200cای.com": "xn--mgba3gch31f060k.com",
    # Capital sigma is σ, and never ς, as it would be by Python's lower().
    "ΣΑΣ.gr": "xn--mxa9ab.gr",
    "Bücher.Example": "xn--bcher-kva.example",
    "xn--Bcher-KVA.example": "xn--bcher-kva.example",
    "日本語。jp": "xn--wgv71a119e.jp",
    "a。b": "a.b",
    "ａ．ｂ": "a.b",
    "so\u00adft.example": "soft.example",
    # What browsers take and strict IDNA 2008 does not.
    "a_b.c-d": "a_b.c-d",
    "_dmarc.x": "_dmarc.x",
    "ä_b.x": "xn--_b-uia.x",
    "-a.b-": "-a.b-",
    "r3---sn-x.example": "r3---sn-x.example",
    "☃.net": "xn--n3h.net",
    "💩.la": "xn--ls8h.la",
    "xn--ls8h.la": "xn--ls8h.la",
    # Addresses, as resolvers and browsers read them.
    "1.2.3.4": "1.2.3.4",
    "1.2.3.4.": "1.2.3.4",
    "127.1": "127.0.0.1",
    "0x7F.1": "127.0.0.1",
    "２１３0706433": "127.0.0.1",
    "3com": "3com",
    "4.example": "4.example",
    "::1": "::1",
    "2001:DB8:0:0::1": "2001:db8::1",
    "fe80::1%eth0": "fe80::1%eth0",
    "fe80::1%25eth0": "fe80::1%eth0",
    "fe80::1%25": "fe80::1%25",
    "fe80::1%2": "fe80::1%2",
}


@pytest.mark.parametrize(("text", "host"), HOSTS.items())
def test_hosts_are_read(text: str, host: str) -> None:
    assert parse_host(text) == host
    assert parse_host(host) == host


NO_HOSTS = {
    "": "nothing",
    ".": "nothing",
    "a..b": "nothing",
    "a..": "nothing",
    ".a": "nothing",
    "\u00ad.a": "nothing",
    "a b": "' '",
    "a\xa0b": "' '",
    "*.example.com": r"'\*'",
    "$host": r"'\$'",
    "%41": "'%'",
    "a/b": "'/'",
    "℀.com": "'/'",
    "a~b": "'~'",
    "\x7f": "x7f",
    "a\u2025b": "IDNA",
    "xn--": "IDNA",
    "xn--a": "IDNA",
    "xn--é": "IDNA",
    "xn---tda": "IDNA",
    "xn--strasse-.x": "IDNA",
    "xn--Bcher-KVA\xdf.x": "IDNA",
    "\u0301a": "IDNA",
    "a\u200db": "IDNA",
    "1א": "IDNA",
    "\ud800": "IDNA",
    "a" * 64: "63",
    "ü" * 60 + "abcdefgh": "63",
    ".".join(["a" * 63] * 4): "253",
    "a" * 1025: "too long",
    "256.1.1.1": "IPv4",
    "08": "IPv4",
    "a.1": "IPv4",
    "0x7g.0x": "IPv4",
    ":": "IPv6",
    "1::2::3": "IPv6",
    "v1.a:b": "IPv6",
    "::1%": "IPv6",
    "::1%é": "IPv6",
    "::1%a%b": "IPv6",
}


@pytest.mark.parametrize(("text", "reason"), NO_HOSTS.items())
def test_nonsense_is_no_host(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^the host is not a valid name or address: .*{reason}"):
        parse_host(text)


def test_the_longest_name_is_one() -> None:
    name = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert parse_host(name) == name
    assert parse_host(f"{name}.") == f"{name}."


LETTERS = st.sampled_from("aZ09-_.ßςΣσ\u0131İäÄéǅא١ﬀ①Ａ。💩☃\u200c\u200d\u00ad\u0301\u0308नी्\xa0")
WRITTEN = (
    st.text(LETTERS, min_size=1, max_size=8)
    | st.text(max_size=8)
    | st.text(LETTERS, min_size=1, max_size=4).map(lambda text: f"xn--{text.encode('punycode').decode()}")
    | st.from_regex(r"(xn--)?[a-z0-9._-]{1,12}", fullmatch=True)
)
# Most random texts are no hosts, and by chance nearly all of a run are none.
MOST_ARE_NONE = settings(suppress_health_check=[HealthCheck.filter_too_much])


def read(text: str) -> str:
    """The host of a text; texts that are none are not looked at."""
    try:
        return parse_host(text)
    except ValueError as error:
        assert str(error).startswith("the host is not a valid name or address: ")
        assume(False)
        raise


@MOST_ARE_NONE
@given(WRITTEN)
def test_a_host_is_read_once_and_stays(text: str) -> None:
    host = read(text)
    assert parse_host(host) == host
    assert host.isascii()
    assert not set(host) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.:%")
    # Python's own codec, which resolvers and ssl put names through, leaves it alone.
    assert host.encode("idna") == host.encode()


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True))
def test_a_name_in_ascii_is_the_same_in_lower_case(text: str) -> None:
    host = read(text)
    if parse_address(host) is None:
        assert host == text.lower()
    else:
        assert (
            text.removesuffix(".").rpartition(".")[2].lower().removeprefix("0x").strip("0123456789abcdef")
            == ""
        )


@given(WRITTEN)
@example("straße.example")
@example("ΣΑΣ.gr")
def test_what_strict_idna_takes_is_the_name_that_it_means(text: str) -> None:
    """So no spelling has a name here and another one with the resolver, whoever reads it first."""
    try:
        strict = idna.encode(text, uts46=True).decode()
    except UnicodeError:
        return
    host = read(text)
    assert host == strict or parse_address(host) is not None


@MOST_ARE_NONE
@given(WRITTEN)
def test_a_name_decodes_to_letters_that_are_this_name(text: str) -> None:
    host = read(text)
    assume(parse_address(host) is None)
    decoded = ".".join(
        each[4:].encode().decode("punycode") if each.startswith("xn--") else each for each in host.split(".")
    )
    assert parse_host(decoded) == host


@given(st.ip_addresses())
def test_an_address_is_itself(address: object) -> None:
    host = parse_host(str(address))
    assert parse_address(host) == address
    assert ip_address(host) == address


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", ("a", None)),
        ("A:80", ("a", 80)),
        ("[::1]", ("::1", None)),
        ("[::1]:65535", ("::1", 65535)),
        ("[1.2.3.4]:1", ("1.2.3.4", 1)),
        ("[fe80::1%25eth0]:1", ("fe80::1%eth0", 1)),
    ],
)
def test_hosts_and_ports_are_told_apart(text: str, found: tuple[str, int | None]) -> None:
    assert parse_host_and_port(text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a:", "port must be 1 to 65535"),
        ("a:0", "port must be 1 to 65535"),
        ("a:65536", "port must be 1 to 65535"),
        ("a:" + "9" * 5000, "port must be 1 to 65535"),
        ("a:٣", "port must be 1 to 65535"),
        ("a:+1", "port must be 1 to 65535"),
        ("a:x", "port must be 1 to 65535"),
        ("[::1]:", "port must be 1 to 65535"),
        ("[::1", "brackets are not closed"),
        ("[::1]80", "something follows"),
        ("[a]", "brackets are for"),
        ("::1", "stands in brackets"),
        ("a:1:2", "stands in brackets"),
    ],
)
def test_other_texts_are_no_hosts_with_ports(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_host_and_port(text)


# -- listeners -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", BindAddress("0.0.0.0", 8080)),
        ("localhost:0", BindAddress("localhost", 0)),
        ("[::1]:80", BindAddress("::1", 80)),
        (":80", BindAddress(None, 80)),
        (":0", BindAddress(None, 0)),
        (":65535", BindAddress(None, 65535)),
        ("[127.0.0.1]:80", BindAddress("127.0.0.1", 80)),
        ("[fe80::1%eth0]:80", BindAddress("fe80::1%eth0", 80)),
        ("straße.example:80", BindAddress("xn--strae-oqa.example", 80)),
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
        *("*:80", "[a]:80", ":", ":99999", ":-1"),
    ],
)
def test_nonsense_is_no_bind_address(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_bind(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a..b:80", "the host is not a valid name"),
        ("*:80", "(all addresses)"),
        ("host", "there is no port"),
        ("host:70000", "the port must be 0 to 65535"),
        (":70000", "the port must be 0 to 65535"),
        ("::1:80", "an IPv6 address stands in brackets"),
    ],
)
def test_what_is_wrong_with_a_bind_address_is_said(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_bind(text)


# -- remote endpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://a/b?x=1", "ws://a/b?x=1"),
        ("https://a", "wss://a"),
        ("WS://a:80/", "ws://a:80/"),
        ("wss://[::1]:8443/x", "wss://[::1]:8443/x"),
        ("ws://bücher.example/", "ws://bücher.example/"),
        ("ws://a./", "ws://a./"),
        ("wss://straße.example/x", "wss://straße.example/x"),
        ("ws://127", "ws://127"),
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
        ("ws://h:99999", "port must be 1 to 65535"),
        ("ws://h:0", "port must be 1 to 65535"),
        ("ws://h:", "port must be 1 to 65535"),
        ("ws://h:x", "port must be 1 to 65535"),
        ("ws://*.h", r"it holds '\*'"),
        ("ws://$h", r"it holds '\$'"),
        ("ws://xn--a", "IDNA"),
        ("ws://::1:80", "in brackets"),
        ("ws://[::1", "port"),
        ("ftp://h", "ws://"),
        ("h", "ws://"),
        ("ws:///x", "the URL has no host"),
        ("ws://:80", "the URL has no host"),
        ("ws://a\r\nb", "control"),
        ("ws://a b", "spaces"),
        ("ws://h/\ud800", "surrogate"),
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


# -- proxies ---------------------------------------------------------------------------------------------


def proxy(scheme: str, host: str, port: int, username: str | None = None, password: str = "") -> Proxy:
    return Proxy(scheme=scheme, host=host, port=port, username=username, password=password)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("none", None),
        ("http://p:1", proxy("http", "p", 1)),
        ("HTTP://P:1/", proxy("http", "p", 1)),
        ("http://p", proxy("http", "p", 80)),
        ("https://p", proxy("https", "p", 443)),
        ("socks5://p", proxy("socks5", "p", 1080)),
        ("socks5h://p:1", proxy("socks5h", "p", 1)),
        ("socks://p", proxy("socks5h", "p", 1080)),
        ("http://[::1]:3128", proxy("http", "::1", 3128)),
        ("http://straße.example:1", proxy("http", "xn--strae-oqa.example", 1)),
        ("http://u:p@p:1", proxy("http", "p", 1, "u", "p")),
        ("http://u@p:1", proxy("http", "p", 1, "u", "")),
        ("http://:p@p:1", proxy("http", "p", 1, "", "p")),
        ("http://@p:1", proxy("http", "p", 1)),
        ("http://:@p:1", proxy("http", "p", 1)),
        ("http://%C3%A9%40:p%2F:@@p:1", proxy("http", "p", 1, "é@", "p/:@")),
        ("socks5://u%20v:p%3A@p:1", proxy("socks5", "p", 1, "u v", "p:")),
    ],
)
def test_proxies_are_read(text: str, found: Proxy | None) -> None:
    assert parse_proxy(text) == found
    assert "p/:" not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p:1",
        "http://",
        "socks4://p:1",
        "ftp://p",
        "http://u:p@",
        "http://p\n:1",
        "http://[p:1",
        "http://\ud800",
    ],
)
def test_nonsense_is_no_proxy(text: str) -> None:
    with pytest.raises(ValueError, match="socks5"):
        parse_proxy(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://:1", "not a valid name"),
        ("http://user:canary@p:99999", "port must be 1 to 65535"),
        ("http://user:canary@p:", "port must be 1 to 65535"),
        ("http://user:canary@p.*:1", r"it holds '\*'"),
        ("http://user:can/ary@p:1", "%2F"),
        ("http://user:12/canary@p:1", "%2F"),
        ("http://user:canary?@p:1", "%3F"),
        ("http://user:canary#@p:1", "%23"),
        ("http://p:1/canary", "ends with its port"),
        ("http://us%3Aer:canary@p:1", "no colon"),
        ("http://user:canary%0d%0a@p:1", "control characters"),
        ("http://user:canary%ff@p:1", "UTF-8"),
        ("socks5://user@p:1", "ASCII"),
        ("socks5://user:canaré@p:1", "ASCII"),
        ("socks5://user:" + "canary" * 50 + "@p:1", "ASCII"),
    ],
)
def test_what_is_wrong_with_a_proxy_is_said_without_its_password(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_proxy(text)
    assert "can" not in str(caught.value)
    assert "user:" not in str(caught.value)


@pytest.mark.parametrize("host", ["a\xa0b", "a..b", "a" * 64])
def test_a_proxy_has_a_name_that_can_be_looked_up(host: str) -> None:
    with pytest.raises(ValueError, match="host is not a valid name"):
        parse_proxy(f"socks5://{host}:1080")


# -- origins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Example.COM", Origin("https", "example.com", 443)),
        ("https://example.com:443", Origin("https", "example.com", 443)),
        ("HTTP://localhost:8080", Origin("http", "localhost", 8080)),
        ("http://[::1]", Origin("http", "::1", 80)),
        ("http://[0:0::1]", Origin("http", "::1", 80)),
        ("http://127.1", Origin("http", "127.0.0.1", 80)),
        ("https://straße.example", Origin("https", "xn--strae-oqa.example", 443)),
        ("https://💩.la", Origin("https", "xn--ls8h.la", 443)),
        ("chrome-extension://abc", Origin("chrome-extension", "abc", None)),
        ("capacitor://localhost", Origin("capacitor", "localhost", None)),
        ("app://x:1", Origin("app", "x", 1)),
    ],
)
def test_origins_are_read(text: str, origin: Origin) -> None:
    assert parse_origin(text) == origin
    assert parse_allowed_origin(text) == origin
    assert origin.admits(origin)


NO_ORIGINS = [
    "",
    "null",
    "NULL",
    "example.com",
    "https://",
    "https://a/path",
    "https://a/",
    "https://a?",
    "https://a#",
]
NO_ORIGINS += [
    "https://u@a",
    "https://a\\b",
    "//a",
    "1://a",
    "://a",
    "file:///x",
    "https://a b",
    "https://a\n",
    "*://a",
]


@pytest.mark.parametrize("text", NO_ORIGINS)
def test_other_texts_are_no_origins(text: str) -> None:
    for parse in (parse_origin, parse_allowed_origin):
        with pytest.raises(ValueError, match="expected an origin|not a valid name"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("null", r"so write \* to admit it"),
        ("https://a/", "without a path"),
        ("https://a:99999", "port must be 1 to 65535"),
        ("https://*", r"it holds '\*'"),
        ("https://a.*.example", r"it holds '\*'"),
        ("https://*a.example", r"it holds '\*'"),
        ("https://*.*.example", r"it holds '\*'"),
        ("https://*.", "without a path"),
        ("https://$host", r"it holds '\$'"),
        ("https://xn--a.example", "IDNA"),
        ("https://*.xn--a.example", "IDNA"),
        ("https://*.1.2.3.4", "below names only"),
        ("https://*.[::1]", "below names only"),
        ("app://*.x", "below names only"),
        ("wss://example.com", "starts with http"),
        ("ws://*.example.com", "starts with http"),
    ],
)
def test_what_no_browser_sends_is_not_allowed_in_vain(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_allowed_origin(text)


def test_a_star_allows_all() -> None:
    assert parse_allowed_origin("*") is None


@pytest.mark.parametrize(
    ("allowed", "given", "admitted"),
    [
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://A.B.Example.COM:443", True),
        ("HTTPS://*.Example.com:443", "https://a.example.com", True),
        ("https://*.straße.example", "https://a.xn--strae-oqa.example", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://a.example.com.evil.example", False),
        ("https://*.example.com", "https://a.example.com.", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("https://example.com", "https://a.example.com", False),
        ("https://straße.example", "https://strasse.example", False),
        ("http://127.1", "http://127.0.0.1", True),
    ],
)
def test_whom_an_origin_admits(allowed: str, given: str, admitted: bool) -> None:
    origin = parse_allowed_origin(allowed)
    assert origin is not None
    assert origin.admits(parse_origin(given)) is admitted


@given(st.lists(st.sampled_from(["a", "b", "example", "com"]), min_size=1, max_size=5).map(".".join))
def test_below_is_below_at_any_depth(host: str) -> None:
    origin = parse_allowed_origin("https://*.example.com")
    assert origin is not None
    below = host.split(".")[-2:] == ["example", "com"] and host != "example.com"
    assert origin.admits(parse_origin(f"https://{host}")) is below


@pytest.mark.parametrize("text", ["", "feed", "/a b", "/a?b", "/a#b", "/a\n"])
def test_other_texts_are_no_paths(text: str) -> None:
    assert parse_path("/feed/%20") == "/feed/%20"
    with pytest.raises(ValueError, match="starts with /"):
        parse_path(text)
