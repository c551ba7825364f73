"""`trio-wsout run` in the modes with a listener: pipes at one end, real peers at the other."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect as connect_many
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

    from conftest import Peer, Running

    Listen = Callable[..., tuple[Running, str]]


def rest_of(client: ClientConnection) -> tuple[list[str | bytes], int | None]:
    """What comes until the other side closes, and its close code."""
    messages: list[str | bytes] = []
    try:
        while True:
            messages.append(client.recv(20))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else None


def printed(run: Running, count: int) -> Iterator[object]:
    return (json.loads(run.stdout.readline()) for _ in range(count))


async def heartbeat_task(url: str, peers: int) -> list[tuple[list[object], int | None]]:
    """What each of so many peers gets until the other side closes, and its close code."""

    async def watch_one() -> tuple[list[object], int | None]:
        async with connect_many(url, compression=None) as client:
            return [json.loads(message) async for message in client], client.close_code

    return await asyncio.gather(*(watch_one() for _ in range(peers)))


def test_events_go_to_every_peer_and_the_end_of_the_input_is_the_end(listen: Listen) -> None:
    run, url = listen("server-output", "--wait-peers", "2", "--stats")
    run.send(*map(str, range(1000)))
    run.stdin.close()
    assert asyncio.run(heartbeat_task(url, 2)) == [(list(range(1000)), 1001)] * 2
    code, said = run.end()
    assert code == 0
    figures = json.loads(said.splitlines()[-1])
    assert (figures["accepted"], figures["confirmed"], figures["listener"]["admitted"]) == (1000, 1000, 2)


def test_two_hundred_peers_get_all_of_a_file(listen: Listen, tmp_path: Path) -> None:
    peers, events = 200, 250
    source = tmp_path / "events.ndjson"
    source.write_text("".join(f"{n}\n" for n in range(events)))
    run, url = listen("server-output", "--wait-peers", str(peers), "--input", str(source))
    assert asyncio.run(heartbeat_task(url, peers)) == [(list(range(events)), 1001)] * peers
    assert run.end()[0] == 0


def test_without_waiting_events_go_to_nobody_and_that_is_told(listen: Listen) -> None:
    run, _ = listen("server-output", "--stats")
    run.send("1", "2")
    run.stdin.close()
    code, said = run.end()
    assert code == 0
    assert "no peer was there for 2 messages" in said
    assert json.loads(said.splitlines()[-1])["listener"]["unheard"] == 2


def test_what_a_link_took_is_not_told_as_unheard(listen: Listen, peer: Peer) -> None:
    run, _ = listen("relay", "--set", f"url={peer.url}")
    run.send("1", "2")
    peer.wait_for(2)
    run.interrupt(signal.SIGTERM)
    code, said = run.end()
    assert (code, peer.messages) == (130, ["1", "2"])
    assert "no peer was there" not in said


@pytest.mark.parametrize("with_peer", [False, True])
def test_what_peers_send_is_printed_until_a_signal(listen: Listen, *, with_peer: bool) -> None:
    options = ["--with-peer"] if with_peer else []
    run, url = listen("server-input", "--set", "payload=json", *options)
    with connect(f"{url}device/7") as client:
        host, port = client.local_address[:2]
        for n in range(100):
            client.send(f'{{"n":{n}}}')
        lines = list(printed(run, 100))
        if with_peer:
            assert {line["peer"] for line in lines} == {f"{host}:{port}"}
            lines = [line["event"] for line in lines]
        assert lines == [{"n": n} for n in range(100)]
        run.interrupt(signal.SIGTERM)
        assert rest_of(client) == ([], 1001)
    assert run.end()[0] == 130


@pytest.mark.parametrize("options", [[], ["--with-peer"]])
def test_what_peers_send_is_printed_however_deep_or_large_it_is(listen: Listen, options: list[str]) -> None:
    run, url = listen("server-input", "--set", "payload=json", *options)
    deep = "[" * 1000 + "]" * 1000
    # orjson writes neither a number over 64 bits nor what stands in 255 brackets.
    mixed = '{"é":[1.5,{},[],true,null,{"b":-123456789012345678901234567890,"":"\\u0000ü"}]}'
    with connect(url) as client:
        for text in (deep, mixed, "1"):
            client.send(text)
        lines = [run.stdout.readline().rstrip("\n") for _ in range(3)]
        if options:
            lines = [line.partition('"event":')[2].removesuffix("}") for line in lines]
        assert lines == [deep, mixed, "1"]
        run.interrupt()
        code, said = run.end()
    assert code == 130
    assert "Traceback" not in said


def test_elements_of_a_batch_are_printed_however_deep_they_are(listen: Listen) -> None:
    batch = '{"mode": "fixed", "wrap-as-json": true}'
    run, url = listen("server-input", "--set", "payload=json", "--set", f"batch={batch}")
    deep = "[" * 1022 + "]" * 1022  # in the batch as deep as JSON is read
    with connect(url) as client:
        client.send(f"[{deep},1]")
        assert [run.stdout.readline() for _ in range(2)] == [f"{deep}\n", "1\n"]


def test_server_input_does_not_end_with_its_input(listen: Listen) -> None:
    run, url = listen("server-input")
    run.stdin.close()
    with connect(url) as client:
        client.send("still there")
        assert list(printed(run, 1)) == ["still there"]


def test_a_relay_passes_the_input_and_what_peers_send(listen: Listen) -> None:
    run, url = listen("relay", "--wait-peers", "2")
    with connect(url) as one, connect(url) as two:
        run.wait_for("waiting")
        one.send('{"from":"one"}')
        assert two.recv(20) == '{"from":"one"}'
        run.send('{"from":"input"}')
        assert [client.recv(20) for client in (one, two)] == ['{"from":"input"}'] * 2
        assert list(printed(run, 1)) == [{"from": "one"}]
        run.stdin.close()
        run.wait_for("the input has ended")
        two.send('{"still":"there"}')
        assert one.recv(20) == '{"still":"there"}'
        run.interrupt(signal.SIGTERM)
        assert rest_of(one) == ([], 1001)
        assert rest_of(two) == ([], 1001)
    assert run.end()[0] == 130


def test_a_relay_stamps_what_peers_send_and_changes_nothing_else(listen: Listen) -> None:
    run, url = listen("relay", "--set", "payload=json", "--set", "delivery.stamp=s", "--wait-peers", "2")
    with connect(url) as one, connect(url) as two:
        run.wait_for("waiting")
        one.send('{"a":1, "a":12345678.123456789012345\n}')
        assert two.recv(20).startswith('{"a":1, "a":12345678.123456789012345 ,"s":"')


def test_a_relay_with_a_link_passes_both_ways(listen: Listen, peer: Peer) -> None:
    run, url = listen("relay", "--wait-peers", "1", "--set", f"url={peer.url}")
    run.wait_for("link open")
    with connect(url) as client:
        client.send('{"from":"client"}')
        peer.wait_for(1)
        peer.say('{"from":"link"}')
        assert client.recv(20) == '{"from":"link"}'
        run.send('{"from":"input"}')
        assert client.recv(20) == '{"from":"input"}'
        assert list(printed(run, 2)) == [{"from": "client"}, {"from": "link"}]
        run.interrupt(signal.SIGTERM)
        assert rest_of(client) == ([], 1001)
    assert run.end()[0] == 130
    assert sorted(peer.messages) == ['{"from":"client"}', '{"from":"input"}']


def test_interrupted_while_it_waits_for_peers(listen: Listen) -> None:
    run, _ = listen("server-output", "--wait-peers", "2")
    run.wait_for("waiting for 2 peers")
    run.interrupt()
    code, said = run.end()
    assert code == 130
    assert "Traceback" not in said


def test_an_address_that_is_taken_is_told(listen: Listen, command: Callable) -> None:
    _, url = listen("server-output")
    address = url.removeprefix("ws://").rstrip("/")
    run = command("run", "--set", "mode=server-output", "--set", f"server.bind={address}")
    assert run.returncode in (2, 3)
    assert "address already in use" in run.stderr.lower()
    assert "Traceback" not in run.stderr
