"""What of a listener's address and of TLS can't be used is a configuration error as the output opens."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from trio_wsout import open_output
from trio_wsout.config import Config, Mode, Server, ServerTls, Tls
from trio_wsout.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path


async def problem_of(config: Config) -> Problem:
    """The one problem that an output tells as it opens."""
    with pytest.raises(ConfigError) as caught:
        async with open_output(config):
            pytest.fail("it can't be used")
    (problem,) = caught.value.problems
    return problem


def at(bind: str) -> Config:
    return Config(mode=Mode.SERVER_OUTPUT, server=Server(bind=bind))


@pytest.mark.parametrize("bind", ["a..b:80", "\ud800:80", "unix:\ud800", "nowhere"])
async def test_a_bind_address_of_a_configuration_made_in_python_is_judged_too(bind: str) -> None:
    problem = await problem_of(at(bind))
    assert problem.path == "server.bind"
    assert "expected host:port" in problem.reason


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "end the program that uses it"),
        (OSError(errno.EADDRNOTAVAIL, "not here"), "an address of this machine"),
        (OSError(errno.EACCES, "forbidden"), "a port of 1024 or more"),
        (OSError(errno.EMFILE, "too many"), "limit of open files"),
        (OSError(errno.EINVAL, "what?"), "choose another address"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "a name that can be resolved"),
    ],
)
async def test_advice_is_for_what_is_wrong_with_an_address(
    error: OSError, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **_more: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(trio, "open_tcp_listeners", fail)
    problem = await problem_of(at("127.0.0.1:1"))
    assert problem.path == "server.bind"
    assert problem.reason.startswith(f"127.0.0.1:1: {error.strerror}; ")
    assert advice in problem.reason


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x" * 150, "choose a shorter path"),
        ("none/s", "choose a path whose directory is there"),
        ("file/s", "choose a path whose directory is there"),
        ("file", "end the program that uses it"),
    ],
)
async def test_advice_is_for_what_is_wrong_with_a_path(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    problem = await problem_of(at(f"unix:{name}"))
    assert advice in problem.reason
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(("name", "words"), [("a\0", "NUL"), ("\ud800", "half of a surrogate pair")])
async def test_a_name_that_no_file_has_is_no_certificate(name: str, words: str) -> None:
    server = Server(bind="127.0.0.1:0", tls=ServerTls(cert=name, key="key.pem"))
    problem = await problem_of(Config(mode=Mode.SERVER_OUTPUT, server=server))
    assert problem.path == "server.tls.cert"
    assert words in problem.reason


async def test_a_certificate_with_other_characters_in_it_is_none() -> None:
    tls = Tls(ca_certificate="-----BEGIN CERTIFICATE-----\nü")
    problem = await problem_of(Config(url="wss://peer.test/", tls=tls))
    assert problem.path == "tls.ca-certificate"
    assert "OpenSSL says" in problem.reason


async def test_a_remark_beside_a_certificate_may_be_in_any_alphabet() -> None:
    text = trustme.CA().cert_pem.bytes().decode()
    async with open_output(Config(url="wss://peer.test/", tls=Tls(ca_certificate=f"bücher\n{text}"))):
        pass
