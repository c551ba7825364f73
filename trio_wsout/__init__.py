"""Deliver events over WebSocket from Trio programs.

Where things are: `config` is what the user writes, `output` the way in, `errors` what can go
wrong, `stores` what outlives a process, `testing` a peer for your tests, `cli` the command.
`_modes` has the task trees, `_tasks` their loops, `_wire` the sockets, `_core` every decision.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; `typing` itself takes a while to import

if TYPE_CHECKING:
    from trio_wsout._core.admission import Admit, Deny, Handshake
    from trio_wsout._core.batching import Document
    from trio_wsout._core.disconnection import Cause, Disconnection
    from trio_wsout._core.link import LinkChange, State
    from trio_wsout._core.received import Peer, Received
    from trio_wsout._core.statistics import (
        HistoryStatistics,
        LinkStatistics,
        ListenerStatistics,
        SpoolStatistics,
        Statistics,
    )
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
    "Disconnection",
    "Document",
    "EventError",
    "Handshake",
    "HistoryError",
    "HistoryStatistics",
    "LinkChange",
    "LinkStatistics",
    "ListenerStatistics",
    "Output",
    "OutputError",
    "Peer",
    "Problem",
    "Receipt",
    "Received",
    "ReceivedChannel",
    "SpoolError",
    "SpoolStatistics",
    "State",
    "Statistics",
    "Undelivered",
    "load_config",
    "open_output",
]

_HOMES = {
    "trio_wsout._core.admission": ("Admit", "Deny", "Handshake"),
    "trio_wsout._core.batching": ("Document",),
    "trio_wsout._core.disconnection": ("Cause", "Disconnection"),
    "trio_wsout._core.link": ("LinkChange", "State"),
    "trio_wsout._core.received": ("Peer", "Received"),
    "trio_wsout._core.statistics": (
        "HistoryStatistics",
        "LinkStatistics",
        "ListenerStatistics",
        "SpoolStatistics",
        "Statistics",
    ),
    "trio_wsout._tasks.receipt": ("Receipt",),
    "trio_wsout._tasks.received_channel": ("ReceivedChannel",),
    "trio_wsout.config": ("Config", "load_config"),
    "trio_wsout.errors": (
        "ConfigError",
        "ConnectError",
        "CursorError",
        "DeliveryError",
        "EventError",
        "HistoryError",
        "OutputError",
        "Problem",
        "SpoolError",
        "Undelivered",
    ),
    "trio_wsout.output": ("Output", "open_output"),
}
"""Where each name is at home, and is fetched when it is first asked for: whoever needs a part waits for no other."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_PARTS = ("config", "errors", "output", "stores")
"""Modules that are there without being imported by name."""

if not TYPE_CHECKING:  # a type checker knows the names, and no others

    def __getattr__(name: str) -> object:
        if name in _PARTS:
            return import_module(f"{__name__}.{name}")
        if name not in _HOME_OF:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
