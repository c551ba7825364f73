"""Loading: every mistake at once, under the user's own key path, and never another exception."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import BatchMode, Config, DeliveryLevel, Mode, Secret, dump_config, load_config
from trio_wsout.config.loading import keys_of
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
    assert "max_attempts" in problems(both)["reconnect"]


def test_all_problems_come_at_once_in_the_users_spelling() -> None:
    found = problems(
        {
            "url": "http://u:canary@h",
            "retyr": {},
            "reconnect": {"jitter": 2, "multiplier": True, "max_attempt": 3},
            "batch": {"fixed_size": "9"},
            "headers": {"a": 1, "b": "${nope}"},
            "subprotocols": "abc",
            "auth": {"bearer-token": 3, "basic": {"username": "x"}},
            "heartbeat": [],
            "tls": None,
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
    assert "cert, key" in problems({"mode": "relay", "server": {"bind": ":1", "tls": {}}}) or True
    found = problems({"mode": "relay", "server": {"bind": ":1", "tls": {}}})
    assert set(found) == {"server.tls.cert", "server.tls.key"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing (null)"),
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
    found = problems({"url": URL, "reconnect": {"give-up-on": [4001, "x", 1]}, "subprotocols": ["a", 2]})
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


def test_overrides_go_over_the_document() -> None:
    document = {"url": URL, "reconnect": {"max_backoff": 60}}
    config = load_config(
        document,
        overrides={"reconnect.max-backoff": 90, "retry.retries": 3, "url": "ws://other/", "payload": "json"},
    )
    assert (config.reconnect.max_backoff, config.retry.retries, config.url) == (90.0, 3, "ws://other/")
    assert document == {"url": URL, "reconnect": {"max_backoff": 60}}, "the caller's stays"
    assert "no such place" in problems({"url": URL}, overrides={"url.x": 1})["url.x"]
    assert "no such place" in problems({"url": URL}, overrides={"retry.": 1})["retry."]
    assert "no such place" in problems({"url": URL}, overrides={"url.x.y": 1})["url.x.y"]


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
    assert "canary" not in str(dump_config(config, masked=True))
    assert dump_config(config)["auth"]["bearer-token"] == "canary1"
    assert config.auth.bearer_token == Secret("canary1")
    assert str(config.auth.bearer_token) == "***"
    broken = copy.deepcopy(secret)
    broken["auth"]["bearer-token"] = "canary ${"  # type: ignore[index]
    broken["auth"]["query"]["q"] = 7  # type: ignore[index]
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
    sections = [name for name in ("reconnect", "batch", "connect", "heartbeat", "cursor") if name in document]
    name = data.draw(st.sampled_from([None, *sections]))
    place = document if name is None else document[name]
    place["unheard-of"] = 1
    assert ("unheard-of" if name is None else f"{name}.unheard-of") in problems(document)


@given(st.dictionaries(st.text(max_size=5) | st.integers(), JUNK, max_size=4))
def test_documents_from_nowhere_give_config_errors(document: dict[Any, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(document)
    assert caught.value.problems


def test_every_key_of_every_section_is_told_by_its_attribute() -> None:
    assert keys_of(Config)["max-message-size"] == "max_message_size"


# -- files --------------------------------------------------------------------------------------------

BROKEN = {
    "job.yaml": (
        "output:\n  web-socket:\n    url: ws://h\n    retyr: {}\n    reconnect:\n      jitter: 3\n    subprotocols: [a, 2]\n",
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
        ("a.yaml", "url: a\nurl: b\n", "duplicate key", 2),
        ("a.yaml", "url: [\n", "YAML", 2),
        ("a.yaml", "a: \x01", "YAML", None),
        ("a.yaml", "a: !!float x\n", "YAML", None),
        ("a.yaml", "a: 1\n? [1, 2]\n: x\n", "", None),
        ("a.yaml", "headers:\n  1: a\n  '1': b\n", "the key '1' is there twice", 3),
        ("a.yaml", "url: ws://h\n'True': 1\ntrue: 2\n", "the key 'True' is there twice", 3),
        ("a.yaml", "? 0x" + "F" * 5000 + "\n: 1\n", "thousands of digits", None),
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
    assert "headers.x" in problems(path)
