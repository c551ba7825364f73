"""Hypothesis strategies for configurations of client mode (extra ``testing``)."""

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from trio_wsout.config import Config, load_config
from trio_wsout.config.http_grammar import is_reserved_header

__all__ = ["configs", "documents"]

_NAMES = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
_TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="${}"), max_size=20)
_TEMPLATES = st.one_of(_TEXTS, st.sampled_from(["${cursor}", "${attempt}", "a ${env|HOME||none} b", "$${x}"]))
_LINES = _TEMPLATES | st.sampled_from(
    ["${batch|number} of ${batch|count}", "${event|/id||} ${field} ${time|iso}", "@@{x}"]
)
_TABLES = st.dictionaries(_NAMES, _TEMPLATES, max_size=3)
_HEADERS = st.dictionaries(_NAMES.filter(lambda name: not is_reserved_header(name)), _TEMPLATES, max_size=3)
_SPELLED = st.sampled_from(["250ms", "2s", "1.5s", "1m30s", "2h", "1d", "1w", "10us"])
_DURATIONS = st.integers(1, 10**6) | st.floats(1e-3, 1e6) | _SPELLED
_SIZES = st.one_of(st.integers(1024, 2**40), st.sampled_from(["64KiB", "1MB", "8MiB", "2000B"]))
_URLS = st.sampled_from(
    [
        "ws://peer.test/a?b=1",
        "wss://[::1]:8443",
        "http://127.0.0.1:80/é",
        "https://${env|HOST||h.test}/a?b=${cursor}",
        ["wss://one.test/a", "http://${env|HOST||h.test}/a", "ws://one.test"],
        ["ws://only.test"],
    ]
)
_COUNTS = st.integers(1, 10**6)
_FLAGS = st.booleans()


def _maybe(required: dict[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:  # noqa: ANN401 - strategies
    """Sections: some keys always, each of the others or not; kebab-case or snake_case."""
    kebab = {key.replace("_", "-"): value for key, value in optional.items()}
    return st.fixed_dictionaries(required or {}, optional=kebab).flatmap(_respelled)


def _respelled(section: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    snake = {key.replace("-", "_"): value for key, value in section.items()}
    return st.sampled_from([section, section, snake])


_BACKOFFS = st.tuples(
    st.floats(0.001, 100),
    st.floats(0, 1000),
    _maybe(
        multiplier=st.integers(1, 10) | st.floats(1, 100),
        jitter=st.floats(0, 1),
        max_attempts=st.none() | _COUNTS,
        reset_after=_DURATIONS | st.just(0),
        give_up_on=st.lists(st.sampled_from([4001, "4500-4999", 1008]), max_size=3),
    ),
).map(lambda parts: {**parts[2], "initial-backoff": parts[0], "max-backoff": parts[0] + parts[1]})

_TOKENS = _NAMES | st.just("${env|TOKEN}")
_AUTHS = _maybe(headers=_HEADERS, query=_TABLES, bearer_token=_TOKENS) | _maybe(
    basic=st.fixed_dictionaries({"username": _NAMES, "password": _TEMPLATES})
)

_SENT = st.sampled_from(
    [
        {"header-name": "Last-Event-ID"},
        {"query-parameter": "since"},
        {"query-parameter": "since", "from": "sent"},
    ]
)
_VALUES = st.sampled_from([{}, {"value-field": "data.id"}, {"value-pointer": "/data/0/id"}])
_KEPT = _maybe(
    persist_to=st.sampled_from(["memory:", "sqlite:cursors.db", "state/"]),
    initial_value=_TEXTS,
    state_id=_NAMES,
    resume_on_reconnect=_FLAGS,
)
_CURSORS = st.tuples(_KEPT, _SENT, _VALUES).map(
    lambda parts: {**parts[0], **parts[1], **parts[2]}
) | _KEPT.map(lambda fields: {**fields, "from": "received", "value-field": "id"})

_CONNECTS = _maybe(
    mode=st.sampled_from(["lazy", "eager"]),
    eager_timeout=_DURATIONS,
    timeout=_DURATIONS,
    proxy=st.sampled_from(["none", "http://proxy.test:3128", "socks5://u:p@proxy.test:1080"]),
)

_BATCHES = _maybe(
    {"mode": st.sampled_from(["fixed", "document"])},
    fixed_size=st.none() | _COUNTS,
    timeout=_DURATIONS,
    header=_LINES,
    footer=_LINES,
    use_document_marker=_FLAGS,
    wrap_as_json=_FLAGS,
)

_LEVELS = st.sampled_from(["written", "received", "acked"])
_DELIVERIES = _LEVELS | _maybe(
    level=_LEVELS,
    ack_pointer=st.sampled_from(["", "/ack", "/a~1b/0"]),
    max_unconfirmed=_COUNTS,
    max_unconfirmed_bytes=_SIZES,
    max_age=st.none() | st.floats(2e6, 1e8),  # longer than any batch.timeout here
    stamp=st.none() | _NAMES,
)

_ACTIONS = st.sampled_from(["reconnect", "log-only"])
_HEARTBEATS = st.just("none") | _maybe(
    ping_interval=_DURATIONS, timeout=_DURATIONS, action=_ACTIONS, payload=_TEXTS
)


def documents() -> st.SearchStrategy[dict[str, Any]]:
    """Valid documents of client mode, as a configuration file would hold them."""
    return _maybe(
        {"url": _URLS},
        mode=st.just("client"),
        headers=_HEADERS,
        query=_TABLES,
        subprotocols=st.lists(_NAMES, max_size=3, unique=True),
        payload=st.sampled_from(["text", "json", "binary", "binary-base64"]),
        auth=_AUTHS,
        tls=st.sampled_from([{}, {"insecure-skip-verify": True}, {"ca-certificate": "/ca.pem"}]),
        connect=_CONNECTS,
        reconnect=_BACKOFFS,
        retry=_maybe(timeout=_DURATIONS, retries=st.none() | st.integers(0, 100)),
        batch=_BATCHES,
        delivery=_DELIVERIES,
        heartbeat=_HEARTBEATS,
        cursor=_CURSORS,
        max_message_size=_SIZES,
        shutdown_timeout=_DURATIONS | st.just(0),
    ).map(deepcopy)


def configs() -> st.SearchStrategy[Config]:
    """Valid configurations of client mode."""
    return documents().map(load_config)
