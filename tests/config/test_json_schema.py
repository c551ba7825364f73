"""The JSON Schema and the loader accept the same documents."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import json_schema, load_config
from trio_wsout.config.json_schema import formats
from trio_wsout.errors import ConfigError
from trio_wsout.testing.strategies import documents

CHECKER = jsonschema.FormatChecker(formats=())
for _name, _accepts in formats().items():
    CHECKER.checks(_name)(_accepts)
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=CHECKER)

RELATIONS = {
    "reconnect.max-backoff",
    "subprotocols",
    "auth",
    "tls.client-certificate",
    "tls.client-key",
    "tls.insecure-skip-verify",
    "headers",
    "heartbeat.payload",
    "history.store",
    "cursor",
}
"""Where rules.py says what JSON Schema has no words for."""


def loads(document: Any) -> bool | None:
    """Whether the loader takes it; None: only for a relation that the schema can't say."""
    try:
        load_config(copy.deepcopy(document))
    except ConfigError as error:
        paths = [problem.path.replace("_", "-") for problem in error.problems]
        beyond = all(any(path.startswith(each) for each in RELATIONS) for path in paths)
        return None if beyond and VALIDATOR.is_valid(document) is not False else False
    return True


def test_the_schema_is_a_schema_and_every_field_is_described() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert all(each["description"] for each in SCHEMA["properties"].values())
    assert "1 message" in str(SCHEMA) or "message" in SCHEMA["properties"]["payload"]["description"]


@given(documents())
def test_valid_documents_are_valid_for_both(document: dict[str, Any]) -> None:
    assert loads(document) is True
    assert list(VALIDATOR.iter_errors(document)) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(documents(), JSON, st.data())
def test_mutated_documents_are_judged_alike(document: dict[str, Any], junk: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(document)))
    section = document[name]
    if isinstance(section, dict) and section and data.draw(st.booleans()):
        section[data.draw(st.sampled_from([*sorted(section), "unknown", "timeout"]))] = junk
    else:
        document[name] = junk
    accepted = loads(document)
    assert accepted is None or VALIDATOR.is_valid(document) == accepted


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"url": None},
        {"mode": "relay"},
        {"mode": "server-output", "server": {"bind": ":1"}, "url": "ws://x"},
        {"url": "ws://x", "server": {"bind": ":1"}},
        {"url": "ws://x", "max-message-size": 1, "max_message_size": 1},
        {"url": "ws://x", "batch": {}},
        {"url": "ftp://x"},
        {"url": "ws://x", "retry": {"timeout": "soon"}},
        {"url": "ws://x", "retry": {"timeout": "9" * 300 + "s"}},
        {"url": "ws://x", "reconnect": {"give-up-on": [7]}},
        {"mode": "server-input", "server": {"bind": "nowhere"}},
        {"mode": "server-input", "server": {"bind": "a..b:80"}},
        {"url": "ws://x", "spool": {"path": ""}},
        {"url": "ws://x", "retry": {"retries": 2**53 + 1}},
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
        {"mode": "server-output", "server": {"bind": ":1"}, "history": {"max-age": "1d"}},
        {"url": "ws://x", "delivery": "acked"},
        {"url": "ws://x", "retry": {"retries": 5.0}},
    ],
)
def test_both_accept(document: dict[str, Any]) -> None:
    assert loads(document) is True
    assert VALIDATOR.is_valid(document)
