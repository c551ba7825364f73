"""The section `heartbeat`: its defaults where it is absent, and the word for none of it."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import Config, Heartbeat, dump_config, json_schema, load_config
from trio_wsout.errors import ConfigError
from trio_wsout.testing.strategies import documents

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
MODES: list[dict[str, Any]] = [
    {"url": "ws://h/"},
    *({"mode": mode, "server": {"bind": ":1"}} for mode in ("server-output", "server-input", "relay")),
]


@pytest.mark.parametrize("document", MODES)
@pytest.mark.parametrize("said", [{}, {"heartbeat": None}, {"heartbeat": {}}])
def test_absent_it_has_its_defaults_in_every_mode(document: dict[str, Any], said: dict[str, Any]) -> None:
    config = load_config(document | said)
    assert config.heartbeat == Heartbeat(ping_interval=20.0, timeout=10.0, payload="")
    assert dump_config(config)["heartbeat"]["ping-interval"] == "20s"
    assert VALIDATOR.is_valid(document | said)


@pytest.mark.parametrize("document", MODES)
def test_none_means_none_and_is_written_back_so(document: dict[str, Any]) -> None:
    config = load_config(document | {"heartbeat": "none"})
    assert config.heartbeat is None
    for redacted in (False, True):
        assert dump_config(config, redacted=redacted)["heartbeat"] == "none"
    assert load_config(dump_config(config)) == config
    assert VALIDATOR.is_valid(dump_config(config))


def test_a_class_made_by_hand_says_none_by_none() -> None:
    assert Config(url="ws://h/").heartbeat == Heartbeat()
    config = Config(url="ws://h/", heartbeat=None)
    assert load_config(dump_config(config)) == config


@pytest.mark.parametrize("value", ["None", "off", "", False, 0, "20s", []])
def test_another_word_is_told_which_there_is(value: object) -> None:
    with pytest.raises(
        ConfigError, match=r"heartbeat: expected a section with fields of its own, or none; found "
    ):
        load_config({"url": "ws://h/", "heartbeat": value})
    assert not VALIDATOR.is_valid({"url": "ws://h/", "heartbeat": value})


def test_only_the_heartbeat_may_be_none() -> None:
    with pytest.raises(ConfigError, match=r"batch: expected a section with fields of its own; found a text"):
        load_config({"url": "ws://h/", "batch": "none"})


@given(documents(), st.booleans())
def test_with_it_or_without_it_a_configuration_survives_the_round_trip(
    document: dict[str, Any], none: bool
) -> None:
    document["heartbeat"] = "none" if none else document.pop("heartbeat", {})
    config = load_config(document)
    assert (config.heartbeat is None) == (document["heartbeat"] == "none")
    assert load_config(dump_config(config)) == config
