"""The JSON Schema and the loader accept the same documents."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import json_schema, load_config
from trio_wsout.config.json_schema import formats
from trio_wsout.errors import ConfigError
from trio_wsout.testing.strategies import documents

UNSAID = {
    "reconnect.max-backoff": "shorter than reconnect.initial-backoff",
    "delivery.max-age": "not longer than batch.timeout",
    "spool.max-bytes": "less than two messages of max-message-size",
    "subprotocols": "a name that is there twice, once as a text and once as a number",
    "headers": "a name that is there twice, in different case",
    "auth.headers": "a name that is there twice, in different case",
    "server.auth.query-parameter": "the same as cursor.query-parameter",
    "server.auth.bearer": "a token that two identities have",
    "server.sender-field": "the same as delivery.stamp",
    "batch.header": "${cursor} or ${attempt} where there are many peers",
    "batch.footer": "${cursor} or ${attempt} where there are many peers",
}
"""Values that the loader refuses and the schema accepts, because JSON Schema can't compare values."""
CHECKER = jsonschema.FormatChecker(formats=())
for _name, _accepts in formats().items():
    CHECKER.checks(_name)(_accepts)
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=CHECKER)
WITHOUT_FORMATS = jsonschema.Draft202012Validator(SCHEMA)


STREAMS = [
    {"store": store}
    for store in (
        "redis://h?stream=x",
        "redis://h",
        "unix://h?stream=x",
        "redis://:p@h?stream=x",
        "${env|URL}?stream=x",
    )
]
"""Sections of a history that name a stream, or fail to."""


def loads(document: Any) -> bool | None:
    """Whether the loader takes it; None: it refuses only what the schema can't say."""
    try:
        load_config(copy.deepcopy(document))
    except ConfigError as error:
        paths = [problem.path.replace("_", "-") for problem in error.problems]
        unsaid = all(any(path.startswith(each) for each in UNSAID) for path in paths)
        return None if unsaid and VALIDATOR.is_valid(document) else False
    return True


def judged_alike(document: Any) -> None:
    accepted = loads(document)
    complaints = [error.message for error in VALIDATOR.iter_errors(document)]
    assert accepted is None or (not complaints) == accepted, complaints


def test_the_schema_is_a_schema_and_every_field_is_described() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    sections = [SCHEMA, *(each for each in SCHEMA["$defs"].values() if "properties" in each)]
    assert len(sections) > 10
    for section in sections:
        for each in section["properties"].values():
            assert each["description"]
            assert "`" not in each["description"]


def test_the_schema_speaks_to_users() -> None:
    text = json.dumps(SCHEMA)
    assert "SPEC" not in text
    reconnect = SCHEMA["$defs"]["Reconnect"]["properties"]
    assert reconnect["initial-backoff"]["default"] == "0.5s"
    assert "2 hours" in reconnect["initial-backoff"]["examples"]
    assert SCHEMA["properties"]["payload"]["default"] == "text"
    assert SCHEMA["properties"]["url"]["examples"] == ["wss://example.com/events"]


def test_editors_are_offered_each_field_in_one_spelling() -> None:
    for section in [SCHEMA, *SCHEMA["$defs"].values()]:
        assert not [name for name in section.get("properties", {}) if "_" in name]
    assert VALIDATOR.is_valid({"url": "ws://x", "max_message_size": 9})
    assert not VALIDATOR.is_valid({"url": "ws://x", "max_message_size": 0})


SERVER = {
    "bind": ":0",
    "path": "/x",
    "max-connections": 3,
    "send_buffer_capacity": 9,
    "slow-peer-timeout": 2,
    "reuse-port": True,
}
LISTENERS = st.fixed_dictionaries(
    {"mode": st.sampled_from(["server-output", "server-input", "relay"]), "server": st.just(SERVER)},
    optional={
        "history": st.sampled_from(
            [None, {}, {"store": "memory:"}, {"store": "sqlite:x", "max-age": "1d"}, *STREAMS]
        ),
        "url": st.sampled_from([None, "", "ws://peer.test", [], ["ws://peer.test", "wss://peer.test"]]),
        "connect": st.sampled_from([None, {}, {"timeout": "10s"}, {"mode": "eager"}, {"proxy": ""}]),
        "retry": st.sampled_from([{"retries": None}, {"retries": 4}, {"timeout": 5}]),
        "cursor": st.sampled_from(
            [
                None,
                {"header-name": "L"},
                {"query_parameter": "q", "persist-to": ""},
                {"header-name": "L", "state-id": 7},
            ]
        ),
        "batch": st.sampled_from(
            [None, {"mode": "fixed"}, {"mode": "document", "timeout": 3, "fixed-size": 4}]
        ),
        "headers": st.sampled_from([{}, {"a": ""}, {"a": "b"}]),
    },
).map(copy.deepcopy)


@given(documents() | LISTENERS, st.booleans())
def test_valid_documents_are_valid_for_both(document: dict[str, Any], full: bool) -> None:
    judged_alike({"output": {"web-socket": document}} if full else document)


@given(documents())
def test_client_documents_are_valid(document: dict[str, Any]) -> None:
    assert loads(document) is True
    assert WITHOUT_FORMATS.is_valid(document)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8).filter(lambda text: "{{" not in text),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
JUNK = JSON | st.sampled_from(
    ["20", "5 min", "1M", "redis://h/s", "sqlite:", "a b", "/~2", "wss://h", "eager"]
)


def _holders(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, list):
        return [each for inner in document for each in _holders(inner)]
    if not isinstance(document, dict):
        return []
    return [document, *(each for inner in document.values() for each in _holders(inner))]


NAMES = [
    "unknown",
    "timeout",
    "retries",
    "url",
    "bind",
    "reuse-port",
    "bearer-token",
    "header_name",
    "client-key",
    "server",
]


@given(documents() | LISTENERS, JUNK, st.data())
def test_mutated_documents_are_judged_alike(document: dict[str, Any], junk: Any, data: st.DataObject) -> None:
    holder = data.draw(st.sampled_from(_holders(document)))
    name = data.draw(st.sampled_from([*sorted(holder), *NAMES]))
    match data.draw(st.sampled_from(["set", "drop", "snake"])):
        case "set":
            holder[name] = junk
        case "drop":
            holder.pop(name, None)
        case _:
            holder[name.replace("-", "_")] = holder.get(name)
    judged_alike(document)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"url": None},
        {"url": ""},
        {"mode": "relay"},
        {"mode": "server-output", "server": {"bind": ":1"}, "url": "ws://x"},
        {"url": "ws://x", "server": {"bind": ":1"}},
        {"url": "ws://x", "max-message-size": 1, "max_message_size": 1},
        {
            "mode": "relay",
            "server": {"bind": ":1"},
            "cursor": {"query-parameter": "q", "state-id": "", "state_id": ""},
        },
        {"url": "ws://x", "batch": {}},
        {"url": "ftp://x"},
        {"url": []},
        {"url": ["ws://x", None]},
        {"url": [["ws://x"]]},
        {"url": ["ws://x", "ftp://x"]},
        {"url": ["ws://x", "ws://y"], "cursor": {"value-field": "id"}},
        {"url": "ws://x", "retry": {"timeout": "soon"}},
        {"url": "ws://x", "retry": {"timeout": "9" * 300 + "s"}},
        {"url": "ws://x", "reconnect": {"give-up-on": [7]}},
        {"mode": "server-input", "server": {"bind": "nowhere"}},
        {"mode": "server-input", "server": {"bind": "a..b:80"}},
        {"mode": "server-input", "server": {"bind": ":1"}, "batch": {"mode": "fixed", "fixed-size": 2}},
        {"mode": "relay", "server": {"bind": ":1"}, "connect": {"mode": "eager"}},
        {"url": "ws://x", "spool": {"path": ""}},
        {"url": "ws://x", "retry": {"retries": 2**53 + 1}},
        {"url": "ws://x", "auth": {"bearer-token": "x", "basic": {"username": "u", "password": "p"}}},
        {"url": "ws://x", "tls": {"client-certificate": "x"}},
        {"url": "ws://x", "tls": {"client_key": "x"}},
        {"url": "ws://x", "tls": {"client-key-password": "x"}},
        {"url": "ws://x", "tls": {"ca_certificate": "x", "insecure-skip-verify": True}},
        {"url": "ws://x", "cursor": {"value-field": "x"}},
        {"url": "ws://x", "cursor": {"from": "received"}},
        {"url": "ws://x", "cursor": {"from_": "received", "header-name": "x"}},
        {"url": "ws://x", "cursor": {"from": "sent", "value-field": "x"}},
        {"mode": "relay", "server": {"bind": ":1"}, "cursor": {"from_": "received", "value-field": "x"}},
        {"url": "ws://x", "headers": {"a": "${attempt}", "b": "$${cursor}"}, "cursor": {"value-field": "x"}},
        {"url": "ws://x", "cursor": {"header-name": "L", "value_field": "x", "value-pointer": "/x"}},
        {"url": "ws://x", "headers": {"Host": "x"}},
        {"url": "ws://x", "headers": {"a b": "x"}},
        {"url": "ws://x", "subprotocols": ["a b"]},
        {"mode": "relay", "server": {"bind": ":1", "sender_field": "x"}},
        {"mode": "relay", "server": {"bind": ":1", "sender-field": "x"}, "payload": "text"},
        {"mode": "server-output", "server": {"bind": ":1", "sender-field": "x"}, "payload": "json"},
        {"mode": "server-output", "server": {"bind": ":1"}, "connect": {"timeout": "10s", "unknown": None}},
        {
            "mode": "server-output",
            "server": {"bind": ":1"},
            "reconnect": {"initial-backoff": "0.5s", "initial_backoff": "0.5s"},
        },
        {
            "mode": "server-output",
            "server": {"bind": ":1"},
            "tls": {"client-key": "", "client_key": "", "insecure-skip-verify": False},
        },
        {"mode": "server-output", "server": {"bind": ":1"}, "history": {"store": 0}},
        {"mode": "server-output", "server": {"bind": ":1"}, "history": {"store": True}},
        {"mode": "relay", "server": {"bind": "unix:/x", "reuse-port": True}},
        {"mode": "relay", "server": {"bind": "unix:/x", "reuse_port": True}},
        {"mode": "relay", "server": {"bind": ":1", "reuse-port": "yes"}},
        {"mode": "relay", "server": {"bind": ":1", "auth": {}}},
        {"mode": "relay", "server": {"bind": ":1", "auth": {"basic": {}, "query-parameter": "t"}}},
        {"mode": "relay", "server": {"bind": ":1", "auth": {"basic": {"a": "x"}, "query_parameter": "t"}}},
        {"mode": "relay", "server": {"bind": ":1", "auth": {"basic": {"a:b": "x"}}}},
        {"mode": "relay", "server": {"bind": ":1", "auth": {"bearer": {"a": ""}}}},
        {"output": {"web-socket": {}}},
        {"output": {"web-socket": {"url": "ws://x", "retyr": 1}}},
        {"output": {"web-socket": {"url": "ws://x"}}, "url": "ws://x"},
        {"output": {"web-socket": 7}},
        {"output": {}},
    ],
)
def test_both_refuse(document: dict[str, Any]) -> None:
    assert loads(document) is False
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    "document",
    [
        {"mode": "relay", "server": {"bind": ":1", "idle_timeout": "5m"}, "url": "ws://x"},
        {"mode": "relay", "server": {"bind": "unix:/x", "tls": {"cert": "c", "key": "k"}}},
        {"mode": "relay", "server": {"bind": "unix:/x", "reuse-port": False}},
        {"mode": "relay", "server": {"bind": ":1", "reuse_port": True}},
        {"mode": "server-output", "server": {"bind": ":1"}, "history": {"max-age": "1d"}},
        {"url": "ws://x", "delivery": "acked"},
        {"url": "ws://x", "retry": {"retries": 5.0}},
        {"url": "ws://x", "retry": None, "tls": None, "heartbeat": {"payload": None}},
        {"url": "ws://x", "server": {"bind": "", "viewer": False}, "history": {"store": "memory:"}},
        {"url": "ws://x", "cursor": {"header-name": "L", "state-id": 7, "initial-value": 1.5}},
        {"output": {"web_socket": {"url": "ws://x"}}},
        {"url": "ws://x/${cursor||0}", "cursor": {"value-field": "id"}},
        {"url": "ws://x", "cursor": {"from_": "received", "value-field": "id"}},
        {
            "mode": "relay",
            "server": {"bind": ":1"},
            "url": "ws://x",
            "cursor": {"from": "received", "value-pointer": ""},
        },
        {"url": ["ws://x", "ws://x/${cursor||0}"], "cursor": {"value-field": "id"}},
        {"url": "ws://x", "headers": {"a": "b", "c": "d ${cursor}"}, "cursor": {}},
        {"url": "ws://x", "auth": {"basic": {"username": "u", "password": "${ cursor }"}}, "cursor": {}},
        {"url": "ws://x", "auth": {"bearer_token": "${cursor}"}, "cursor": {}},
        {"mode": "relay", "server": {"bind": ":1", "sender-field": "x"}, "payload": "json"},
        {"mode": "relay", "server": {"bind": ":1", "auth": {"bearer": {"a": "x"}, "query-parameter": "t"}}},
        {
            "mode": "server-output",
            "server": {"bind": ":1"},
            "url": "",
            "connect": {"timeout": 10, "mode": "lazy"},
            "tls": {},
            "spool": {"path": ""},
            "headers": None,
            "retry": {"retries": None},
        },
        {"mode": "server-input", "server": {"bind": ":1"}, "delivery": "received", "cursor": {}, "retry": {}},
    ],
)
def test_both_accept(document: dict[str, Any]) -> None:
    assert loads(document) is True
    assert list(VALIDATOR.iter_errors(document)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"retry": {"timeout": "{{t}}", "retries": "{{n}}"}},
        {
            "payload": "{{p}}",
            "max-message-size": "{{n}}",
            "batch": {"mode": "{{m}}", "wrap-as-json": "{{w}}"},
        },
        {"reconnect": {"give-up-on": ["{{c}}"]}, "headers": {"a": "{{h}}"}},
        {"cursor": {"from": "{{f}}"}},
    ],
)
def test_what_the_context_will_give_is_no_mistake_yet(fields: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors({"url": "wss://{{host}}/", **fields})) == []


@pytest.mark.parametrize("path", UNSAID)
def test_what_the_schema_cannot_say_is_refused_by_the_loader(path: str) -> None:
    document: dict[str, Any] = {
        "reconnect.max-backoff": {"reconnect": {"max-backoff": "1s", "initial-backoff": "2s"}},
        "delivery.max-age": {"batch": {"mode": "fixed"}, "delivery": {"max-age": "100ms"}},
        "spool.max-bytes": {"spool": {"path": "x", "max-bytes": "1MiB"}},
        "subprotocols": {"subprotocols": ["1", 1]},
        "headers": {"headers": {"A": "x", "a": "y"}},
        "auth.headers": {"auth": {"headers": {"A": "x", "a": "y"}}},
        "server.auth.query-parameter": {
            "server": {"bind": ":0", "auth": {"bearer": {"a": "x"}, "query-parameter": "t"}},
            "cursor": {"query-parameter": "t"},
        },
        "server.auth.bearer": {"server": {"bind": ":0", "auth": {"bearer": {"a": "x", "b": "x"}}}},
        "server.sender-field": {
            "server": {"bind": ":0", "sender-field": "x"},
            "delivery": {"stamp": "x"},
            "payload": "json",
        },
        "batch.header": {"server": {"bind": ":0"}, "batch": {"mode": "fixed", "header": "${cursor}"}},
        "batch.footer": {"server": {"bind": ":0"}, "batch": {"mode": "fixed", "footer": "${attempt}"}},
    }[path]
    document |= {"mode": "relay"} if "server" in document else {}
    document["url"] = "ws://x"
    assert loads(document) is None
