"""What must hold between fields, for documents and for configurations made in Python."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from trio_wsout.config import (
    Auth,
    Basic,
    Batch,
    BatchMode,
    Config,
    Connect,
    Cursor,
    Delivery,
    Heartbeat,
    History,
    Mode,
    Payload,
    Reconnect,
    Retry,
    Secret,
    Server,
    ServerAuth,
    Spool,
    Tls,
    dump_config,
    load_config,
)
from trio_wsout.config.loading import verify_config
from trio_wsout.errors import ConfigError, Problem

CLIENT = Config(url="ws://h/")
SERVER = Config(mode=Mode.SERVER_OUTPUT, server=Server(bind=":0"))
RELAY = Config(mode=Mode.RELAY, server=Server(bind=":0"), url="ws://h/")


SECRETS = {"ann": Secret("x")}


def served(
    *,
    mode: Mode = Mode.SERVER_OUTPUT,
    cursor: Cursor | None = None,
    stamp: str | None = None,
    **server: Any,
) -> Config:
    payload = server.pop("payload", Payload.TEXT)
    return Config(
        mode=mode,
        cursor=cursor,
        delivery=Delivery(stamp=stamp),
        payload=payload,
        server=Server(bind=":0", **server),
    )


def problems(config: Config) -> list[Problem]:
    try:
        verify_config(config)
    except ConfigError as error:
        return list(error.problems)
    return []


def paths(config: Config) -> list[str]:
    return [problem.path for problem in problems(config)]


@pytest.mark.parametrize(
    "config",
    [
        CLIENT,
        SERVER,
        evolve(CLIENT, spool=Spool(path="sqlite")),
        RELAY,
        evolve(RELAY, spool=Spool(path="x"), history=History()),
        served(auth=ServerAuth(basic=SECRETS)),
        served(auth=ServerAuth(basic=SECRETS, bearer={"bob": Secret("${env|BOB}")}, query_parameter="t")),
        served(mode=Mode.RELAY, payload=Payload.JSON, sender_field="from"),
        served(reuse_port=True),
        Config(mode=Mode.SERVER_INPUT, server=Server(bind="unix:/x", reuse_port=False)),
    ],
)
def test_nothing_is_wrong_and_it_goes_round(config: Config) -> None:
    assert paths(config) == []
    assert load_config(dump_config(config)) == config


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (Config(), "url"),
        (evolve(SERVER, server=None), "server"),
        (evolve(CLIENT, server=Server(bind=":0")), "server"),
        (evolve(CLIENT, history=History(max_events=1)), "history"),
        (evolve(SERVER, url="ws://h/"), "url"),
        (evolve(SERVER, connect=Connect(timeout=1.0)), "connect"),
        (served(auth=ServerAuth()), "server.auth"),
        (served(auth=ServerAuth(basic=SECRETS, query_parameter="t")), "server.auth.query-parameter"),
        (served(auth=ServerAuth(bearer=SECRETS, query_parameter="")), "server.auth.query-parameter"),
        (
            served(auth=ServerAuth(bearer=SECRETS, query_parameter="t"), cursor=Cursor(query_parameter="t")),
            "server.auth.query-parameter",
        ),
        (served(auth=ServerAuth(basic={"": Secret("x")})), "server.auth.basic."),
        (served(auth=ServerAuth(basic={"a:b": Secret("x")})), "server.auth.basic.a:b"),
        (served(auth=ServerAuth(basic={"a\n": Secret("x")})), "server.auth.basic.a\n"),
        (served(auth=ServerAuth(basic={"a": Secret("")})), "server.auth.basic.a"),
        (served(auth=ServerAuth(basic={"a": Secret("x\r")})), "server.auth.basic.a"),
        (served(auth=ServerAuth(bearer={"a": Secret("")})), "server.auth.bearer.a"),
        (served(auth=ServerAuth(bearer={"a": Secret("no blank")})), "server.auth.bearer.a"),
        (served(auth=ServerAuth(bearer={"a": Secret("x"), "b": Secret("x")})), "server.auth.bearer.b"),
        (served(sender_field="from"), "server.sender-field"),
        (evolve(SERVER, server=Server(bind="unix:/x", reuse_port=True)), "server.reuse-port"),
        (served(mode=Mode.RELAY, sender_field="from"), "server.sender-field"),
        (
            served(
                mode=Mode.RELAY,
                payload=Payload.JSON,
                stamp="from",
                sender_field="from",
            ),
            "server.sender-field",
        ),
        (evolve(SERVER, spool=Spool(path="x")), "spool"),
        (evolve(SERVER, retry=Retry(retries=3)), "retry.retries"),
        (evolve(SERVER, cursor=Cursor(header_name="L", persist_to="x")), "cursor.persist-to"),
        (evolve(SERVER, cursor=Cursor(header_name="L", initial_value="x")), "cursor.initial-value"),
        (evolve(SERVER, cursor=Cursor(header_name="L", state_id="x")), "cursor.state-id"),
        (
            evolve(SERVER, cursor=Cursor(header_name="L", resume_on_reconnect=False)),
            "cursor.resume-on-reconnect",
        ),
        (evolve(SERVER, mode=Mode.RELAY, connect=Connect(timeout=1.0)), "connect"),
        (evolve(SERVER, mode=Mode.RELAY, spool=Spool(path="x")), "spool"),
        (evolve(RELAY, spool=Spool(path="x"), batch=Batch(mode=BatchMode.FIXED)), "batch"),
        (evolve(RELAY, spool=Spool(path="x", max_bytes=1)), "spool.max-bytes"),
        (evolve(CLIENT, reconnect=Reconnect(max_backoff=0.1)), "reconnect.max-backoff"),
        (evolve(CLIENT, subprotocols=("a", "b c")), "subprotocols[1]"),
        (evolve(CLIENT, subprotocols=("a", "a")), "subprotocols[1]"),
        (
            evolve(
                CLIENT, auth=Auth(bearer_token=Secret("x"), basic=Basic(username="u", password=Secret("p")))
            ),
            "auth.basic",
        ),
        (evolve(CLIENT, auth=Auth(basic=Basic(username="u:v", password=Secret("p")))), "auth.basic.username"),
        (evolve(CLIENT, auth=Auth(bearer_token=Secret("a b"))), "auth.bearer-token"),
        (evolve(CLIENT, auth=Auth(headers={"X": Secret("a\r\nb")})), "auth.headers.X"),
        (evolve(CLIENT, headers={"X": "a\0"}), "headers.X"),
        (evolve(CLIENT, query={"q": "a\n"}), "query.q"),
        (evolve(CLIENT, auth=Auth(query={"q": Secret("a\x7f")})), "auth.query.q"),
        (evolve(CLIENT, auth=Auth(basic=Basic(username="u\t", password=Secret("p")))), "auth.basic.username"),
        (evolve(CLIENT, auth=Auth(basic=Basic(username="u", password=Secret("p\r")))), "auth.basic.password"),
        (evolve(CLIENT, tls=Tls(client_key_password=Secret("p"))), "tls.client-key-password"),
        (evolve(CLIENT, tls=Tls(client_certificate="c")), "tls.client-certificate"),
        (evolve(CLIENT, tls=Tls(client_key=Secret("k"))), "tls.client-key"),
        (evolve(CLIENT, tls=Tls(insecure_skip_verify=True, ca_certificate="c")), "tls.insecure-skip-verify"),
        (evolve(CLIENT, headers={"Host": "x"}), "headers.Host"),
        (evolve(CLIENT, headers={"sec-websocket-key": "x"}), "headers.sec-websocket-key"),
        (evolve(CLIENT, headers={"Sec-WebSocket-Protocol": "x"}), "headers.Sec-WebSocket-Protocol"),
        (evolve(CLIENT, headers={"a b": "x"}), "headers.a b"),
        (evolve(CLIENT, headers={"A": "x", "a": "y"}), "headers.a"),
        (evolve(CLIENT, auth=Auth(headers={"Upgrade": Secret("x")})), "auth.headers.Upgrade"),
        (evolve(CLIENT, heartbeat=Heartbeat(payload="é" * 63)), "heartbeat.payload"),
        (evolve(CLIENT, batch=Batch(mode=BatchMode.FIXED, header="\ud800")), "batch.header"),
        (evolve(CLIENT, batch=Batch(mode=BatchMode.FIXED, footer="${attempt}\udc80")), "batch.footer"),
        (evolve(SERVER, history=History(store="redis://h/s")), "history.store"),
        (evolve(RELAY, history=History(store="redis://h/0?stream=s")), "url"),
        (evolve(RELAY, history=History(store="${env|REDIS}?stream=s")), "url"),
        (evolve(SERVER, history=History(store="sqlite:")), "history.store"),
        (evolve(SERVER, history=History(store="")), "history.store"),
        (evolve(SERVER, history=History(store="h.db")), "history.store"),
        (evolve(CLIENT, spool=Spool(path="x", max_bytes=2 << 20)), "spool.max-bytes"),
        (evolve(CLIENT, spool=Spool(path="")), "spool.path"),
        (evolve(CLIENT, cursor=Cursor(header_name="L", persist_to="sqlite:")), "cursor.persist-to"),
        (evolve(CLIENT, cursor=Cursor(header_name="L", persist_to="")), "cursor.persist-to"),
        (evolve(CLIENT, cursor=Cursor()), "cursor"),
        (evolve(CLIENT, cursor=Cursor(header_name="Host")), "cursor.header-name"),
        (
            evolve(CLIENT, cursor=Cursor(header_name="L", value_field="a", value_pointer="/a")),
            "cursor.value-pointer",
        ),
        (evolve(CLIENT, cursor=Cursor(header_name="L", persist_to="redis://h/x")), "cursor.persist-to"),
        (evolve(CLIENT, cursor=Cursor(header_name="L", state_id="")), "cursor.state-id"),
        (evolve(CLIENT, cursor=Cursor(header_name="L", state_id="a\nb")), "cursor.state-id"),
        (evolve(CLIENT, cursor=Cursor(header_name="L", state_id="x" * 201)), "cursor.state-id"),
    ],
)
def test_each_rule_is_told_under_its_path(config: Config, path: str) -> None:
    assert paths(config) == [path]


def test_what_a_template_will_give_is_judged_when_it_is_known() -> None:
    auth = Auth(bearer_token=Secret("${env|A||a b}"), headers={"X": Secret("${cursor}\tb ")})
    assert paths(evolve(CLIENT, auth=auth)) == []
    basic = Auth(basic=Basic(username="${env|A||u:v}", password=Secret("p")))
    assert paths(evolve(CLIENT, auth=basic)) == []


def test_a_field_of_another_mode_says_whose_it_is() -> None:
    (problem,) = problems(evolve(CLIENT, server=Server(bind=":0")))
    assert "server-output, server-input, relay" in problem.reason


def test_a_ping_payload_of_125_bytes_fits() -> None:
    assert paths(evolve(CLIENT, heartbeat=Heartbeat(payload="x" * 125))) == []


def test_a_cursor_may_be_sent_by_a_template_alone() -> None:
    cursor = Cursor(value_field="id")
    assert paths(evolve(CLIENT, cursor=cursor)) == ["cursor"]
    assert "${cursor} in url, headers, query or auth" in problems(evolve(CLIENT, cursor=cursor))[0].reason
    sent = "${cursor||none}"
    for fields in (
        {"url": f"ws://h/?after={sent}"},
        {"headers": {"X": sent}},
        {"query": {"x": sent}},
        {"auth": Auth(headers={"X": Secret(sent)})},
        {"auth": Auth(basic=Basic(username="me", password=Secret(sent)))},
    ):
        assert paths(evolve(CLIENT, cursor=cursor, **fields)) == []
    serving = evolve(SERVER, history=History(), cursor=cursor)
    assert paths(serving) == ["cursor"]
    assert "${cursor}" not in problems(serving)[0].reason


@pytest.mark.parametrize("line", ["${cursor}", "${batch|count} ${attempt||0}"])
def test_what_only_a_link_has_is_in_no_batch_for_many_peers(line: str) -> None:
    batch = Batch(mode=BatchMode.FIXED, footer=line)
    assert paths(evolve(SERVER, batch=batch)) == ["batch.footer"]
    relay = Config(mode=Mode.RELAY, server=Server(bind=":0"), url="ws://h/", batch=batch)
    assert paths(relay) == ["batch.footer"]
    assert paths(evolve(CLIENT, batch=batch)) == []
    assert paths(Config(mode=Mode.SERVER_INPUT, server=Server(bind=":0"), batch=batch)) == []
