"""URLs of Valkey and Redis: what they name, templates in them, and that no password is shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import History, load_config
from trio_wsout.config.redis_url import check_redis_url, expand_redis_url, parse_redis_url
from trio_wsout.config.templates import no_value
from trio_wsout.errors import ConfigError

TEXTS = st.text(min_size=1, max_size=12).filter(
    lambda text: text.strip("\r\n") == text and max(text) < "\ud800"
)


def test_what_a_url_names() -> None:
    url = parse_redis_url(
        "rediss://joe:pa%40ss@Valkey.example:6380/3?stream=a%20b&ca-file=/ca.pem", stream=True
    )
    assert (url.host, url.port, url.db, url.tls, url.socket) == ("valkey.example", 6380, 3, True, "")
    assert (url.username, url.password, url.stream) == ("joe", "pa@ss", "a b")
    assert (url.ca_file, url.cert_file, url.key_file) == ("/ca.pem", None, None)
    assert str(url) == "rediss://valkey.example:6380/3"
    assert "pa@ss" not in repr(url)
    url = parse_redis_url("redis://:only@[::1]", stream=False)
    assert (url.host, url.port, url.db, url.username, url.password) == ("::1", 6379, 0, None, "only")
    url = parse_redis_url("unix:///run/valkey%20s?db=2&stream=x", stream=True)
    assert (url.socket, url.host, url.db, str(url)) == ("/run/valkey s", "", 2, "unix:///run/valkey s?db=2")
    assert str(parse_redis_url("unix:///s", stream=False)) == "unix:///s"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("redis://h/0", "names no stream; end it with"),
        ("redis://h?stream=", "stream without a value"),
        ("redis://h?stream=a&stream=b", "stream twice"),
        ("redis://h?stream=a&tls=1", "a key that is not known here; known: stream$"),
        ("redis://h?stream=a&ca-file=x", "known: stream$"),
        ("rediss://h?stream=a&key-file=x", "key-file needs cert-file"),
        ("redis://h?stream={a}", "holds no braces"),
        ("redis://h?stream=a%0a", "no control characters"),
        ("redis://h?stream", "the query behind \\? must be right"),
        ("redis://h?stream=%ff", "percent signs"),
        ("redis://h:x?stream=a", "the port must be"),
        ("redis://?stream=a", "has no host"),
        ("redis://:6379?stream=a", "has no host"),
        ("redis://[::1?stream=a", "expected redis://"),
        ("redis://h/x?stream=a", "the database must be a number"),
        ("redis://h/1/2?stream=a", "the database must be a number"),
        ("unix://run/s?stream=a", "three slashes"),
        ("unix:///s?stream=a&db=x", "the database must be a number"),
        ("redis://joe@h?stream=a", "a user needs a password"),
        ("redis://%ff:${env|P}@h?stream=a", "must be UTF-8"),
        ("redis://joe:hunter2@h?stream=a", "a password is written out; put"),
        ("redis://joe:hun${env|X}ter2@h?stream=a", "a password is written out"),
        ("redis://h?stream=a#b", "and #"),
        ("redis://h?stream=a b", "without spaces"),
        ("http://h?stream=a", "expected redis://host"),
        ("redis://${cursor}@h?stream=a", "must be \\$\\{env|NAME\\}"),
        ("redis://${env|X", "not closed"),
        ("${env|URL}", "names no stream"),
        ("unix://${env|SOCKET}?stream=x", "three slashes"),
        ("", "expected redis://"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        check_redis_url(text, stream=True)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "redis://h/0?stream=x",
        "redis://joe:${secret|p}@h/0?stream=x",
        "redis://${env|USER}:${secret|p}@${env|HOST}:${env|PORT}/${env|DB}?stream=${env|NAME}",
        "${env|REDIS_URL}?stream=x",
        "unix:///${env|SOCKET}?stream=x",
    ],
)
def test_what_is_accepted(text: str) -> None:
    check_redis_url(text, stream=True)


@given(TEXTS, TEXTS, TEXTS)
def test_values_are_encoded_where_they_stand(username: str, password: str, name: str) -> None:
    values = {
        "u": username,
        "p": password,
        "n": "".join(each for each in name if each.isprintable() and each not in "{}") + "n",
    }
    url = expand_redis_url(
        "redis://${env|u}:${secret|p}@${env|h||valkey:7000}/1?stream=${env|n}",
        lambda _, name: values.get(name or ""),
        stream=True,
    )
    assert (url.username, url.password, url.stream) == (username, password, values["n"])
    assert (url.host, url.port, url.db) == ("valkey", 7000, 1)


def test_a_value_may_be_the_whole_url() -> None:
    url = expand_redis_url("${env|URL}?stream=x", lambda *_: "rediss://:pw@valkey.example/2\n", stream=True)
    assert (url.host, url.password, url.db, url.tls) == ("valkey.example", "pw", 2, True)
    with pytest.raises(ValueError, match=re.escape("${env|URL} has no value")):
        expand_redis_url("${env|URL}?stream=x", no_value, stream=True)
    with pytest.raises(ValueError, match="database") as caught:
        expand_redis_url("${env|URL}?stream=x", lambda *_: "redis://:pw@h/secret", stream=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "field"),
    [({"history": {"store": "redis://:hunter2@h?stream=x"}}, "history.store")],
)
def test_no_error_of_a_configuration_holds_a_password(section: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"mode": "server-output", "server": {"bind": ":0"}, **section})
    (problem,) = caught.value.problems
    assert problem.path == field
    assert "a password is written out" in problem.reason
    assert "hunter2" not in str(caught.value)


def test_a_configuration_shows_the_template_only() -> None:
    store = "redis://joe:${secret|p}@h/0?stream=x"
    config = load_config({"mode": "server-output", "server": {"bind": ":0"}, "history": {"store": store}})
    assert config.history == History(store=store)
    config = load_config({"url": "ws://h", "cursor": {"header-name": "L", "persist-to": "redis://h/0"}})
    assert config.cursor is not None
    assert config.cursor.persist_to == "redis://h/0"
