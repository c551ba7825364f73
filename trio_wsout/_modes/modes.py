"""The modes, each a choice of the parts of one tree. Every task is drawn, below the task that started it.

::

    client
    ├─ sender          events → batches → messages → log, and the socket if it has room
    ├─ journal         with a spool: events → disk, many with one commit; then to the sender
    ├─ heartbeat       the deadlines of the session: ping, warn, cut
    ├─ supervisor      dials, backs off; and is the session: log → socket, when that had no room
    │  ├─ reader       always drains; → received; pongs confirm
    │  └─ cursor saver with a cursor: confirmed cursor → store
    ├─ reporter        with `delivery.max-age`: reports what will not be delivered
    ├─ progress        with `receive`: finds that the application takes nothing
    ├─ peer log        counts what peers can cause as often as they like
    └─ guard           ends the tree when the output breaks

    server-output, server-input, relay
    ├─ sender          events → batches → messages, framed once → log → all sockets that have room
    ├─ journal         with a history: events → history, many with one commit; then to the sender
    │                  relay with a spool: before all that, what goes up the link → disk; and to a sender of the link's own
    ├─ follower        with a shared history: what comes next in it, whoever appended it → the sender
    ├─ shared log      with a shared history: keeps the connections, and reads what comes next
    ├─ heartbeat       the deadlines of all sessions: ping, warn, cut
    ├─ listener        accepts, each session guarded
    │  └─ session      handshake → admission → what the peer missed → socket; log → socket, when that had no room
    │     └─ reader    always drains; pongs confirm; server-input: → received; relay: → its turn at the sender
    ├─ supervisor      relay with a url: as in a client; what the peers get goes up
    │  ├─ reader       what comes down → its turn at the sender
    │  └─ cursor saver with a cursor: confirmed cursor → store
    ├─ reporter        relay with a url, and with `delivery.max-age`: reports what will not be delivered
    ├─ progress        with `receive`: as in a client
    ├─ peer log        as in a client
    └─ guard           as in a client
"""

from typing import Never

from trio_wsout._core.unpacking import Unpacker
from trio_wsout._modes.accepted import AcceptedSide
from trio_wsout._modes.common import Common
from trio_wsout._modes.dialled import DialledSide
from trio_wsout._modes.exchange import Exchange
from trio_wsout._modes.hooks import Hooks
from trio_wsout._modes.spooled import Spooled
from trio_wsout._modes.tree import Tree
from trio_wsout._tasks.catch_up import Reader
from trio_wsout._tasks.following import Following
from trio_wsout._tasks.inbox import Inbox
from trio_wsout._tasks.journal import Journal
from trio_wsout._tasks.sender import Sender
from trio_wsout._tasks.session import Session
from trio_wsout._tasks.uncommitted import RUN, IntakeRuns
from trio_wsout.config.sections import Config, Mode, Server
from trio_wsout.stores.from_config import open_history_store
from trio_wsout.stores.log import SharedLog


def make_tree(config: Config, hooks: Hooks) -> Tree:
    """Return the tree of an output of this configuration; `Tree.run` brings it to life."""
    common = Common(config, hooks)
    if config.server is None:
        return _client(common)
    if config.mode is Mode.RELAY:
        return _relay(common, config.server)
    return _server(common, config.server)


def _client(common: Common) -> Tree:
    """Events go up the link, by way of the spool if there is one."""
    config, packer, ledger, queue = common.config, common.packer, common.ledger, common.queue
    inbox = common.inbox(common.received if common.hooks.receive else None)
    if config.spool is not None:
        spooled = Spooled(common, common, config.spool)
        link = DialledSide(common, spooled.subscription, inbox)
        return Tree(common, spooled.sender, link=link, spooled=spooled)
    link = DialledSide(common, common.fan_out.log.join_link(config.retry), inbox)
    as_they_are = queue if packer.alone and config.delivery.stamp is None else None
    return Tree(common, Sender(packer, queue, common.fan_out, ledger, queue=as_they_are), link=link)


def _server(common: Common, server: Server) -> Tree:
    """Events go to every peer; in mode server-input there are none, and what peers send goes to the application."""
    config = common.config
    receives = config.mode is Mode.SERVER_INPUT
    unpacker = Unpacker(config.payload, config.batch) if receives and config.batch is not None else None

    def inbox_for(peer: Session) -> Inbox:
        return common.inbox(common.received if receives and peer.peer.may_send else None, unpacker)

    journal, reader = _history(common)
    peers = AcceptedSide(common, server, inbox_for, reader)
    encode = _encode_nothing if receives else None
    sender = _sender_to(common, journal)
    return Tree(common, sender, peers=peers, history=journal, encode=encode)


def _relay(common: Common, server: Server) -> Tree:
    """Events of the application, of peers and of the link take turns; they go to all but the one that sent them."""
    config, link, spooled = common.config, None, None
    if config.spool is not None:
        spooled = Spooled(common, common.of_link(), config.spool)
    journal, reader = _history(common)
    shared = journal is not None and journal.following is not None
    exchange = Exchange(common, server, spooled, shared=shared)
    peers = AcceptedSide(common, server, exchange.inbox_of_peer, reader)
    if spooled is not None:
        inbox = exchange.inbox_of_link(spooled.subscription)
        link = DialledSide(spooled.up, spooled.subscription, inbox, wanted=True)
    elif config.url is not None:
        subscription = common.fan_out.log.join_link(config.retry)
        common.fan_out.on_settled = common.entry.notify
        link = DialledSide(common, subscription, exchange.inbox_of_link(subscription), wanted=True)
    sender = _sender_to(common, journal, directly=common.fan_out.log.link is None)
    return Tree(common, sender, link=link, peers=peers, exchange=exchange, history=journal, spooled=spooled)


def _history(common: Common) -> tuple[Journal | None, Reader | None]:
    """Return the journal of the history, and its reader; None if there is no history."""
    history, cursor = common.config.history, common.config.cursor
    if history is None:
        return None, None
    store = common.hooks.history or open_history_store(history, common.resolve, common.hooks.drawn)
    by_stamp = cursor is None or (cursor.value_field or cursor.value_pointer) is None
    # In a relay the sources take turns, so that one that floods it delays the others by one item only.
    uncommitted = IntakeRuns(common.queue, 1 if common.config.mode is Mode.RELAY else RUN)
    shared = store if isinstance(store, SharedLog) else None
    following = None if shared is None else Following(shared, common.from_other, by_stamp)
    journal = Journal(
        store,
        uncommitted,
        common.ledger,
        common.config.payload,
        max_age=history.max_age,
        following=following,
    )
    return journal, Reader(store, by_stamp, history.max_age, shared)


def _sender_to(common: Common, journal: Journal | None, *, directly: bool = True) -> Sender:
    """Return the sender to peers; `directly` is whether an event that comes alone needs no task between."""
    source = common.queue if journal is None else journal
    sender = Sender(common.packer, source, common.fan_out, common.ledger)
    if directly and journal is None:
        common.entry.offer_first = sender.take_alone
    return sender


def _encode_nothing(event: object, fate: object = None, *, own: bool = True) -> Never:
    """Raise RuntimeError, whatever the event: all ways to send begin here."""
    del event, fate, own
    raise RuntimeError("mode server-input takes no events, it only receives; use server-output or relay")
