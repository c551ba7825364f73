"""Which proxy an attempt goes through: what curl and requests would do with the same environment."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.proxies import choose_proxy, needs_no_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping


def chosen(
    environ: Mapping[str, str],
    *,
    configured: str | None = None,
    secure: bool = False,
    host: str = "a.example",
    port: int = 80,
) -> str | None:
    """Host and port of the proxy that is chosen."""
    found = choose_proxy(configured, environ, secure=secure, host=host, port=port)
    return None if found is None else f"{found.scheme}://{found.host}:{found.port}"


P, Q = "http://p:1", "http://q:2"

ENVIRONMENTS = {
    "nothing": (None, None, {}),
    "http": (P, None, {"http_proxy": P}),
    "https": (None, P, {"https_proxy": P}),
    "ws before http": (P, None, {"ws_proxy": P, "http_proxy": Q}),
    "wss before https": (None, P, {"wss_proxy": P, "https_proxy": Q}),
    "all": (P, P, {"all_proxy": P}),
    "all last": (P, Q, {"all_proxy": Q, "http_proxy": P}),
    "upper case": (P, P, {"HTTP_PROXY": P, "HTTPS_PROXY": P}),
    "lower before upper case": (P, P, {"ALL_PROXY": Q, "all_proxy": P}),
    "lower before upper case, empty": (None, None, {"ALL_PROXY": Q, "all_proxy": ""}),
    "empty, and then all": (Q, Q, {"http_proxy": "", "https_proxy": " ", "all_proxy": Q}),
    "a header of a CGI program": (None, P, {"HTTP_PROXY": P, "HTTPS_PROXY": P, "REQUEST_METHOD": "GET"}),
    "lower case in a CGI program": (P, None, {"http_proxy": P, "REQUEST_METHOD": "GET"}),
    "without a scheme": ("http://p:1", "http://p:80", {"http_proxy": "p:1", "https_proxy": "p"}),
    "with a slash": (P, None, {"http_proxy": f"{P}/"}),
    "blanks around it": (P, None, {"http_proxy": f" {P}\n"}),
    "SOCKS": ("socks5h://p:1080", "socks5://p:1080", {"all_proxy": "socks://p", "wss_proxy": "socks5://p"}),
    "an exception": (None, None, {"all_proxy": P, "no_proxy": "a.example"}),
    "an exception in upper case": (None, None, {"all_proxy": P, "NO_PROXY": "a.example"}),
    "exceptions in lower before upper case": (P, P, {"all_proxy": P, "no_proxy": "", "NO_PROXY": "*"}),
    "an exception from nonsense": (None, None, {"all_proxy": "ftp://p", "no_proxy": "a.example"}),
}


@pytest.mark.parametrize(("ws", "wss", "environ"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_environment_names_a_proxy(ws: str | None, wss: str | None, environ: Mapping[str, str]) -> None:
    assert chosen(environ) == ws
    assert chosen(environ, secure=True, port=443) == wss


def test_what_is_configured_counts_alone() -> None:
    environ = {"http_proxy": P, "no_proxy": "*"}
    assert chosen(environ, configured="https://q") == "https://q:443"
    assert chosen(environ, configured="none") is None
    assert chosen({"http_proxy": P}, configured="none") is None


@pytest.mark.parametrize("text", ["ftp://user:canary@p", "http://user:canary@p:99999", "user:canary@", "[:1"])
def test_a_variable_that_is_no_proxy_is_named_without_its_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the environment variable http_proxy is no proxy: ") as caught:
        chosen({"http_proxy": text})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "host", "port", "exempt"),
    [
        ("", "a.example", 80, False),
        ("*", "a.example", 80, True),
        ("*", "::1", 80, True),
        ("a.example", "a.example", 80, True),
        ("A.Example", "a.example", 80, True),
        ("a.example.", "a.example", 80, True),
        ("a.example", "a.example.", 80, True),
        ("a.example", "b.a.example", 80, True),
        ("a.example", "ba.example", 80, False),
        ("a.example", "example", 80, False),
        (".a.example", "a.example", 80, True),
        (".a.example", "b.a.example", 80, True),
        ("*.a.example", "a.example", 80, False),
        ("*.a.example", "c.b.a.example", 80, True),
        ("*a.example", "a.example", 80, False),
        ("straße.example", "xn--strae-oqa.example", 80, True),
        ("strasse.example", "xn--strae-oqa.example", 80, False),
        ("a.example:81", "a.example", 81, True),
        ("a.example:81", "a.example", 80, False),
        (".a.example:81", "b.a.example", 81, True),
        ("a.example:x", "a.example", 80, False),
        ("x, a.example ,y", "a.example", 80, True),
        ("x a.example", "a.example", 80, True),
        (",,", "a.example", 80, False),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("127.1", "127.0.0.1", 80, True),
        ("127.0.0.1", "127.0.0.2", 80, False),
        ("27.0.0.1", "127.0.0.1", 80, False),
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.0.0.1:81", "127.0.0.1", 80, False),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.1.2.3/8", "10.9.9.9", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.0.0.0/8", "10.example", 80, False),
        ("10.0.0.0/99", "10.0.0.0", 80, False),
        ("0.0.0.0/0", "a.example", 80, False),
        ("::1", "::1", 80, True),
        ("0:0::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:81", "::1", 80, False),
        ("fd00::/8", "fd12::1", 80, True),
        ("[fd00::]/8", "fd12::1", 80, True),
        ("fe80::/10", "fe80::1%eth0", 80, True),
        ("fe80::1", "fe80::1%eth0", 80, True),
        ("fd00::/8", "10.0.0.1", 80, False),
        ("localhost", "127.0.0.1", 80, False),
        ("192.168.", "192.168.0.1", 80, False),
    ],
)
def test_exceptions(listed: str, host: str, port: int, exempt: bool) -> None:
    assert needs_no_proxy(host, port, listed) is exempt


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 32))
def test_a_block_has_the_addresses_that_are_in_it(address: object, of: object, length: int) -> None:
    block = f"{of}/{length}"
    assert needs_no_proxy(str(address), 80, block) is (
        ip_address(str(address)) in ip_network(block, strict=False)
    )


@given(st.text(), st.sampled_from(["a.example", "10.0.0.1", "::1"]))
def test_whatever_is_listed_is_read(listed: str, host: str) -> None:
    """The variable belongs to other programs, too: nonsense in it is theirs."""
    assert needs_no_proxy(host, 80, listed) in {True, False}
    assert needs_no_proxy(host, 80, f"{listed},{host}")
