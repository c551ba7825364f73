"""What the user writes: the sections of a configuration, loading, dumping and its JSON Schema."""

from trio_wsout.config.dumping import dump_config
from trio_wsout.config.json_schema import json_schema
from trio_wsout.config.loading import load_config
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import (
    Auth,
    Basic,
    Batch,
    BatchMode,
    Config,
    Connect,
    ConnectMode,
    Cursor,
    Delivery,
    DeliveryLevel,
    Heartbeat,
    HeartbeatAction,
    History,
    Mode,
    Payload,
    Reconnect,
    Retry,
    Server,
    ServerTls,
    SlowPeer,
    Spool,
    Tls,
)

__all__ = [
    "Auth",
    "Basic",
    "Batch",
    "BatchMode",
    "Config",
    "Connect",
    "ConnectMode",
    "Cursor",
    "Delivery",
    "DeliveryLevel",
    "Heartbeat",
    "HeartbeatAction",
    "History",
    "Mode",
    "Payload",
    "Reconnect",
    "Retry",
    "Secret",
    "Server",
    "ServerTls",
    "SlowPeer",
    "Spool",
    "Tls",
    "dump_config",
    "json_schema",
    "load_config",
]
