"""Deliver events over WebSocket from Trio programs.

`config` has the configuration, `output` the way in, `errors` all exceptions, `stores` cursors, histories and spools,
`testing` a peer for the tests of applications, and `cli` the command. `_modes` has the task trees, `_tasks` their
loops, `_wire` the connections, and `_core` every decision.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; `typing` itself takes a while to import

if TYPE_CHECKING:
    from trio_wsout._core.admission import Admit as Admit
    from trio_wsout._core.admission import Deny as Deny
    from trio_wsout._core.admission import Handshake as Handshake
    from trio_wsout._core.batching import Document as Document
    from trio_wsout._core.disconnection import Cause as Cause
    from trio_wsout._core.disconnection import Disconnection as Disconnection
    from trio_wsout._core.link import LinkChange as LinkChange
    from trio_wsout._core.link import State as State
    from trio_wsout._core.received import Gap as Gap
    from trio_wsout._core.received import Peer as Peer
    from trio_wsout._core.received import Received as Received
    from trio_wsout._core.statistics import HistoryStatistics as HistoryStatistics
    from trio_wsout._core.statistics import LinkStatistics as LinkStatistics
    from trio_wsout._core.statistics import ListenerStatistics as ListenerStatistics
    from trio_wsout._core.statistics import PeerStatistics as PeerStatistics
    from trio_wsout._core.statistics import SpoolStatistics as SpoolStatistics
    from trio_wsout._core.statistics import Statistics as Statistics
    from trio_wsout._tasks.ledger import Receipt as Receipt
    from trio_wsout._tasks.received_channel import ReceivedChannel as ReceivedChannel
    from trio_wsout.config import Config as Config
    from trio_wsout.config import load_config as load_config
    from trio_wsout.errors import ConfigError as ConfigError
    from trio_wsout.errors import ConnectError as ConnectError
    from trio_wsout.errors import CursorError as CursorError
    from trio_wsout.errors import DeliveryError as DeliveryError
    from trio_wsout.errors import EventError as EventError
    from trio_wsout.errors import HistoryError as HistoryError
    from trio_wsout.errors import OutputError as OutputError
    from trio_wsout.errors import Problem as Problem
    from trio_wsout.errors import SpoolError as SpoolError
    from trio_wsout.errors import Undelivered as Undelivered
    from trio_wsout.output import Output as Output
    from trio_wsout.output import open_output as open_output

_HOMES = {
    "_core.admission": "Admit Deny Handshake",
    "_core.batching": "Document",
    "_core.disconnection": "Cause Disconnection",
    "_core.link": "LinkChange State",
    "_core.received": "Gap Peer Received",
    "_core.statistics": "HistoryStatistics LinkStatistics ListenerStatistics PeerStatistics SpoolStatistics Statistics",
    "_tasks.ledger": "Receipt",
    "_tasks.received_channel": "ReceivedChannel",
    "config": "Config load_config",
    "errors": "ConfigError ConnectError CursorError DeliveryError EventError HistoryError "
    "OutputError Problem SpoolError Undelivered",
    "output": "Output open_output",
}
"""The module of each name, which is imported when the name is first used, so that an import takes little time."""
_HOME_OF = dict(
    sorted((name, f"{__name__}.{home}") for home, names in _HOMES.items() for name in names.split())
)
_PARTS = ("config", "errors", "output", "stores")
"""Modules that are attributes without being imported."""

if not TYPE_CHECKING:  # a type checker knows the names, and no others
    __all__ = list(_HOME_OF)

    def __getattr__(name: str) -> object:
        if name in _PARTS:
            return import_module(f"{__name__}.{name}")
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
