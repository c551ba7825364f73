"""Deliver events over WebSocket from Trio programs.

Where things are: `config` is what the user writes, `output` the way in, `errors` what can go
wrong, `stores` what outlives a process, `testing` a peer for your tests, `cli` the command.
`_modes` has the task trees, `_tasks` their loops, `_wire` the sockets, `_core` every decision.
"""

from trio_wsout._core.batching import Document
from trio_wsout._core.ending import Cause, Ending
from trio_wsout._core.handshake import Admit, Deny, Handshake
from trio_wsout._core.link import State
from trio_wsout._core.link_change import LinkChange
from trio_wsout._core.received import Peer, Received
from trio_wsout._core.statistics import Statistics
from trio_wsout._tasks.receipt import Receipt
from trio_wsout._tasks.received_channel import ReceivedChannel
from trio_wsout.config import Config, load_config
from trio_wsout.errors import (
    ConfigError,
    ConnectError,
    CursorError,
    DeliveryError,
    EventError,
    HistoryError,
    OutputError,
    Problem,
    SpoolError,
    Undelivered,
)
from trio_wsout.output import Output, open_output

__all__ = [
    "Admit",
    "Cause",
    "Config",
    "ConfigError",
    "ConnectError",
    "CursorError",
    "DeliveryError",
    "Deny",
    "Document",
    "Ending",
    "EventError",
    "Handshake",
    "HistoryError",
    "LinkChange",
    "Output",
    "OutputError",
    "Peer",
    "Problem",
    "Receipt",
    "Received",
    "ReceivedChannel",
    "SpoolError",
    "State",
    "Statistics",
    "Undelivered",
    "load_config",
    "open_output",
]
