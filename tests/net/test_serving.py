"""The server modes over real sockets: many peers, stalled peers, TLS, addresses, the end."""

from __future__ import annotations

import json
import os
import resource
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from layers import Layer, write_certificate
from trio_websocket import open_websocket_url
from trio_wsout.testing import PeerProtocol
from trio_wsout.testing.protocol import Close, Ping, Response

if TYPE_CHECKING:
    import trustme
    from trio.testing import MockClock
    from trio_wsout.testing.protocol import PeerEvent

pytestmark = pytest.mark.network

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    return {"mode": "server-output", "server": server, **more}


def port_of(output: trio_wsout.Output) -> int:
    return int(output.statistics().addresses[0].rpartition(":")[2])


class RawPeer:
    """A peer of few bytes: counts texts, answers pings and Close, or stalls."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.texts: list[str] = []
        self.expected: list[str] | None = None
        self.seen = 0
        self.close_code: int | None = None
        self.protocol = PeerProtocol(server=False)

    @classmethod
    async def connect(cls, port: int) -> RawPeer:
        peer = cls(await trio.open_tcp_stream("127.0.0.1", port))
        await peer.stream.send_all(peer.protocol.request())
        events: list[PeerEvent] = []
        while not events:
            events = peer.protocol.feed(await peer.stream.receive_some())
        response, *early = events
        assert isinstance(response, Response)
        assert response.status == 101
        for event in early:
            await peer.on(event)
        return peer

    async def run(self) -> None:
        """Read until the end."""
        try:
            while chunk := await self.stream.receive_some(65536):
                for event in self.protocol.feed(chunk):
                    await self.on(event)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(self.stream)

    async def on(self, event: PeerEvent) -> None:
        match event:
            case str() if self.expected is not None:
                assert event == self.expected[self.seen]
                self.seen += 1
            case str():
                self.texts.append(event)
            case Ping():
                await self.stream.send_all(self.protocol.pong(event.payload))
            case Close():
                self.close_code = event.code
                await self.stream.send_all(self.protocol.close(event.code))
            case _:
                pytest.fail(f"unexpected: {event!r}")


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_numbers() -> set[str]:
    """The numbers of all files and sockets that this process has open."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("policy", ["wait", "disconnect", "drop-oldest"])
async def test_one_stalled_peer_among_100_costs_the_others_nothing(policy: str) -> None:
    events, pad = 2000, "x" * 3000
    fields = config(server={"slow-peer": policy, "slow-peer-timeout": "500ms"})
    expected = [f"{n} {pad}" for n in range(events)]
    async with trio.open_nursery() as nursery, trio_wsout.open_output(fields) as output:
        peers = [await RawPeer.connect(port_of(output)) for _ in range(99)]
        stalled = await RawPeer.connect(port_of(output))
        await output.wait_peers(100)
        for peer in peers:
            peer.expected = expected
            nursery.start_soon(peer.run)
        before = 0
        for n in range(events):
            await output.send(f"{n} {pad}")
            if policy != "wait" and n % 20 == 0:
                await trio.sleep(0.02)  # nobody makes the sender wait: it must not outrun the good peers
            if n == events // 2:
                before = resident()
        after = resident()
        figures = output.statistics()
        with trio.fail_after(120):
            while any(peer.seen < events for peer in peers):
                await trio.sleep(0.01)
        if policy == "drop-oldest":
            assert figures.listener.lost_by_slow > 0
            assert figures.listener.expelled == 0
        else:
            assert (figures.listener.expelled, figures.listener.lost_by_slow) == (1, 0)
        assert after - before < 32 * 1024 * 1024
        await trio.aclose_forcefully(stalled.stream)


async def test_who_gets_the_number_of_a_socket_gets_nothing_of_who_had_it_before() -> None:
    async with trio.open_nursery() as nursery, trio_wsout.open_output(config()) as output:

        async def send_on() -> None:
            while True:
                await output.send("x" * 100)
                await trio.sleep(0.002)

        nursery.start_soon(send_on)
        reset = b"\x01\0\0\0\0\0\0\0"
        reused = 0
        for _ in range(30):
            peer = await RawPeer.connect(port_of(output))
            await output.wait_peers(1)
            came = bytearray()
            while b"xxx" not in came:
                came += await peer.stream.receive_some()
            there = open_numbers()
            peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            await trio.aclose_forcefully(peer.stream)
            # No handshake: nothing at all may come but the server's refusal, whose socket it is now.
            stranger = await trio.open_tcp_stream("127.0.0.1", port_of(output))
            with trio.move_on_after(0.02):
                assert await stranger.receive_some() == b""
                pytest.fail("the stranger was hung up on at once")
            reused += open_numbers() <= there
            await trio.aclose_forcefully(stranger)
        assert reused, "the numbers were in use again, or this shows nothing"
        assert output.statistics().peers == 0
        nursery.cancel_scope.cancel()


async def test_who_gets_the_number_of_a_socket_of_a_cancelled_peer_gets_nothing_that_is_sent_meanwhile() -> (
    None
):
    reused = 0
    for _ in range(40):
        strangers: list[int] = []
        async with trio.open_nursery() as closing:
            with trio.CancelScope() as scope:
                async with trio_wsout.open_output(config()) as output:
                    for _ in range(4):
                        peer = await RawPeer.connect(port_of(output))
                        closing.start_soon(peer.run)
                    await output.wait_peers(4)
                    await output.send("x")
                    await output.flush()
                    there = open_numbers()
                    scope.cancel()
                    try:
                        await trio.sleep_forever()
                    finally:
                        # By chance some peers have been cancelled before this task, and the sender has not.
                        strangers += [os.memfd_create("a stranger") for _ in range(8)]
                        reused += not there.isdisjoint(map(str, strangers))
                        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                            output.send_nowait("what no stranger may read")
            closing.cancel_scope.cancel()
        for stranger in strangers:
            assert os.pread(stranger, 100, 0) == b""
            os.close(stranger)
    assert reused, "the numbers were in use again, or this shows nothing"


async def test_what_two_peers_got_is_counted_for_each() -> None:
    batch = {"mode": "fixed", "fixed-size": 3, "timeout": "1h"}
    async with trio_wsout.open_output(config(batch=batch)) as output, trio.open_nursery() as nursery:
        peers = [await RawPeer.connect(port_of(output)) for _ in range(2)]
        for peer in peers:
            nursery.start_soon(peer.run)
        await output.wait_peers(2)
        for number in range(12):
            await output.send({"n": number})
            await output.flush() if number % 3 == 2 else None
        figures = output.statistics()
        assert (figures.written, figures.written_messages, figures.confirmed) == (24, 8, 12)
        assert [len(peer.texts) for peer in peers] == [4, 4]
        nursery.cancel_scope.cancel()


async def test_a_peer_that_spoke_after_it_was_written_to_is_idle_from_when_it_spoke(
    mock_clock: MockClock,
) -> None:
    async def pass_time(seconds: float) -> None:
        for _ in range(round(4 * seconds)):  # little by little: this process is not late
            mock_clock.jump(0.25)
            await trio.testing.wait_all_tasks_blocked(0.001)

    fields = config(
        server={"idle-timeout": "60s"}, heartbeat="none", delivery={"level": "acked"}, retry={"timeout": "1h"}
    )
    async with trio_wsout.open_output(fields) as output, trio.open_nursery() as nursery:
        peer = await RawPeer.connect(port_of(output))
        nursery.start_soon(peer.run)
        await output.wait_peers(1)
        await output.send({"n": 1})
        while not peer.texts:
            await trio.lowlevel.checkpoint()
        await pass_time(0.5)
        # Nobody has looked at its account yet: all peers are asked after a second.
        await peer.stream.send_all(b"\x81\x82\0\0\0\0hi")
        while not output.statistics().received:
            await trio.lowlevel.checkpoint()
        await pass_time(59.75)  # 60.25 s after the one, 59.75 s after the other
        assert peer.close_code is None
        while peer.close_code is None:
            await pass_time(0.25)
        assert peer.close_code == 1001


async def test_a_peer_that_reads_and_never_acknowledges_is_cut_when_retry_timeout_is_over() -> None:
    fields = config(
        delivery={"level": "acked"},
        retry={"timeout": "300ms"},
        heartbeat={"ping-interval": "1h"},
    )
    async with trio_wsout.open_output(fields) as output, trio.open_nursery() as nursery:
        peer = await RawPeer.connect(port_of(output))
        nursery.start_soon(peer.run)
        await output.wait_peers(1)
        await trio.sleep(0.05)
        await output.send({"n": 1})
        with trio.fail_after(120):
            while output.statistics().peers:
                await trio.sleep(0.01)
        assert len(peer.texts) == 1


async def test_a_peer_that_is_written_to_is_not_idle_and_is_closed_when_nothing_more_comes() -> None:
    fields = config(
        server={"idle-timeout": "3s"}, heartbeat={"ping-interval": "1h"}, delivery={"level": "acked"}
    )
    async with trio_wsout.open_output(fields) as output, trio.open_nursery() as nursery:
        peer = await RawPeer.connect(port_of(output))
        nursery.start_soon(peer.run)
        await output.wait_peers(1)
        for number in range(20):
            await output.send({"n": number})
            await trio.sleep(0.2)
        assert peer.close_code is None
        assert len(peer.texts) == 20
        with trio.fail_after(120):
            while peer.close_code is None:
                await trio.sleep(0.01)
        assert peer.close_code == 1001


async def test_a_peer_that_reads_late_and_in_bits_gets_every_frame_whole() -> None:
    async with trio.open_nursery() as nursery, trio_wsout.open_output(config()) as output:
        late, quick = [await RawPeer.connect(port_of(output)) for _ in range(2)]
        await output.wait_peers(2)
        expected = [f"{n} {'x' * (n * 37 % 60_000)}" for n in range(400)]
        quick.expected = late.expected = expected
        nursery.start_soon(quick.run)

        async def read_late() -> None:
            await trio.sleep(0.3)
            await late.run()

        nursery.start_soon(read_late)
        for each in expected:
            await output.send(each)
            await trio.lowlevel.checkpoint()
        await output.flush()
        assert quick.seen == late.seen == len(expected)
        sizes = sum(len(each) + (2 if len(each) < 126 else 4) for each in expected)
        assert output.statistics().sent_bytes >= 2 * sizes
        assert output.statistics().sent_bytes <= 2 * sizes + 4000, "pings, and nothing twice"


async def test_a_thousand_peers_hear_of_the_end() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2500:
        if hard != resource.RLIM_INFINITY and hard < 2500:
            pytest.skip(f"needs 2500 file descriptors, {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2500, hard))
    try:
        # All of them answer: nobody has to be cut at the end of the hour for the block to be left.
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                async with trio_wsout.open_output({**config(), "shutdown-timeout": "1h"}) as output:
                    peers: list[RawPeer] = []

                    async def connect(count: int) -> None:
                        for _ in range(count):
                            peer = await RawPeer.connect(port_of(output))
                            peers.append(peer)
                            nursery.start_soon(peer.run)

                    async with trio.open_nursery() as connecting:
                        for _ in range(10):
                            connecting.start_soon(connect, 100)
                    await output.wait_peers(1000)
                    await output.send("hello")
                    await output.flush()
                while any(peer.close_code is None for peer in peers):
                    await trio.sleep(0.01)
                assert [peer.texts for peer in peers] == [["hello"]] * 1000
                assert [peer.close_code for peer in peers] == [1001] * 1000
                for peer in peers:
                    await trio.aclose_forcefully(peer.stream)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_peers_that_do_not_answer_the_close_are_cut_within_shutdown_timeout() -> None:
    with trio.fail_after(120):
        async with trio_wsout.open_output({**config(), "shutdown-timeout": "1s"}) as output:
            peers = [await RawPeer.connect(port_of(output)) for _ in range(50)]
            await output.wait_peers(50)
    for peer in peers:
        received = b""
        while chunk := await peer.stream.receive_some():
            received += chunk
        assert received == b"\x88\x02\x03\xe9"
        await trio.aclose_forcefully(peer.stream)


async def test_tls_is_read_anew_when_its_files_change(ca: trustme.CA, tmp_path: Path) -> None:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.check_hostname = False

    async def name_shown(port: int) -> str:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        secured = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
        await secured.do_handshake()
        shown = secured.getpeercert()["subjectAltName"][0][1]
        await trio.aclose_forcefully(secured)
        return shown

    files = write_certificate(ca, tmp_path, "first.example")
    fields = config(server={"tls": files})
    async with trio_wsout.open_output(fields) as output:
        port = port_of(output)
        assert await name_shown(port) == "first.example"
        write_certificate(ca, tmp_path, "second.example")
        await trio.sleep(1.1)
        assert await name_shown(port) == "second.example"
        Path(files["key"]).write_text("not a key")
        await trio.sleep(1.1)
        assert await name_shown(port) == "second.example"  # the old one stays

    Path(files["cert"]).write_text("nonsense")
    with pytest.raises(trio_wsout.ConfigError) as caught:
        async with trio_wsout.open_output(fields):
            pytest.fail("the block must not begin")
    assert [problem.path for problem in caught.value.problems] == ["server.tls.cert", "server.tls.key"]


async def test_events_over_tls(tls: Layer) -> None:
    fields = config(server={"bind": "localhost:0", **tls.fields})
    async with trio_wsout.open_output(fields) as output:
        url = f"wss://localhost:{port_of(output)}/"
        async with open_websocket_url(url, ssl_context=tls.context) as client:
            for n in range(100):
                await output.send({"n": n})
            assert [json.loads(await client.get_message())["n"] for _ in range(100)] == list(range(100))
            await output.flush()


async def test_port_0_is_the_same_at_every_address() -> None:
    async with trio_wsout.open_output(config(server={"bind": "localhost:0"})) as output:
        addresses = output.statistics().addresses
        assert len({address.rpartition(":")[2] for address in addresses}) == 1
        for address in addresses:
            host, _, port = address.rpartition(":")
            stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
            await trio.aclose_forcefully(stream)
    async with trio_wsout.open_output(config(server={"bind": ":0"})) as output:
        assert len({address.rpartition(":")[2] for address in output.statistics().addresses}) == 1


async def test_an_ipv6_address() -> None:
    try:
        async with trio_wsout.open_output(config(server={"bind": "[::1]:0"})) as output:
            (address,) = output.statistics().addresses
            assert address.startswith("[::1]:")
            peer_stream = await trio.open_tcp_stream("::1", port_of(output))
            await trio.aclose_forcefully(peer_stream)
    except trio_wsout.ConfigError as error:
        pytest.skip(f"no IPv6 here: {error.problems[0].reason}")


async def test_a_unix_socket_is_made_replaced_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    fields = config(server={"bind": f"unix:{path}"})
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    async with trio_wsout.open_output(fields) as output:
        assert output.statistics().addresses == (f"unix:{path}",)
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(HANDSHAKE)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
        with pytest.raises(trio_wsout.ConfigError, match=r"server\.bind"):
            async with trio_wsout.open_output(fields):
                pytest.fail("the path is in use")
        await trio.aclose_forcefully(stream)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(trio_wsout.ConfigError):
        async with trio_wsout.open_output(fields):
            pytest.fail("a file is no socket")
    assert path.read_text() == "precious"


async def test_a_unix_socket_of_a_successor_stays(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    fields = config(server={"bind": f"unix:{path}"}, **{"shutdown-timeout": "1s"})
    connected, ended = trio.Event(), trio.Event()

    async def leave() -> None:
        async with trio_wsout.open_output(fields) as output:
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(HANDSHAKE)
            await output.wait_peers(1)
            connected.set()
        # Its Close was not answered, and the end waited for that.
        await trio.aclose_forcefully(stream)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await connected.wait()
        while path.exists():
            await trio.sleep(0.001)
        async with trio_wsout.open_output(fields):
            assert not ended.is_set()
            assert path.exists()
            await ended.wait()
            await trio.aclose_forcefully(await trio.open_unix_socket(str(path)))
    assert not path.exists()


async def test_a_unix_socket_that_another_has_bound_or_handed_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    fields = config(server={"bind": f"unix:{path}"})
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as given:
        async with trio_wsout.open_output(fields):
            path.unlink()
            other.bind(str(path))
        assert path.exists(), "it is not the file that was bound"
        path.unlink()
        given.bind(str(path))
        given.listen()
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(given.dup()))]
        async with trio_wsout.open_output(fields, listeners=listeners):
            pass
        assert path.exists(), "who handed it over may go on with it"


async def test_an_address_in_use_is_a_config_error() -> None:
    async with trio_wsout.open_output(config()) as output:
        with pytest.raises(trio_wsout.ConfigError) as caught:
            async with trio_wsout.open_output(config(server={"bind": f"127.0.0.1:{port_of(output)}"})):
                pytest.fail("the port is in use")
    (problem,) = caught.value.problems
    assert problem.path == "server.bind"
    assert "in use" in problem.reason


async def test_nothing_listens_after_the_end() -> None:
    async with trio_wsout.open_output(config()) as output:
        port = port_of(output)
    with pytest.raises(OSError, match=r"\[Errno|all attempts"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_an_exception_of_the_block_is_raised_and_the_peers_are_told() -> None:
    async def leave() -> None:
        async with trio_wsout.open_output(config()) as output:
            peers.extend([await RawPeer.connect(port_of(output)) for _ in range(20)])
            for peer in peers:
                nursery.start_soon(peer.run)
            await output.wait_peers(20)
            await output.send("last")
            raise KeyError("mine")

    peers: list[RawPeer] = []
    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError, match="mine"):
            await leave()
    assert [(peer.texts, peer.close_code) for peer in peers] == [(["last"], 1001)] * 20
    for peer in peers:
        await trio.aclose_forcefully(peer.stream)


async def test_server_input_gives_what_peers_send_with_who_sent_it() -> None:
    fields = {
        "mode": "server-input",
        "server": {"bind": "127.0.0.1:0"},
        "payload": "json",
        "subprotocols": ["v1"],
    }
    async with trio_wsout.open_output(fields) as output:
        with pytest.raises(RuntimeError, match="server-input"):
            await output.send({"n": 1})
        with pytest.raises(RuntimeError, match="server-input"):
            output.send_nowait({"n": 1})
        url = f"ws://127.0.0.1:{port_of(output)}/in/here?x=1"
        async with open_websocket_url(
            url, subprotocols=["v1"], extra_headers=[(b"x-device", b"7")]
        ) as client:
            await client.send_message('{"n": 1}')
            await client.send_message("not json")
            await client.send_message('{"n": 2}')
            first, second = await output.received.receive(), await output.received.receive()
            await output.flush()
    assert [first.event, second.event] == [{"n": 1}, {"n": 2}]
    peer = first.peer
    assert (peer.path, peer.subprotocol, peer.headers["x-device"]) == ("/in/here", "v1", "7")
    assert peer.address.startswith("127.0.0.1:")
    assert (output.statistics().received, output.statistics().dropped) == (3, 1)
    with pytest.raises(trio.EndOfChannel):
        await output.received.receive()


async def test_server_input_makes_a_flooding_peer_wait_and_others_get_their_turn() -> None:
    fields = {"mode": "server-input", "server": {"bind": "127.0.0.1:0"}}
    async with trio.open_nursery() as nursery, trio_wsout.open_output(fields) as output:
        url = f"ws://127.0.0.1:{port_of(output)}/"
        sent = 0

        async def flood() -> None:
            nonlocal sent
            async with open_websocket_url(url) as client:
                while True:
                    await client.send_message("flood" * 1000)
                    sent += 1

        nursery.start_soon(flood)
        while True:
            before = sent
            await trio.sleep(0.3)
            if sent == before and sent:
                break
        async with open_websocket_url(url) as quiet:
            await quiet.send_message("quiet")
            await trio.sleep(0.2)
            events = [(await output.received.receive()).event for _ in range(80)]
        assert "quiet" in events
        nursery.cancel_scope.cancel()


async def test_server_input_takes_batches_apart() -> None:
    fields = {
        "mode": "server-input",
        "server": {"bind": "127.0.0.1:0"},
        "payload": "json",
        "batch": {"mode": "fixed", "header": "begin", "footer": "end"},
    }
    async with trio_wsout.open_output(fields) as output:
        async with open_websocket_url(f"ws://127.0.0.1:{port_of(output)}/") as client:
            await client.send_message('begin\n{"n":1}\n{"n":2}\nend')
            await client.send_message('{"n":3}')
            await client.send_message('begin\n{"n":4}\nend')
            got = [(await output.received.receive()).event for _ in range(3)]
    assert got == [{"n": 1}, {"n": 2}, {"n": 4}]
    assert output.statistics().dropped == 1


async def test_a_relay_with_a_spool_serves_its_peers_while_its_server_is_away_and_sends_up_later(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        up = f"127.0.0.1:{reserved.getsockname()[1]}"
    fields = config(
        mode="relay",
        url=f"ws://{up}/",
        spool={"path": str(tmp_path / "spool")},
        reconnect={"initial-backoff": "20ms", "max-backoff": "20ms"},
        payload="json",
        **{"shutdown-timeout": "1s"},
    )
    with trio.fail_after(60):
        with pytest.raises(trio_wsout.DeliveryError, match=r"3 accepted events not confirmed.*in the spool"):
            async with trio_wsout.open_output(fields) as relay:
                url = {"url": f"ws://127.0.0.1:{port_of(relay)}/"}
                async with (
                    trio_wsout.open_output(url) as ann,
                    trio_wsout.open_output(url, receive=True) as bob,
                ):
                    await bob.wait_connected()
                    for number in range(2):
                        await (await ann.submit({"ann": number})).wait()
                        assert (await bob.received.receive()).event == f'{{"ann":{number}}}'
                    await relay.send({"relay": 0})
                    assert (await bob.received.receive()).event == '{"relay":0}'
                assert relay.statistics().spool.events == 3
        server = {"mode": "server-input", "server": {"bind": up}, "payload": "json"}
        async with trio_wsout.open_output(server) as upstream, trio_wsout.open_output(fields) as relay:
            assert relay.statistics().accepted == 3
            await relay.send({"relay": 1})
            got = [(await upstream.received.receive()).event for _ in range(4)]
            assert got == [{"ann": 0}, {"ann": 1}, {"relay": 0}, {"relay": 1}]
            await relay.flush()
            assert relay.statistics().confirmed == 4
    assert [each.name for each in (tmp_path / "spool").iterdir()] == ["spool.db"]
