"""Hypothesis strategies for configurations of client mode (extra ``testing``)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from trio_wsout.config import Config, load_config
from trio_wsout.config.http_grammar import is_reserved_header

__all__ = ["configs", "documents"]

_NAMES = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
_TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="${}"), max_size=20)
_TEMPLATES = st.one_of(_TEXTS, st.sampled_from(["${cursor}", "${attempt}", "a ${env|HOME||none} b", "$${x}"]))
_LINES = st.one_of(
    _TEMPLATES,
    st.sampled_from(["${batch|number} of ${batch|count}", "${event|/id||} ${field} ${time|iso}", "@@{x}"]),
)
_TABLES = st.dictionaries(_NAMES, _TEMPLATES, max_size=3)
_HEADERS = st.dictionaries(_NAMES.filter(lambda name: not is_reserved_header(name)), _TEMPLATES, max_size=3)
_DURATIONS = st.one_of(
    st.integers(1, 10**6),
    st.floats(1e-3, 1e6),
    st.sampled_from(["250ms", "2s", "1.5s", "1m30s", "2h", "1d", "1w", "10us"]),
)
_SIZES = st.one_of(st.integers(1024, 2**40), st.sampled_from(["64KiB", "1MB", "8MiB", "2000B"]))
_COUNTS = st.integers(1, 10**6)
_FLAGS = st.booleans()


def _maybe(required: dict[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:  # noqa: ANN401 - strategies
    """Sections: some keys always, each of the others or not; kebab-case or snake_case."""
    spelled = {key.replace("_", "-"): value for key, value in optional.items()}
    always = {key.replace("_", "-"): value for key, value in (required or {}).items()}
    return st.fixed_dictionaries(always, optional=spelled).flatmap(_respelled)


def _respelled(section: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    snake = {key.replace("-", "_"): value for key, value in section.items()}
    return st.sampled_from([section, section, snake])


def _backoffs() -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(
        st.floats(0.001, 100),
        st.floats(0, 1000),
        _maybe(
            multiplier=st.one_of(st.integers(1, 10), st.floats(1, 100)),
            jitter=st.floats(0, 1),
            max_attempts=st.none() | _COUNTS,
            reset_after=st.one_of(_DURATIONS, st.just(0)),
            give_up_on=st.lists(st.sampled_from([4001, "4500-4999", 1008]), max_size=3),
        ),
    ).map(lambda parts: {**parts[2], "initial-backoff": parts[0], "max-backoff": parts[0] + parts[1]})


def _auths() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        _maybe(headers=_HEADERS, query=_TABLES, bearer_token=st.one_of(_NAMES, st.just("${env|TOKEN}"))),
        _maybe(basic=st.fixed_dictionaries({"username": _NAMES, "password": _TEMPLATES})),
    )


def _cursors() -> st.SearchStrategy[dict[str, Any]]:
    sent = st.sampled_from(
        [
            {"header-name": "Last-Event-ID"},
            {"query-parameter": "since"},
            {"query-parameter": "since", "from": "sent"},
        ]
    )
    value = st.sampled_from([{}, {"value-field": "data.id"}, {"value-pointer": "/data/0/id"}])
    rest = _maybe(
        persist_to=st.sampled_from(["memory:", "sqlite:cursors.db", "state/"]),
        initial_value=_TEXTS,
        state_id=_NAMES,
        resume_on_reconnect=_FLAGS,
    )
    both = st.tuples(sent, value, rest).map(lambda parts: {**parts[2], **parts[0], **parts[1]})
    followed = rest.map(lambda fields: {**fields, "from": "received", "value-field": "id"})
    return both | followed


def _connects() -> st.SearchStrategy[dict[str, Any]]:
    return _maybe(
        mode=st.sampled_from(["lazy", "eager"]),
        eager_timeout=_DURATIONS,
        timeout=_DURATIONS,
        proxy=st.sampled_from(["none", "http://proxy.test:3128", "socks5://u:p@proxy.test:1080"]),
    )


def _batches() -> st.SearchStrategy[dict[str, Any]]:
    return _maybe(
        {"mode": st.sampled_from(["fixed", "document"])},
        fixed_size=st.none() | _COUNTS,
        timeout=_DURATIONS,
        header=_LINES,
        footer=_LINES,
        use_document_marker=_FLAGS,
        wrap_as_json=_FLAGS,
    )


def _deliveries() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from(["written", "received", "acked"]),
        _maybe(
            level=st.sampled_from(["written", "received", "acked"]),
            ack_pointer=st.sampled_from(["", "/ack", "/a~1b/0"]),
            max_unconfirmed=_COUNTS,
            max_unconfirmed_bytes=_SIZES,
            stamp=st.none() | _NAMES,
        ),
    )


def _heartbeats() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.just("none"),
        _maybe(
            ping_interval=_DURATIONS,
            timeout=_DURATIONS,
            action=st.sampled_from(["reconnect", "log-only"]),
            payload=_TEXTS,
        ),
    )


def documents() -> st.SearchStrategy[dict[str, Any]]:
    """Valid documents of client mode, as a configuration file would hold them."""
    return _maybe(
        {
            "url": st.sampled_from(
                [
                    "ws://peer.test/a?b=1",
                    "wss://[::1]:8443",
                    "http://127.0.0.1:80/é",
                    "https://${env|HOST||h.test}/a?b=${cursor}",
                    ["wss://one.test/a", "http://${env|HOST||h.test}/a", "ws://one.test"],
                    ["ws://only.test"],
                ]
            )
        },
        mode=st.just("client"),
        headers=_HEADERS,
        query=_TABLES,
        subprotocols=st.lists(_NAMES, max_size=3, unique=True),
        payload=st.sampled_from(["text", "json", "binary", "binary-base64"]),
        auth=_auths(),
        tls=st.sampled_from([{}, {"insecure-skip-verify": True}, {"ca-certificate": "/ca.pem"}]),
        connect=_connects(),
        reconnect=_backoffs(),
        retry=_maybe(timeout=_DURATIONS, retries=st.none() | st.integers(0, 100)),
        batch=_batches(),
        delivery=_deliveries(),
        heartbeat=_heartbeats(),
        cursor=_cursors(),
        max_message_size=_SIZES,
        shutdown_timeout=st.one_of(_DURATIONS, st.just(0)),
    ).map(deepcopy)


def configs() -> st.SearchStrategy[Config]:
    """Valid configurations of client mode."""
    return documents().map(load_config)
