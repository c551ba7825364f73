"""Processes killed with -9 while events are on their way: what was promised before holds, and all the rest arrives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from processes import LONG, Child, Receiving, Subscription, bounded, disconnection, free_port, seeded, until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.faults, pytest.mark.network]

KILLS = 20 if LONG else 3


@pytest.mark.parametrize("level", ["received", "acked"])
@bounded
async def test_a_receiver_killed_again_and_again_had_read_all_that_was_confirmed_and_gets_the_rest(
    level: str, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    draw, window = seeded(), 256
    receiver = Receiving(tmp_path, acks=level == "acked")
    config = {
        "url": receiver.url,
        "reconnect": {"initial-backoff": "10ms", "max-backoff": "20ms"},
        "delivery": {"level": level, "stamp": "seq", "max-unconfirmed": window},
    }
    sent, at_risk, enough = 0, 0, False

    async def post(output: trio_wsout.Output) -> None:
        nonlocal sent
        while not enough:
            await output.send({"n": sent})
            sent += 1

    with disconnection(receiver):
        await receiver.start()
        async with trio_wsout.open_output(config) as output, trio.open_nursery() as nursery:
            nursery.start_soon(post, output)
            for _ in range(KILLS):
                goal = output.statistics().confirmed + draw.randrange(100, 3000)
                await until(lambda: output.statistics().confirmed >= goal)  # noqa: B023
                await trio.sleep(draw.random() * 0.02)
                receiver.kill()
                await until(lambda: output.statistics().peers == 0)
                confirmed, read = output.statistics().confirmed, receiver.distinct
                assert read == list(range(len(read)))
                assert confirmed <= len(read), "confirmed, and the process that died had not read it"
                at_risk += output.statistics().window
                await receiver.start()
            goal = output.statistics().confirmed + 1
            await until(lambda: output.statistics().confirmed >= goal)
            enough = True
        statistics = output.statistics()
        numbers = receiver.numbers
    assert list(dict.fromkeys(numbers)) == list(range(sent)), "first arrivals: all of them, in order"
    assert (statistics.confirmed, statistics.undelivered, statistics.link.reconnects) == (sent, 0, KILLS)
    duplicates = len(numbers) - sent
    assert duplicates <= statistics.link.resent <= KILLS * window
    figures(
        f"receiver killed {KILLS} times, {level}: {sent} events, 0 lost, 0 confirmed that it had not read, "
        f"{at_risk} unconfirmed at the kills, {duplicates} duplicates"
    )


@pytest.mark.parametrize("store", ["file", "sqlite"])
@bounded
async def test_a_sender_killed_again_and_again_goes_on_from_its_stored_cursor_and_nothing_is_missing(
    store: str, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    draw, window = seeded(), 64
    receiver = Receiving(tmp_path)
    place = tmp_path / "cursors.db"
    config = {
        "url": receiver.url,
        "delivery": {"max-unconfirmed": window},
        "cursor": {
            "persist-to": f"sqlite:{place}" if store == "sqlite" else str(tmp_path / "cursors"),
            "state-id": "numbers",
            "header-name": "Last-Event-ID",
            "value-field": "n",
        },
    }
    pace: dict[str, Any] = {"pace": 0.005, "burst": 5}  # at most 100 events in the 100 ms of coalescing
    repeated: list[int] = []

    with disconnection(receiver):
        await receiver.start()
        for _ in range(KILLS):
            before = len(receiver.distinct)
            sender = Child(tmp_path, "send", config=config, **pace)
            with disconnection(sender):
                goal = before + draw.randrange(1, 400)
                await sender.until(lambda: len(receiver.distinct) >= goal)  # noqa: B023
                await trio.sleep(draw.random() * 0.02)
            first = await sender.wait_said("first")
            assert first <= before, "the cursor was ahead of what had arrived"
            repeated.append(before - first)
        total = len(receiver.distinct) + 100
        sender = Child(tmp_path, "send", config=config, total=total, **pace)
        with disconnection(sender):
            assert await sender.wait() == 0
        repeated.append(total - 100 - await sender.wait_said("first"))
        lines, distinct = receiver.lines, receiver.distinct
    assert distinct == list(range(total)), "first arrivals: all of them, in order"
    runs = [[(kind, rest) for _, kind, rest in run] for _, run in groupby(lines, lambda line: line[0])]
    assert len(runs) == KILLS + 1
    for (_, cursor), *events in runs:
        numbers = [json.loads(text)["n"] for _, text in events]
        start = int(cursor or -1) + 1
        assert numbers == list(range(start, start + len(numbers))), "what follows the cursor of the handshake"
    # The window, and what was confirmed while a save was under way: 2 s are for a slow disk.
    assert max(repeated) <= window + 2000
    figures(
        f"sender killed {KILLS} times, cursor in {store}: {total} events, 0 lost, "
        f"{sum(repeated)} duplicates, at most {max(repeated)} for a kill"
    )


@bounded
async def test_a_sender_killed_again_and_again_sends_all_that_its_spool_took_first_and_in_order(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    draw, kills = seeded(), 20 if LONG else 4
    receiver = Receiving(tmp_path)
    noted = tmp_path / "sent"
    noted.touch()
    config = {
        "url": receiver.url,
        "spool": {"path": str(tmp_path / "spool")},
        "reconnect": {"initial-backoff": "10ms", "max-backoff": "20ms"},
        # What comes twice has the same stamp, also from another process.
        "delivery": {"stamp": "seq"},
    }

    def sent() -> list[int]:
        whole, _, _ = noted.read_text().rpartition("\n")
        return [int(line) for line in whole.split()]

    options: dict[str, Any] = {"config": config, "sent": str(noted), "tasks": 8}
    left, first = 0, 0
    with disconnection(receiver):
        await receiver.start()
        for life in range(kills + 1):
            away = life < kills and draw.random() < 0.5
            if away:
                receiver.kill()
            more = {"total": first + 500} if life == kills else {}
            sender = Child(tmp_path, "spool", first=first, **options, **more)
            with disconnection(sender):
                said = await sender.wait_for(lambda said: "left" in said)
                left += said["left"]
                if more:
                    assert await sender.wait() == 0
                    break
                goal = len(sent()) + draw.randrange(1, 3000)
                await sender.until(lambda: len(sent()) >= goal)  # noqa: B023
                await trio.sleep(draw.random() * 0.02)
            first = max(sent()) + options["tasks"] + 1  # what was under way may be on disk
            if away:
                await receiver.start()
        accepted, arrived, lines = sent(), receiver.distinct, receiver.lines
    stamps: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for _, kind, text in lines:
        if kind == "text":
            event = json.loads(text)
            assert stamps.setdefault(event["seq"], event["n"]) == event["n"], "a stamp names one event"
            epoch, _, seq = event["seq"].partition("-")
            order.append((int(epoch), int(seq)))
    assert set(accepted) <= set(arrived), "send returned, and it was lost"
    assert len(stamps) == len(arrived), "an event has one stamp, through all lives"
    firsts = list(dict.fromkeys(order))
    assert firsts == sorted(firsts), "first arrivals are in order"
    assert len(set(arrived) - set(accepted)) <= (kills + 1) * options["tasks"]
    assert [each.name for each in (tmp_path / "spool").iterdir()] == ["spool.db"]
    figures(
        f"sender with a spool killed {kills} times: {len(accepted)} events, 0 lost, 0 out of order, "
        f"{left} sent from the spool at the starts, {len(order) - len(firsts)} duplicates"
    )


class Talker:
    """A client of a relay: sends numbered events for as long as it is wanted, through all lives of the relay."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.sent = 0
        self.confirmed = 0
        """The events that the relay has confirmed, from the first on."""
        self.reconnects = 0
        self.enough = trio.Event()
        self._config = {
            "url": f"ws://127.0.0.1:{port}/",
            "reconnect": {"initial-backoff": "10ms", "max-backoff": "50ms"},
            "delivery": {"max-unconfirmed": 64},
        }

    async def talk(self) -> None:
        async with trio_wsout.open_output(self._config) as output, trio.open_nursery() as nursery:
            sending, taking = trio.open_memory_channel[trio_wsout.Receipt](1000)
            nursery.start_soon(self._note, taking)
            async with sending:
                while not self.enough.is_set():
                    await sending.send(await output.submit({"who": self.name, "n": self.sent}))
                    self.sent += 1
                    await trio.sleep(0.001)
        self.reconnects = output.statistics().link.reconnects

    async def _note(self, taking: trio.MemoryReceiveChannel[trio_wsout.Receipt]) -> None:
        async for receipt in taking:
            await receipt.wait()
            self.confirmed += 1


@pytest.mark.parametrize("history", [False, True])
@bounded
async def test_a_relay_killed_again_and_again_sends_up_all_that_its_spool_took_of_its_program_and_its_peers(
    *, history: bool, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    draw, kills, port = seeded(), 20 if LONG else 4, free_port()
    receiver, noted = Receiving(tmp_path), tmp_path / "sent"
    noted.touch()
    config: dict[str, Any] = {
        "mode": "relay",
        "server": {"bind": f"127.0.0.1:{port}"},
        "url": receiver.url,
        "payload": "json",
        "spool": {"path": str(tmp_path / "spool")},
        "reconnect": {"initial-backoff": "10ms", "max-backoff": "20ms"},
        "delivery": {"stamp": "seq"},
    }
    if history:
        config["history"] = {"store": f"sqlite:{tmp_path / 'history.db'}"}
    talkers = [Talker(f"peer {number}", port) for number in range(3)]
    options: dict[str, Any] = {"config": config, "sent": str(noted), "tasks": 4}

    def sent() -> list[int]:
        whole, _, _ = noted.read_text().rpartition("\n")
        return [int(line) for line in whole.split()]

    def gone_on(count: int) -> Callable[[], bool]:
        goal, heard = len(sent()) + count, [each.confirmed for each in talkers]
        return lambda: (
            len(sent()) >= goal
            and all(each.confirmed > before for each, before in zip(talkers, heard, strict=True))
        )

    left, first, aways, at_risk = 0, 0, 0, 0
    with disconnection(receiver):
        await receiver.start()
        async with trio.open_nursery() as nursery:
            for each in talkers:
                nursery.start_soon(each.talk)
            for life in range(kills + 1):
                away = life < kills and draw.random() < 0.5
                if away:
                    receiver.kill()
                    aways += 1
                relay = Child(
                    tmp_path, "spool", first=first, **options, **({"idle": True} if life == kills else {})
                )
                with disconnection(relay):
                    left += (await relay.wait_for(lambda said: "left" in said))["left"]
                    if life == kills:
                        for each in talkers:
                            each.enough.set()
                        await relay.until(lambda: all(each.confirmed == each.sent for each in talkers))
                        relay.signal(signal.SIGUSR1)
                        assert await relay.wait() == 0
                        break
                    await relay.until(gone_on(draw.randrange(1, 1000)))
                    await trio.sleep(draw.random() * 0.02)
                at_risk += sum(each.sent - each.confirmed for each in talkers)
                first = max(sent()) + options["tasks"] + 1  # what was under way may be on disk
                if away:
                    await receiver.start()
        accepted, lines = sent(), receiver.lines
    _check_what_went_up(lines, talkers, accepted, kills, aways)
    assert all(each.reconnects for each in talkers)
    total = sum(each.sent for each in talkers)
    figures(
        f"relay with a spool killed {kills} times (history: {history}): {len(accepted)} events of its program and {total} of its "
        f"peers, 0 lost, 0 out of order, {left} sent from the spool at the starts, {at_risk} unconfirmed at the kills"
    )


def _check_what_went_up(
    lines: list[tuple[str, str, str]], talkers: list[Talker], accepted: list[int], kills: int, aways: int
) -> None:
    """Check that everything that was promised arrived, in order for each source, and twice at seams only."""
    events = [json.loads(text) for _, kind, text in lines if kind == "text"]
    stamps: dict[str, tuple[str, int]] = {}
    for event in events:
        named = event.get("who", "program"), event["n"]
        assert stamps.setdefault(event["seq"], named) == named, "a stamp names one event"
    order = [tuple(map(int, stamp.split("-"))) for stamp in stamps]
    assert order == sorted(order), "first arrivals are in order"
    of_each: dict[str, list[int]] = {}
    for who, number in stamps.values():
        of_each.setdefault(who, []).append(number)
    assert set(accepted) <= set(of_each.pop("program")), "send returned, and it was lost"
    seams = 2 * kills + aways + 1
    for each in talkers:
        numbers = of_each[each.name]
        assert list(dict.fromkeys(numbers)) == list(range(each.sent)), "first arrivals: all of them, in order"
        back = sum(after <= before for before, after in pairwise(numbers))
        assert back <= seams, "what came twice came at a seam"


class FanOut:
    """Five clients that come and go, and all that they saw."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.seen: list[list[Any]] = [[] for _ in range(5)]
        self.clients = [Subscription(events.append) for events in self.seen]

    @property
    def most(self) -> list[Any]:
        return max(self.seen, key=len)

    async def live(self, port: int) -> None:
        """Come and go until nobody listens."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._resume_anywhere, port)
            for client in self.clients:
                nursery.start_soon(self._come_and_go, client, port)

    async def _come_and_go(self, client: Subscription, port: int) -> None:
        try:
            while True:
                await client.visit(port, self.draw.randrange(20, 500))
                await trio.sleep(self.draw.random() * 0.01)
        except OSError:
            return

    async def _resume_anywhere(self, port: int) -> None:
        """Resume after an event that some client saw: what follows is what that client saw."""
        known = list(self.most)
        if len(known) < 2:
            return
        at = self.draw.randrange(len(known) - 1)
        got: list[Any] = []
        auditor = Subscription(got.append, cursor=known[at]["seq"])
        await auditor.visit(port, len(known) - at - 1)
        assert auditor.resumed == ["resumed"]
        assert got == known[at + 1 :][: len(got)]

    async def take_the_rest(self, config: dict[str, Any], port: int) -> list[Any]:
        """Have everybody catch up with a server that runs here; gives the whole history."""
        history: list[Any] = []
        everything = Subscription(history.append, cursor="nothing that was ever a cursor")
        async with trio_wsout.open_output(config) as output:
            kept = output.statistics().history.events
            await everything.visit(port, kept)
            notice, *events = history
            assert everything.resumed == ["gap"]
            assert "gap" in notice
            assert len(events) == kept
            places = {event["seq"]: place for place, event in enumerate(events, 1)}
            for client in self.clients:
                left = kept - places[client.cursor]
                if left:
                    await client.visit(port, left)
        return events


@bounded
async def test_a_server_killed_again_and_again_keeps_what_any_client_saw_and_all_that_was_confirmed(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    draw, port, noted = seeded(), free_port(), tmp_path / "confirmed"
    config = {
        "mode": "server-output",
        "server": {"bind": f"127.0.0.1:{port}"},
        "history": {"store": f"sqlite:{tmp_path / 'history.db'}"},
        "cursor": {"header-name": "Last-Event-ID"},
        "delivery": {"stamp": "seq"},
    }
    fan_out = FanOut(draw)
    for run in range(KILLS):
        goal = len(fan_out.most) + draw.randrange(50, 800)
        server = Child(tmp_path, "serve", config=config, run=run, confirmed=str(noted))
        with disconnection(server):
            await server.wait_said("ready")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fan_out.live, port)
                await server.until(lambda: len(fan_out.most) >= goal and all(fan_out.seen))  # noqa: B023
                await trio.sleep(draw.random() * 0.02)
                server.kill()

    events = await fan_out.take_the_rest(config, port)
    for client, got in zip(fan_out.clients, fan_out.seen, strict=True):
        assert got == events[-len(got) :], "no gap, and nothing twice"
        assert set(client.resumed[1:]) == {"resumed"}
    for run, of_run in groupby(events, lambda event: int(event["run"])):
        numbers = [event["n"] for event in of_run]
        assert numbers == list(range(len(numbers))), f"run {run}"
    assert [run for run, _ in groupby(event["run"] for event in events)] == list(range(KILLS))
    confirmed = [tuple(map(int, line.split())) for line in noted.read_text().split("\n")[:-1]]
    assert confirmed
    lost = set(confirmed) - {(event["run"], event["n"]) for event in events}
    assert not lost, "a receipt was confirmed, and its event is not in the history"
    comings = sum(len(client.resumed) for client in fan_out.clients)
    figures(
        f"server with history killed {KILLS} times: {len(events)} events, {len(confirmed)} confirmed before, "
        f"0 of them lost; 5 clients, {comings} connections: no gap, nothing twice"
    )


class Command:
    """The command through its lives, each of which prints into a file of its own."""

    def __init__(self, folder: Path, name: str, fields: dict[str, Any]) -> None:
        self._folder = folder
        self._name = name
        self._arguments = [part for field, value in fields.items() for part in ("--set", f"{field}={value}")]
        self._process: subprocess.Popen[bytes] | None = None
        self._files: list[Path] = []

    def start(self) -> None:
        self._files.append(self._folder / f"{self._name}-{len(self._files)}")
        with self._files[-1].open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trio_wsout", "run", *self._arguments, "--stay"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.DEVNULL,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def lives(self) -> list[list[Any]]:
        """What each life wrote; a line that a kill has torn was not taken."""
        return [
            [json.loads(line) for line in each.read_bytes().rpartition(b"\n")[0].splitlines()]
            for each in self._files
        ]

    @property
    def size(self) -> int:
        """Bytes that it has written in all lives."""
        return sum(each.stat().st_size for each in self._files)

    @property
    def tail(self) -> bytes:
        """The end of what the latest life has written."""
        return self._files[-1].read_bytes()[-1000:]

    @property
    def seen(self) -> dict[str, Any]:
        """The events by their stamps, in the order of their first arrivals."""
        return {event["seq"]: event for life in self.lives for event in life if "seq" in event}


def follower_of(port: int, folder: Path, name: str, **more: Any) -> Command:
    """The command that follows a server at this port."""
    fields = {
        "url": f"ws://127.0.0.1:{port}/",
        "cursor.from": "received",
        "cursor.value-field": "seq",
        "cursor.initial-value": "start",
        "cursor.persist-to": folder / f"{name}.cursor",
        "reconnect.initial-backoff": "10ms",
        "reconnect.max-backoff": "50ms",
    }
    return Command(folder, name, fields | more)


@pytest.mark.parametrize("through", ["nothing", "a relay"])
@bounded
async def test_a_receiver_and_its_server_killed_again_and_again_leave_no_hole(
    through: str, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    draw, port = seeded(), free_port()
    config = {
        "mode": "server-output",
        "server": {"bind": f"127.0.0.1:{port}"},
        "history": {"store": f"sqlite:{tmp_path / 'history.db'}"},
        "cursor": {"header-name": "Last-Event-ID"},
        "delivery": {"stamp": "seq"},
    }
    killed: dict[str, Command] = {}
    relayed = port
    if through == "a relay":
        relayed = free_port()
        history = {"history.store": f"sqlite:{tmp_path / 'relay.db'}"}
        listener = {"mode": "relay", "payload": "json", "server.bind": f"127.0.0.1:{relayed}"}
        killed["relay"] = follower_of(port, tmp_path, "relay", **listener, **history)
    killed["receiver"] = receiver = follower_of(relayed, tmp_path, "receiver")
    servers: list[Child] = []

    async def start_server() -> None:
        noted = str(tmp_path / "confirmed")
        servers.append(Child(tmp_path, "serve", config=config, run=len(servers), confirmed=noted))
        await servers[-1].wait_said("ready")

    kills = dict.fromkeys([*killed, "server"], 0)
    with disconnection(*killed.values()):
        for each in killed.values():
            each.start()
        await start_server()
        for number in range(2 * KILLS):
            goal = receiver.size + draw.randrange(2_000, 40_000)
            await servers[-1].until(lambda: receiver.size >= goal)  # noqa: B023
            await trio.sleep(draw.random() * 0.2)
            first = list(kills)[number % len(kills)]
            chosen = {first, *draw.sample(list(kills), draw.randrange(len(kills)))}
            if "server" in chosen:
                servers[-1].kill()
            for name in chosen & {*killed}:
                killed[name].kill()
            await trio.sleep(draw.random() * 0.05)
            for name in chosen:
                kills[name] += 1
                await start_server() if name == "server" else killed[name].start()
        servers[-1].kill()
        events = await _rest(config, port, receiver)
    assert all(kills.values()), "no fault happened"
    assert list(receiver.seen.values()) == events, "a hole, or out of order"
    duplicates = sum(len(life) for life in receiver.lives) - len(events) - 1
    if through == "nothing":
        duplicates = _check_seams(receiver.lives, events)
    figures(
        f"server and receiver killed {kills}, through {through}: {len(events)} events, no hole, "
        f"{duplicates} duplicates"
    )


async def _rest(config: dict[str, Any], port: int, receiver: Command) -> list[Any]:
    """Serve once more, until the receiver has the last event; return all events."""
    history: list[Any] = []
    everything = Subscription(history.append, cursor="nothing that was ever a cursor")
    async with trio_wsout.open_output(config) as output:
        await output.send({"run": -1, "n": 0})
        await output.flush()
        await everything.visit(port, output.statistics().history.events)
        last = history[-1]["seq"].encode()
        await until(lambda: last in receiver.tail)
    return history[1:]


def _check_seams(lives: list[list[Any]], events: list[Any]) -> int:
    """Check that each life has events in a row, without a gap but that of the first cursor; return how many came twice."""
    places = {event["seq"]: place for place, event in enumerate(events)}
    assert "gap" in lives[0][0], "of the cursor that none was"
    duplicates, end, cursor_saved = 0, 0, False
    for each in lives:
        # A life that is killed within 100 ms of its first event may not have saved a cursor; the next one asks as it did.
        gap = [line for line in each[:1] if line.get("gap", {}).get("asked") == "start"]
        assert not (gap and cursor_saved), "a cursor that was saved is gone"
        cursor_saved = cursor_saved or (bool(each) and not gap)
        life = each[len(gap) :]
        if life:
            start = places[life[0]["seq"]]
            assert [places[event["seq"]] for event in life] == list(range(start, start + len(life)))
            duplicates, end = duplicates + end - start, start + len(life)
    return duplicates
