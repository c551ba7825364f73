"""The options that several commands share, and those of `run`; the docstring of a field is the help of its option."""

from pathlib import Path
from typing import Annotated, Literal

from attrs import frozen
from cyclopts import Parameter
from cyclopts.validators import Number

ConfigFile = Annotated[
    str | None,
    Parameter(
        help="A YAML, TOML or JSON file (- is standard input), or the address ws://host/path; may be left out where "
        "--set gives the fields."
    ),
]
Address = Annotated[
    str,
    Parameter(
        help="The address ws://host/path, beside a file; of several, the link tries one after the other."
    ),
]


@Parameter(name="*")
@frozen(kw_only=True)
class ConfigOptions:
    """Options that set fields of the configuration."""

    headers: Annotated[list[str] | None, Parameter(name=["--header", "-H"])] = None
    """Header of the handshake, as in 'Name: value'; it is kept secret, as auth.headers are. May be repeated."""
    sets: Annotated[list[str] | None, Parameter(name="--set")] = None
    """Set one field, as in url=ws://localhost:80/ or reconnect.jitter=0.2: JSON, or text where it is no JSON. May be repeated."""
    contexts: Annotated[list[str] | None, Parameter(name="--context")] = None
    """Value for {{name}}, as in name=value. May be repeated."""


@Parameter(name="*")
@frozen(kw_only=True)
class RunOptions:
    """Options of `trio-wsout run`."""

    source: Annotated[Path | None, Parameter(name="--input")] = None
    """Read events from this file, not from standard input (-)."""
    from_undelivered: Path | None = None
    """Send the events of a file that --undelivered wrote, and no other input."""
    undelivered: Path | None = None
    """Append events that are not delivered to this file, one {"event", "reason"} a line."""
    with_peer: bool = False
    """Print what peers send as {"peer", "event"}, with its address and, if it has one, its identity."""
    wait_peers: Annotated[int | None, Parameter(validator=Number(gte=1))] = None
    """Begin to read when so many peers are there at the same time; more than one in server-output and relay only."""
    linger: str | None = None
    """Wait so long for answers after the last confirmation, as in 500ms or 2s; without it 100ms in mode client."""
    stay: bool = False
    """Go on when the input has ended, until a signal, as relay and server-input do."""
    processes: Annotated[int | None, Parameter(validator=Number(gte=1))] = None
    """Let so many processes serve at one port, to use all cores; those that send events need a history that they share."""
    stats: bool = False
    """End with one line of JSON statistics."""
    quiet: bool = False
    """No status line, no address, no link changes, no peers, no sum."""
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"])] = False
    """Report every attempt, and the time of each line."""
    log_format: Literal["text", "json"] = "text"
    """The format of standard error: lines of text, or of JSON with time, level and message."""
