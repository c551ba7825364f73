"""Loading: all mistakes together, under the user's own key path, and never another exception."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, get_args

import pytest
from attrs import fields, has
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import (
    Auth,
    Batch,
    BatchMode,
    Config,
    Cursor,
    CursorFrom,
    DeliveryLevel,
    Mode,
    Reconnect,
    Retry,
    Secret,
    Server,
    dump_config,
    load_config,
    sections,
)
from trio_wsout.config.field_types import kebab
from trio_wsout.config.loading import verify_config
from trio_wsout.config.validation import UNUSABLE, unusable
from trio_wsout.errors import ConfigError
from trio_wsout.testing.strategies import configs, documents

if TYPE_CHECKING:
    from pathlib import Path

URL = "ws://peer.test/"


def problems(document: Any, **options: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config(document, **options)
    return {problem.path: problem.reason for problem in caught.value.problems}


def test_a_url_is_enough() -> None:
    assert load_config({"url": "http://peer.test/x"}) == Config(url="ws://peer.test/x")


@given(documents())
def test_valid_documents_load(document: dict[str, Any]) -> None:
    assert load_config(document).mode is Mode.CLIENT


@given(configs())
def test_what_is_dumped_loads_to_the_same(config: Config) -> None:
    assert load_config(dump_config(config)) == config


def test_the_full_form_and_its_paths() -> None:
    assert load_config({"output": {"web-socket": {"url": URL}}}) == Config(url=URL)
    assert load_config({"output": {"web_socket": {"url": URL}}}) == Config(url=URL)
    assert set(problems({"output": {"web-socket": {"url": URL, "retry": {"tries": 1}}}})) == {
        "output.web-socket.retry.tries"
    }
    assert "url" in next(iter(problems({"output": {"web-socket": 7}})))


def test_kebab_and_snake_are_the_same_name_but_not_both() -> None:
    both = {"url": URL, "reconnect": {"max-attempts": 3, "max_attempts": 3}}
    assert load_config({"url": URL, "max_message_size": 9}).max_message_size == 9
    assert list(problems(both)) == ["reconnect.max_attempts"]
    assert list(problems({"url": URL, "max-message-size": 1, "max_message_size": 0})) == ["max_message_size"]
    assert list(problems({"url": URL, "max_message_size": 5, "max-message-size": 0})) == [
        "max_message_size",
        "max-message-size",
    ]
    assert list(problems({**both, "max-message-size": -1, "max_message_size": 0})) == [
        "reconnect.max_attempts",
        "max-message-size",
        "max_message_size",
    ]


def test_all_problems_come_at_once_in_the_users_spelling() -> None:
    found = problems(
        {
            "url": "http://u:canary@h",
            "retyr": {},
            "reconnect": {"jitter": 2, "multiplier": True, "max_attempt": 3},
            "batch": {"fixed_size": "9"},
            "headers": {"a": [], "b": "${nope}"},
            "subprotocols": "abc",
            "auth": {"bearer-token": [], "basic": {"username": "x"}},
            "heartbeat": [],
            "tls": 7,
            "delivery": "soon",
            "retry": {"timeout": "soon", "retries": 2.7},
        }
    )
    assert set(found) == {
        "url",
        "retyr",
        "reconnect.jitter",
        "reconnect.multiplier",
        "reconnect.max_attempt",
        "batch.mode",
        "batch.fixed_size",
        "headers.a",
        "headers.b",
        "subprotocols",
        "auth.basic",
        "auth.bearer-token",
        "auth.basic.password",
        "heartbeat",
        "tls",
        "delivery.level",
        "retry.timeout",
        "retry.retries",
    }
    assert "did you mean retry?" in found["retyr"]
    assert "did you mean max-attempts?" in found["reconnect.max_attempt"]
    assert "0 to 1; found 2" in found["reconnect.jitter"]
    assert "found true" in found["reconnect.multiplier"]
    assert "found '9'" in found["batch.fixed_size"]
    assert found["batch.mode"] == "is required"
    assert "canary" not in str(found)
    assert "***" in found["auth.bearer-token"]


def test_a_missing_section_says_what_belongs_into_it() -> None:
    found = problems({"mode": "relay", "server": {"bind": ":1", "tls": {}}})
    assert found == {"server.tls.cert": "is required", "server.tls.key": "is required"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true"),
        ("x", "a text"),
        (1, "a number"),
        ({}, "a mapping"),
        (object(), "object"),
    ],
)
def test_what_was_found_is_said(value: object, words: str) -> None:
    assert words in problems({"url": URL, "subprotocols": value})["subprotocols"]


def test_long_values_are_cut() -> None:
    assert len(problems({"url": URL, "payload": "x" * 1000})["payload"]) < 200


def test_elements_of_lists_have_their_index() -> None:
    found = problems({"url": URL, "reconnect": {"give-up-on": [4001, "x", 1]}, "subprotocols": ["a", None]})
    assert "nothing (null)" in found["subprotocols[1]"]
    assert set(found) == {"reconnect.give-up-on[1]", "reconnect.give-up-on[2]", "subprotocols[1]"}


def test_rules_between_fields_are_reported_in_the_users_spelling() -> None:
    found = problems({"url": URL, "reconnect": {"initial_backoff": 5, "max_backoff": "1s"}, "cursor": {}})
    assert set(found) == {"reconnect.max_backoff", "cursor"}


def test_keys_that_are_no_texts() -> None:
    assert set(problems({"url": URL, 7: 1})) == {"7"}
    assert set(problems({"url": URL, "retry": {None: 1}})) == {"retry.None"}


def test_names_in_tables_that_are_no_texts() -> None:
    assert "names that are texts" in problems({"url": URL, "headers": {1: "x"}})["headers"]
    assert "halves" in problems({"url": URL, "query": {"\ud800": "x"}})["query"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("batch.header", {"batch": {"mode": "fixed", "header": "\ud800"}}),
        ("batch.footer", {"batch": {"mode": "fixed", "footer": "a\udfff{{x}}"}}),
        ("cursor.initial-value", {"cursor": {"header-name": "L", "initial-value": "a\udc80"}}),
        ("cursor.state-id", {"cursor": {"header-name": "L", "state-id": "\ud800"}}),
        ("heartbeat.payload", {"heartbeat": {"payload": "\ud800"}}),
        ("auth.bearer-token", {"auth": {"bearer-token": "canary\ud800"}}),
        ("headers.X", {"headers": {"X": "canary\ud800"}}),
        ("subprotocols[1]", {"subprotocols": ["a", "\ud800"]}),
        ("tls.ca-certificate", {"tls": {"ca-certificate": "\ud800"}}),
        ("payload", {"payload": "\ud800"}),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(path: str, fields: dict[str, Any]) -> None:
    found = problems({"url": URL, **fields})
    assert list(found) == [path]
    assert "half of a surrogate pair" in found[path]
    assert "canary" not in str(found)


@pytest.mark.parametrize("place", ["", "\0"])
def test_what_is_no_place_is_refused(place: str) -> None:
    cursor = {"header-name": "L", "persist-to": place}
    assert set(problems({"url": URL, "spool": {"path": place}, "cursor": cursor})) == {
        "spool.path",
        "cursor.persist-to",
    }
    tls = {"cert": place, "key": place}
    found = problems(
        {"mode": "server-output", "server": {"bind": ":0", "tls": tls}, "history": {"store": place}}
    )
    assert set(found) == {"server.tls.cert", "server.tls.key", "history.store"}


def test_half_of_a_surrogate_pair_of_the_context_is_in_no_batch() -> None:
    document = {"url": URL, "batch": {"mode": "fixed", "header": "{{x}}", "footer": "{{x}}"}}
    assert set(problems(document, context={"x": "\ud800"})) == {"batch.header", "batch.footer"}


@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["positive", "negative"])
@pytest.mark.parametrize(
    "path", ["max-message-size", "retry.timeout", "reconnect.max-attempts", "reconnect.jitter", "payload"]
)
def test_a_number_of_any_length_is_refused_like_any_other(path: str, number: int) -> None:
    found = problems({"url": URL}, overrides={path: number})
    assert list(found) == [path]
    assert "found a number of more than 60 digits" in found[path]


def test_a_mapping_that_is_nested_without_end_is_refused() -> None:
    endless: dict[str, object] = {"url": URL}
    endless["retry"] = endless
    assert problems(endless) == {"": "is nested too deeply"}


def test_delivery_may_be_its_level() -> None:
    assert load_config({"url": URL, "delivery": "acked"}).delivery.level is DeliveryLevel.ACKED


def test_context_is_put_in_and_escaped_where_templates_are() -> None:
    document = {"url": "ws://{{host}}/", "headers": {"X": "{{v}}${cursor}"}, "batch": {"mode": "{{ m }}"}}
    config = load_config(document, context={"host": "h.test", "v": "${env|HOME}", "m": "fixed"})
    assert config.url == "ws://h.test/"
    assert config.headers == {"X": "$${env|HOME}${cursor}"}
    assert config.batch is not None
    assert config.batch.mode is BatchMode.FIXED
    assert "not in the context" in problems({"url": "ws://{{host}}/"})["url"]


def test_a_context_may_be_nested_and_its_values_stand_for_numbers_and_flags() -> None:
    document = {
        "url": "ws://{{site.host}}:{{site.port}}/",
        "batch": {
            "mode": "fixed",
            "fixed-size": "{{n}}",
            "timeout": "{{seconds}}",
            "wrap-as-json": "{{flag}}",
        },
        "headers": {"X": "{{flag}} {{n}}"},
        "heartbeat": {"payload": "{{n}}"},
        "reconnect": {"jitter": "{{half}}"},
    }
    context = {"site": {"host": "h.test", "port": 81}, "n": 5, "seconds": 2, "flag": True, "half": 0.5}
    config = load_config(document, context=context)
    assert config.batch is not None
    assert config.heartbeat is not None
    assert (config.batch.fixed_size, config.batch.timeout, config.batch.wrap_as_json) == (5, 2.0, True)
    assert (config.url, config.headers["X"]) == ("ws://h.test:81/", "true 5")
    assert (config.heartbeat.payload, config.reconnect.jitter) == ("5", 0.5)
    wrong = problems(document, context={**context, "n": "5", "flag": 1})
    assert set(wrong) == {"batch.fixed-size", "batch.wrap-as-json"}, "texts are no numbers, numbers no flags"


def test_templates_that_are_known_elsewhere_or_nowhere_are_told() -> None:
    wrong = problems(
        {
            "url": "ws://h/${batch|number}",
            "headers": {"X": "@{job}"},
            "auth": {"bearer-token": "canary${nope||canary}"},
            "batch": {"mode": "fixed", "header": "@{job.name}", "footer": "${batch|size}"},
        }
    )
    assert "batch.header and batch.footer only" in wrong["url"]
    assert "@@{" in wrong["headers.X"]
    assert "${file|PATH}" in wrong["auth.bearer-token"]
    assert "canary" not in str(wrong)
    assert "another system" in wrong["batch.header"]
    assert "${batch|count}" in wrong["batch.footer"]


def test_a_url_may_be_several_and_one_of_them_alone_is_itself() -> None:
    config = load_config({"url": ["http://{{host}}/", "wss://b.test/${env|X}"]}, context={"host": "a.test"})
    assert config.url == config.urls == ("ws://a.test/", "wss://b.test/${env|X}")
    assert dump_config(config)["url"] == ["ws://a.test/", "wss://b.test/${env|X}"]
    assert load_config({"url": ["ws://a.test/"]}) == load_config({"url": "ws://a.test/"})
    assert load_config({"url": URL}, overrides={"url": ["ws://a/", "ws://b/"]}).urls == ("ws://a/", "ws://b/")
    assert verify_config(Config(url=("http://a/", "ws://b/"))).urls == ("ws://a/", "ws://b/")
    assert load_config({"mode": "relay", "server": {"bind": ":1"}}).urls == ()


def test_each_wrong_url_has_its_index() -> None:
    wrong = problems({"url": ["ws://a/", "ftp://b/", ["ws://c/"], "ws://u:canary@d/"]})
    assert set(wrong) == {"url[1]", "url[2]", "url[3]"}
    assert "canary" not in str(wrong["url[3]"])
    assert set(problems({"url": ["ftp://b/"]})) == {"url[0]"}
    assert problems({"url": []}) == {"url": "is an empty list; name at least one"}


def test_a_cursor_of_what_comes_in_has_the_usual_header_unless_it_goes_another_way() -> None:
    def cursor(**fields: Any) -> Cursor | None:
        return load_config({"url": URL, "cursor": {"from": "received", **fields}}).cursor

    follows = {"from_": CursorFrom.RECEIVED, "value_field": "id"}
    assert cursor(**{"value-field": "id"}) == Cursor(header_name="Last-Event-ID", **follows)  # type: ignore[arg-type]
    assert cursor(**{"value-field": "id", "query-parameter": "q"}) == Cursor(query_parameter="q", **follows)  # type: ignore[arg-type]
    assert Cursor(header_name="X", **follows).header_name == "X"  # type: ignore[arg-type]
    assert Cursor(value_field="id").header_name is None
    assert problems({"url": URL, "cursor": {"from": "received"}}) == {
        "cursor.from": "is received: needs value-field or value-pointer, to find the cursor in a message"
    }
    assert (
        "expected one of sent, received"
        in problems({"url": URL, "cursor": {"from_": "both"}})["cursor.from_"]
    )


def test_overrides_go_over_the_document() -> None:
    document = {"url": URL, "reconnect": {"max_backoff": 60}}
    config = load_config(
        document,
        overrides={"reconnect.max-backoff": 90, "retry.retries": 3, "url": "ws://other/", "payload": "json"},
    )
    assert (config.reconnect.max_backoff, config.retry.retries, config.url) == (90.0, 3, "ws://other/")
    assert document == {"url": URL, "reconnect": {"max_backoff": 60}}, "the caller's stays"
    assert load_config({"url": URL, "retry": None}, overrides={"retry.retries": 3}).retry.retries == 3
    assert "leads to no field" in problems({"url": URL}, overrides={"url.x": 1})["url.x"]
    assert "leads to no field" in problems({"url": URL}, overrides={"retry.": 1})["retry."]
    assert "leads to no field" in problems({"url": URL}, overrides={"url.x.y": 1})["url.x.y"]


def test_secrets_are_never_in_a_problem_or_a_repr() -> None:
    secret = {
        "url": URL,
        "auth": {"bearer-token": "canary1", "headers": {"X": "canary2"}, "query": {"q": "canary3"}},
        "headers": {"Authorization": "canary4", "cookie": "canary5"},
        "tls": {"client-certificate": "c", "client-key": "canary6"},
        "connect": {"proxy": "http://u:canary7@p:1"},
    }
    config = load_config(secret)
    assert "canary" not in repr(config)
    assert "canary" not in str(dump_config(config, redacted=True))
    assert dump_config(config)["auth"]["bearer-token"] == "canary1"
    assert config.auth.bearer_token == Secret("canary1")
    assert str(config.auth.bearer_token) == "***"
    broken = copy.deepcopy(secret)
    broken["auth"]["bearer-token"] = "canary ${"  # type: ignore[index]
    broken["auth"]["query"]["q"] = []  # type: ignore[index]
    broken["headers"]["cookie"] = "${canary}"  # type: ignore[index]
    broken["connect"]["proxy"] = "canary"  # type: ignore[index]
    assert set(found := problems(broken)) == {
        "auth.bearer-token",
        "auth.query.q",
        "headers.cookie",
        "connect.proxy",
    }
    assert "canary" not in str(found)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(object()),
)


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(document, dict):
        found += [place for key, value in document.items() for place in _places(value, (*path, key))]
    elif isinstance(document, list):
        found += [place for index, value in enumerate(document) for place in _places(value, (*path, index))]
    return found


@given(documents(), JUNK, st.data())
def test_junk_anywhere_is_fine_or_a_problem_at_that_place(
    document: dict[str, Any], junk: Any, data: st.DataObject
) -> None:
    *above, last = data.draw(st.sampled_from(_places(document)))
    place: Any = document
    for key in above:
        place = place[key]
    place[last] = junk
    try:
        load_config(document)
    except ConfigError as error:
        top = str(above[0] if above else last).replace("_", "-")
        assert any(each.path.replace("_", "-").startswith(top) for each in error.problems)
        assert str(error)


@given(documents(), st.data())
def test_an_unknown_key_anywhere_is_named(document: dict[str, Any], data: st.DataObject) -> None:
    names = ("reconnect", "batch", "connect", "heartbeat", "cursor")
    sections = [name for name in names if isinstance(document.get(name), dict)]
    name = data.draw(st.sampled_from([None, *sections]))
    place = document if name is None else document[name]
    place["unheard-of"] = 1
    assert ("unheard-of" if name is None else f"{name}.unheard-of") in problems(document)


@given(st.dictionaries(st.text(max_size=5) | st.integers(), JUNK, max_size=4))
def test_documents_from_nowhere_give_config_errors(document: dict[Any, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(document)
    assert caught.value.problems


def test_a_key_is_the_name_of_its_attribute_with_dashes() -> None:
    assert kebab("max_message_size") == "max-message-size"


# -- files --------------------------------------------------------------------------------------------

BROKEN = {
    "job.yaml": (
        "output:\n  web-socket:\n    url: ws://h\n    retyr: {}\n    reconnect:\n      jitter: 3\n    subprotocols: [a, []]\n",
        {
            "output.web-socket.retyr": 4,
            "output.web-socket.reconnect.jitter": 6,
            "output.web-socket.subprotocols[1]": 7,
        },
    ),
    "job.toml": (
        'url = "ws://h"\nretyr = 1\n[reconnect]\n"jitter" = 3\nmax_attempts = 0\n[batch]\n# nothing\n',
        {"retyr": 2, "reconnect.jitter": 4, "reconnect.max_attempts": 5, "batch.mode": 6},
    ),
    "job.json": (
        '{\n "url": "ws://h",\n "x{": 1,\n "reconnect": {"jitter": 3,\n  "give-up-on": [1, "]"]},\n "retyr": [{"a": 1}]\n}',
        {
            "x{": 3,
            "reconnect.jitter": 4,
            "reconnect.give-up-on[0]": 5,
            "reconnect.give-up-on[1]": 5,
            "retyr": 6,
        },
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_problems_of_files_have_their_line(name: str, tmp_path: Path) -> None:
    text, lines = BROKEN[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert {each.path: each.line for each in caught.value.problems} == lines
    assert str(path) in str(caught.value)
    assert [each.line for each in caught.value.problems] == sorted(lines.values())
    assert all((each.column or 0) >= 1 for each in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "job.yaml",
            "# yes\nurl: &u ws://h/\nbatch: {mode: fixed, wrap-as-json: &t true}\nheartbeat: &h {timeout: 5s}\nconnect:\n  <<: *h\n",
        ),
        ("job.yml", "url: 'ws://h/'\nbatch:\n  mode: fixed\n  wrap-as-json: true\nheartbeat: {}\n"),
        ("job.toml", 'url = "ws://h/"\nheartbeat = {}\n[batch]\nmode = "fixed"\nwrap-as-json = true\n'),
        (
            "job.json",
            '\ufeff{"url": "ws://h/", "heartbeat": {}, "batch": {"mode": "fixed", "wrap_as_json": true}}',
        ),
    ],
)
def test_files_load(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    config = load_config(str(path))
    assert config.url == "ws://h/"
    assert config.batch is not None
    assert config.batch.wrap_as_json is True
    assert config.heartbeat is not None


LAUGHING = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{each}: &a{each} [{', '.join([f'*a{each - 1}'] * 9)}]\n" for each in range(1, 9)
)
"""Nine lines for hundreds of millions of values."""
DEEP = "a0: &a0 " + "[" * 100 + "]" * 100 + "\n"
DEEP += "".join(f"a{each}: &a{each} {'[' * 100}*a{each - 1}{']' * 100}\n" for each in range(1, 20))
"""Nested deeper than any line of it is."""


@pytest.mark.parametrize(
    ("name", "text", "reason", "line"),
    [
        ("a.yaml", "url: a\nurl: b\n", "the key 'url' is there twice", 2),
        ("a.yaml", "url: [\n", "YAML", 2),
        ("a.yaml", "a: \x01", "YAML", None),
        ("a.yaml", "a: !!float x\n", "YAML", None),
        ("a.yaml", "a: 1\n? [1, 2]\n: x\n", "a key that is no text", 2),
        ("a.yaml", "", "mapping", None),
        ("a.yaml", "headers:\n  1: a\n  '1': b\n", "the key '1' is there twice", 3),
        ("a.yaml", "url: ws://h\n'true': 1\ntrue: 2\n", "the key 'true' is there twice", 3),
        ("a.yaml", "? 0x" + "F" * 5000 + "\n: 1\n", "is not a known field", 1),
        ("a.yaml", "a: " + "9" * 5000, "YAML", None),
        ("a.yaml", "url: ws://h\nconnect: {<<: 5}\n", "takes mappings", 2),
        ("a.yaml", "a: !!binary x", "YAML", None),
        ("a.yaml", LAUGHING, "stands for more than 100000 values", None),
        ("a.yaml", DEEP, "nested too deeply", None),
        ("a.yaml", "- 1\n", "mapping", None),
        ("a.yaml", "a: !!python/object:os.system {}\nurl: {{x}}\n", "", None),
        ("a.yaml", "url: 1:30\npayload: no\n", "", 1),
        ("a.toml", "url = \n", "TOML", 1),
        ("a.toml", "url = 1\nurl = 2\n", "TOML", 2),
        ("a.json", "{", "JSON", 1),
        ("a.json", '{"a": 1,\n "a": 2}', "twice", 1),
        ("a.toml", 'url="ws://h"\nmax-message-size = ' + "9" * 5000, "thousands of digits", 2),
        ("a.toml", "a=" + "1_" * 5000 + "1", "thousands of digits", 1),
        ("a.toml", "url=" + "[" * 20_000, "nested", None),
        ("a.json", "[" * 100_000, "nested", None),
        ("a.json", '{"a":' * 200 + "1" + "}" * 200, "is nested too deeply", None),
        ("a.json", '{"a":' * 900 + "1" + "}" * 900, "is nested too deeply", None),
        ("a.toml", "a = " + "{a = " * 150 + "1" + "}" * 150, "is nested too deeply", None),
        ("a.yaml", "{a: " * 150 + "1" + "}" * 150, "is nested too deeply", None),
        ("a.json", '{"a": 1,\n"max-message-size": ' + "9" * 5000 + "}", "thousands of digits", 2),
        ("a.json", "[1]", "mapping", None),
        ("a.json", "}{", "JSON", 1),
        ("a.json", ",", "JSON", 1),
        ("a.json", '{"a": [,]}', "JSON", 1),
        ("a.ini", "", "ending", None),
    ],
)
def test_broken_files_are_refused(
    name: str, text: str, reason: str, line: int | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert reason in caught.value.problems[0].reason
    assert line is None or caught.value.problems[0].line == line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in problems(tmp_path / "none.yaml")[""]
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"url: \xff")
    assert "UTF-8" in problems(path)[""]


def test_yaml_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("url: ws://h")
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    assert "pip install" in problems(path)[""]


def test_aliases_may_be_used_as_often_as_anybody_needs(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    lines = "".join(f"  x{each}: *v\n" for each in range(1000))
    path.write_text(f"url: ws://h\nheaders:\n  x: &v value\n{lines}")
    assert load_config(path).headers["x999"] == "value"


def test_an_endless_alias_ends(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("url: ws://h\nheaders: &a\n  x: *a\n")
    assert "nested too deeply" in problems(path)[""]


# -- all problems together ----------------------------------------------------------------------------

FAULTS: dict[str, dict[str, Any]] = {
    "url": {"url": "ftp://x"},
    "payload": {"payload": "xml"},
    "retry.timeout": {"retry": {"timeout": "soon"}},
    "reconnect.max-backoff": {"reconnect": {"initial-backoff": "9s", "max-backoff": "1s"}},
    "connect.eager": {"connect": {"eager": True}},
    "auth.basic": {"auth": {"bearer-token": "x", "basic": {"username": "u", "password": "p"}}},
    "headers.Host": {"headers": {"Host": "x"}},
    "query.a": {"query": {"a": "${nope}"}},
    "tls.client-key": {"tls": {"client-key": "x"}},
    "subprotocols[1]": {"subprotocols": ["a", "a"]},
    "cursor.value-pointer": {"cursor": {"header-name": "L", "value-field": "id", "value-pointer": "/id"}},
    "server": {"server": {"bind": ":0"}},
    "history.store": {"history": {"store": "nowhere"}},
    "spool.path": {"spool": {"max-bytes": "1GiB"}},
    "batch.mode": {"batch": {"fixed-size": 3}},
    "delivery.level": {"delivery": "soon"},
    "max_message_size": {"max-message-size": 5, "max_message_size": 5},
    "shutdown-timeout": {"shutdown-timeout": "20"},
    "unheard-of": {"unheard-of": 1},
}
"""Documents with a fault each; no two touch the same field."""


def _told(faults: list[str]) -> set[tuple[str, str]]:
    document: dict[str, Any] = {"url": URL}
    for name in faults:
        document.update(copy.deepcopy(FAULTS[name]))
    return set(problems(document).items())


@given(st.lists(st.sampled_from(list(FAULTS)), min_size=1, unique=True))
def test_the_problems_of_many_faults_are_those_of_each(faults: list[str]) -> None:
    told = _told(faults)
    assert set(faults) <= {path for path, _ in told}
    assert told == {each for name in faults for each in _told([name])}


def _leaves(section: type, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for each in fields(section):
        key, inner = kebab(each.name), _section_of(each.type)
        found += [(*above, key), *(_leaves(inner, (*above, key)) if inner is not None else [])]
    return found


def _section_of(annotation: Any) -> Any:
    sections_there = [getattr(sections, name) for name in sections.__all__]
    of = (annotation, *get_args(annotation))
    return next((each for each in of if each in sections_there and has(each)), None)


COMPLETE: dict[str, Any] = {
    "url": URL,
    "batch": {"mode": "fixed"},
    "cursor": {"header-name": "L"},
    "spool": {"path": "x"},
    "auth": {"basic": {"username": "u", "password": "p"}},
    "server": {"bind": ":0", "tls": {"cert": "c", "key": "k"}},
}


@pytest.mark.parametrize("mode", [each.value for each in Mode])
@pytest.mark.parametrize("path", _leaves(Config), ids=".".join)
def test_no_rule_stumbles_over_what_could_not_be_read(path: tuple[str, ...], mode: str) -> None:
    document = copy.deepcopy({**COMPLETE, "mode": mode})
    place: Any = document
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = object()
    assert ".".join(path) in problems(document)


@given(documents(), documents())
def test_nobodys_context_is_seen_by_another_document(one: dict[str, Any], other: dict[str, Any]) -> None:
    document = {**one, "cursor": {"header-name": "L", "state-id": "{{x}}"}}
    assert (
        load_config(document, context={"x": "a"}).cursor != load_config(document, context={"x": "b"}).cursor
    )
    assert load_config(other) == load_config(other)
    assert "not in the context" in problems(document)["cursor.state-id"]


# -- a Config made in Python --------------------------------------------------------------------------


@given(configs())
def test_a_loaded_config_is_verified_as_it_is(config: Config) -> None:
    assert verify_config(config) == config


def test_a_config_made_in_python_is_read_as_a_document() -> None:
    made: Any = Config(
        url="http://peer.test/",
        mode="client",  # type: ignore[arg-type]
        retry=Retry(timeout="5 min"),  # type: ignore[arg-type]
        reconnect={"jitter": 0},  # type: ignore[arg-type]
        cursor=Cursor(header_name="L", state_id="{{not a context}}"),
        tls=None,  # type: ignore[arg-type]
    )
    config = verify_config(made)
    assert config == load_config(
        {
            "url": "ws://peer.test/",
            "retry": {"timeout": 300},
            "reconnect": {"jitter": 0},
            "cursor": {"header-name": "L", "state-id": "{{x}}"},
        },
        context={"x": "{{not a context}}"},
    )


def test_every_mistake_of_a_config_made_in_python_is_told() -> None:
    made: Any = Config(
        url=5,  # type: ignore[arg-type]
        retry=Retry(timeout=-1.0, retries=1.5),  # type: ignore[arg-type]
        reconnect=Reconnect(initial_backoff="x", give_up_on=((1, 2), (4001, "x"))),  # type: ignore[arg-type]
        headers={"Host": "a", 7: "b"},  # type: ignore[dict-item]
        auth=Auth(bearer_token=Secret("canary canary"), headers={"X": "can\nary"}),  # type: ignore[dict-item]
        server=3,  # type: ignore[arg-type]
        connect=Retry(),  # type: ignore[arg-type]
        max_message_size=0,
        query={"a": Secret("canary")},  # type: ignore[dict-item]
    )
    with pytest.raises(ConfigError) as caught:
        verify_config(made)
    assert {each.path for each in caught.value.problems} == {
        "url",
        "retry.timeout",
        "retry.retries",
        "reconnect.initial-backoff",
        "reconnect.give-up-on[0]",
        "reconnect.give-up-on[1]",
        "headers",
        "auth.bearer-token",
        "auth.headers.X",
        "query.a",
        "server",
        "connect.retries",
        "max-message-size",
    }
    assert "can" not in str(caught.value).replace("can't", "")


# -- where a field belongs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ({"bearer-token": "x"}, "bearer-token", "belongs to auth.bearer-token"),
        ({"ping_interval": 1}, "ping_interval", "belongs to heartbeat.ping-interval"),
        ({"max-attempts": 1}, "max-attempts", "belongs to reconnect.max-attempts"),
        ({"value-field": "x"}, "value-field", "belongs to cursor.value-field"),
        ({"auth": {"url": "x"}}, "auth.url", "belongs to url"),
        ({"auth": {"password": "x"}}, "auth.password", "belongs to auth.basic.password"),
        ({"connect": {"retries": 1}}, "connect.retries", "belongs to retry.retries"),
        ({"timeout": 1}, "timeout", "connect.timeout or retry.timeout or batch.timeout or heartbeat.timeout"),
        ({"tls": {"cert": "x"}}, "tls.cert", "belongs to server.tls.cert"),
        ({"bearer-tokn": 1}, "bearer-tokn", "did you mean auth.bearer-token?"),
        ({"reconnect": {"maxattempts": 1}}, "reconnect.maxattempts", "did you mean max-attempts?"),
        ({"retry": {"zzz": 1}}, "retry.zzz", "known here: "),
    ],
)
def test_an_unknown_field_says_where_it_belongs(document: dict[str, Any], path: str, words: str) -> None:
    found = problems({"url": URL, **document})
    assert list(found) == [path]
    assert words in found[path]
    assert len(found[path]) < 160


def test_what_is_like_nothing_names_a_few_and_counts_the_rest() -> None:
    assert "more, see trio-wsout schema" in problems({"url": URL, "zzz": 1})["zzz"]


# -- what a mode can't use ----------------------------------------------------------------------------

USABLE: dict[str, dict[str, Any]] = {
    "client": {"url": URL},
    "server-output": {"mode": "server-output", "server": {"bind": ":0"}},
    "server-input": {"mode": "server-input", "server": {"bind": ":0"}},
    "relay": {"mode": "relay", "server": {"bind": ":0"}, "url": URL, "payload": "json"},
    "relay-alone": {"mode": "relay", "server": {"bind": ":0"}, "payload": "json"},
}
SAYING: dict[str, Any] = {
    "url": URL,
    "connect": {"timeout": 1},
    "reconnect": {"jitter": 0},
    "auth": {"bearer-token": "x"},
    "tls": {"insecure-skip-verify": True},
    "headers": {"a": "x"},
    "query": {"a": "x"},
    "spool": {"path": "x"},
    "history": {"max-events": 1},
    "server": {"bind": ":0"},
    "retry": {"timeout": 1},
    "delivery": "acked",
    "cursor": {"header-name": "L"},
    "retry.retries": 3,
    "cursor.from_": "received",
    "cursor.initial_value": "x",
    "cursor.persist_to": "memory:",
    "cursor.state_id": "x",
    "cursor.resume_on_reconnect": False,
    "batch.fixed_size": 3,
    "batch.timeout": 3,
    "batch.use_document_marker": True,
    "server.send_buffer_capacity": 3,
    "server.slow_peer": "disconnect",
    "server.slow_peer_timeout": 3,
    "server.sender_field": "from",
}
"""For each field that some mode can't use, a value that says something."""
BESIDE: dict[str, dict[str, Any]] = {
    "cursor": {"header-name": "L", "value-field": "id"},
    "batch": {"mode": "fixed"},
    "server": {"bind": ":0"},
}


def _cannot_use(kind: str) -> tuple[str, ...]:
    return unusable(Mode(kind.removesuffix("-alone")), link=kind in {"client", "relay"})


def _with(kind: str, name: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(USABLE[kind])
    section, _, field = name.rpartition(".")
    if not section:
        document[name] = value
        return document
    document[section] = {**BESIDE.get(section, {}), kebab(field): value}
    return document


def test_every_field_that_some_mode_cannot_use_has_a_cell() -> None:
    assert {name for kind in USABLE for name in _cannot_use(kind)} == set(SAYING)


@pytest.mark.parametrize("kind", USABLE)
@pytest.mark.parametrize("name", SAYING)
def test_each_cell_of_the_table_of_modes(name: str, kind: str) -> None:
    key = kebab(name)
    cannot_use = _cannot_use(kind)
    document = _with(kind, name, SAYING[name])
    if name in cannot_use:
        found = problems(document)
        assert list(found) == [key]
        words = (
            f"mode {kind}"
            if name in UNUSABLE[Mode(kind.removesuffix("-alone"))]
            else "relay, which needs url"
        )
        assert words.removesuffix("-alone") in found[key]
    elif name.partition(".")[0] not in cannot_use and not (kind == "relay-alone" and name == "url"):
        assert load_config(document)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in USABLE for name in _cannot_use(kind)])
@pytest.mark.parametrize("value", [None, "", {}, [], "default"])
def test_what_says_nothing_is_as_if_it_were_not_there(name: str, kind: str, value: object) -> None:
    if value == "default":
        value = WRITTEN_DEFAULTS
        for key in kebab(name).split("."):
            value = value.get(key) if isinstance(value, dict) else None
    assert load_config(_with(kind, name, value)) == load_config(_with(kind, name, None))


WRITTEN_DEFAULTS = dump_config(
    Config(url=URL, batch=Batch(mode=BatchMode.FIXED), cursor=Cursor(header_name="L"))
) | {"url": None, "server": dump_config(Config(mode=Mode.RELAY, server=Server(bind=":0")))["server"]}
WRITTEN_DEFAULTS["server"]["bind"] = ""
WRITTEN_DEFAULTS["cursor"]["header-name"] = None


def test_defaults_that_are_written_out_are_accepted_in_every_mode() -> None:
    written = dump_config(Config(url=URL))
    del written["url"], written["mode"]
    for kind, document in USABLE.items():
        assert load_config({**written, **copy.deepcopy(document)}) == load_config(document), kind


# -- numbers and dates where texts are wanted ---------------------------------------------------------

WRITTEN = [
    "7",
    "1.10",
    "010",
    "0x10",
    "1e3",
    "2024-01-01",
    "1_000",
    "-0",
    "+1",
    ".5",
    "00123456789012345678901",
]


@pytest.mark.parametrize("text", [*WRITTEN, "yes", "2024-01-01T10:00:00Z", "true"])
def test_yaml_texts_without_quotes_are_taken_as_they_are_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"url: ws://h\nheaders: {{X: {text}}}\nquery:\n  a: &a {text}\n  b: *a\ncursor:\n  header-name: L\n  state-id: {text}\n"
    )
    config = load_config(path)
    assert config.headers == {"X": text}
    assert config.query == {"a": text, "b": text}
    assert config.cursor is not None
    assert config.cursor.state_id == text


@pytest.mark.parametrize("text", ["7", "1.10", "1_0.5", "1e3", "2024-01-01", "10:00:00", "true"])
def test_toml_texts_without_quotes_are_taken_as_they_are_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        f'url = "ws://h"\nheaders = {{ "X" = {text}, Y = 7 }}\n[query]\na = {text} # a\nb.c = 1\n'
    )
    found = problems(path)
    assert set(found) == {"query.b"}
    path.write_text(path.read_text().replace("b.c", "b"))
    config = load_config(path)
    assert config.headers == {"X": text, "Y": "7"}
    assert config.query == {"a": text, "b": "1"}


def test_whole_numbers_and_times_of_toml_are_taken_by_their_value(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        'url = "ws://h"\nsubprotocols = [\n  0x10,\n  1979-05-27,\n]\nquery = {b = 1979-05-27T10:00:00Z}\n'
    )
    config = load_config(path)
    assert config.subprotocols == ("16", "1979-05-27")
    assert config.query == {"b": "1979-05-27T10:00:00+00:00"}


def test_what_is_merged_gives_way_to_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "url: ws://h\nheaders: &h {A: 1, B: 1}\nauth:\n  query: &q {B: 2, C: 2}\nquery:\n  B: 3\n  <<: [*h, *q]\n"
    )
    assert load_config(path).query == {"A": "1", "B": "3", "C": "2"}
    path.write_text("url: ws://h\nretry: &r {timeout: soon}\nconnect:\n  <<: *r\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [(each.path, each.line) for each in caught.value.problems] == [
        ("retry.timeout", 2),
        ("connect.timeout", 3),
    ]


@pytest.mark.parametrize("text", ["7", "1.10", "1E3", "true", "-0", "12345678901234567890123"])
def test_json_texts_without_quotes_are_taken_as_they_are_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(f'{{"url": "ws://h", "headers": {{"X": {text}}}}}')
    assert load_config(path).headers == {"X": text}


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "url: ws://h\nreconnect: {max-attempts: 1e3, multiplier: 010, initial-backoff: 1}\nmax-message-size: 0x400\n"
    )
    config = load_config(path)
    assert (config.reconnect.max_attempts, config.reconnect.multiplier, config.max_message_size) == (
        1000,
        10.0,
        1024,
    )
    assert type(config.max_message_size) is int
    path.write_text("url: ws://h\nretry: {retries: 0x-}\nbatch: {mode: 010}\n")
    assert "found '0x-'" in problems(path)["retry.retries"]


# -- defaults that go along ---------------------------------------------------------------------------


def test_a_default_is_never_below_the_field_beside_it() -> None:
    config = load_config({"url": URL, "reconnect": {"initial-backoff": "1m"}, "connect": {"timeout": "2m"}})
    assert (config.reconnect.max_backoff, config.connect.eager_timeout) == (60.0, 120.0)
    config = load_config({"url": URL, "max-message-size": "1GiB", "spool": {"path": "x"}})
    assert config.spool_bytes == 2 * (2**30 + 512)
    assert load_config({"url": URL, "spool": {"path": "x"}}).spool_bytes == 2**30
    assert load_config({"url": URL, "spool": {"path": "x", "max-bytes": "3MiB"}}).spool_bytes == 3 * 2**20
    assert list(problems({"url": URL, "reconnect": {"initial-backoff": "1m", "max-backoff": "30s"}})) == [
        "reconnect.max-backoff"
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("url: ws://h\nretry:\n\ttimeout: 5s\n", (3, 1)),
        ("subprotocols:\n- a\n-\tb\n\t- c\n", (3, 2)),
        ("retry:\n  \ttimeout: 5s\n   x: 1\n", (2, 3)),
    ],
)
def test_a_tab_is_called_a_tab(text: str, place: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="a tab indents this line") as caught:
        load_config(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == place
