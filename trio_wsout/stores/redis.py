"""Connections to Valkey or Redis, by coredis, which no other module imports (extra ``redis``), and their troubles in words.

coredis's pool is not used: it loses a connection for good when a command on it is cancelled or broken off. A `Redis` is one
connection of coredis, which is dialled when a command needs it, and again when it broke. Each command has a timeout, so that
an engine that has stopped is noticed. A cancelled command leaves the connection whole: its answer is dropped when it comes.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from math import inf
from typing import cast

import anyio
import trio
from anyio.abc import ByteStream
from attrs import Factory, define, field, frozen
from coredis import exceptions
from coredis.connection import (
    BaseConnection,
    BaseConnectionParams,
    Location,
    TCPLocation,
    UnixDomainSocketLocation,
)

from trio_wsout._core.backoff import delay
from trio_wsout.config.redis_url import RedisUrl
from trio_wsout.config.sections import Reconnect

__all__ = ["Redis", "RefusedError", "Script", "Waiting"]

_log = logging.getLogger("trio_wsout")

_TIMEOUT = 5.0
"""Seconds for connecting, and for the answer to one command."""
_ours: ContextVar[bool] = ContextVar("_ours", default=False)
"""Whether this task belongs to a connection of this module."""
# coredis logs a traceback for each attempt that fails; the cause is told here, once and in words.
logging.getLogger("coredis").addFilter(lambda _: not _ours.get())
_BACKOFF = Reconnect(initial_backoff=0.1, max_backoff=5.0)

Reply = object
"""What coredis makes of an answer: bytes, whole numbers, None, and lists and dicts of these."""


class RefusedError(Exception):
    """The engine refuses, or is away for too long; the text has the cause and what to do."""

    def __init__(self, text: str, *, lasting: bool) -> None:
        """Make it; `lasting` is whether waiting does not help."""
        super().__init__(text)
        self.lasting = lasting


@frozen
class Script:
    """A script in Lua, which the engine runs whole or not at all."""

    source: str
    sha: str = field(
        default=Factory(lambda self: hashlib.sha1(self.source.encode()).hexdigest(), takes_self=True),  # noqa: S324
        init=False,
    )
    """The engine's name for it: a checksum."""


@define(eq=False)
class Waiting:
    """The commands that wait for an engine that is away or takes none of them now."""

    _name: str
    """The store's name in the log."""
    _causes: dict[object, str] = field(factory=dict[object, str], init=False)

    @property
    def cause(self) -> str | None:
        """The cause for which the oldest of them waits; None if none waits."""
        return next(iter(self._causes.values()), None)

    def begin(self, command: object, cause: str) -> None:
        """Note that a command waits; the log has each new cause once."""
        if cause not in self._causes.values():
            _log.warning("%s: waiting: %s", self._name, cause)
        self._causes[command] = cause

    def end(self, command: object) -> None:
        """Note that a command does not wait any more."""
        if self._causes.pop(command, None) is not None and not self._causes:
            _log.info("%s: goes on", self._name)


@define(eq=False)
class Redis:
    """One connection to the engine, for any number of tasks."""

    _url: Callable[[], RedisUrl]
    """Returns the address, with the credentials of this attempt; raises ValueError if these are not to be had."""
    _setting: str
    """The path of the configuration's field that names it."""
    _keys: str
    """The pattern of the keys that are used."""
    _waiting: Waiting
    _draw: Callable[[], float]
    process: bytes = field(default=b"", init=False)
    """The id of the server process behind the connection. Each start of an engine, and each failover, has another."""
    connections: int = field(default=0, init=False)
    """Connections that were made so far."""
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _started: trio.Event = field(factory=trio.Event, init=False)
    _closed: bool = field(default=False, init=False)
    _connection: BaseConnection | None = field(default=None, init=False)
    _moved: tuple[str, int] | None = field(default=None, init=False)
    """The node of a cluster that has the keys, if the one of the address has told so."""
    _one_dials: trio.Lock = field(factory=trio.Lock, init=False)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the connection until cancelled; commands wait for this to run."""
        async with trio.open_nursery() as nursery:
            try:
                self._nursery = nursery
                self._started.set()
                task_status.started()
                await trio.sleep_forever()
            finally:  # from now on the nursery may take no task any more
                self._nursery, self._started = None, trio.Event()

    def close(self) -> None:
        """Let no command wait any more: they raise trio.ClosedResourceError."""
        self._closed = True
        self._started.set()

    async def call(self, *command: str | bytes) -> Reply:
        """Return the answer to a command. If none comes it is sent again, after a pause; so it may be carried out twice.

        Raises:
            RefusedError: The engine refuses it, and waiting does not help.
        """
        return await self._persist(partial(_answer, command))

    async def run_script(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[str | bytes],
        *,
        patience: float = inf,
    ) -> Reply:
        """Return the answer of a script, as `call` does.

        Args:
            script: The script.
            keys: Its keys.
            arguments: Its arguments, from ``ARGV[2]``; the first one is the server process that the command goes to.
            patience: Seconds after which it is not sent again.

        Raises:
            RefusedError: The engine refuses it, and waiting does not help, or nobody is patient any more.
        """
        return await self._persist(partial(self._answer_of_script, script, keys, arguments), patience)

    async def run_script_alone(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[str | bytes],
        *,
        patience: float,
    ) -> Reply:
        """Return the answer of a script, with a connection that is closed behind it; nothing else needs `run` for this."""
        reply: Reply = None
        refused: RefusedError | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(self.run)
            try:
                reply = await self.run_script(script, keys, arguments, patience=patience)
            except RefusedError as error:
                refused = error
            nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
        return reply

    async def _persist(
        self, ask: Callable[[BaseConnection], Awaitable[Reply]], patience: float = inf
    ) -> Reply:
        failures, me, until = 0, object(), trio.current_time() + patience
        await self._started.wait()
        try:
            while True:
                connection = None
                try:
                    connection = await self._connected()
                    return await ask(connection)
                except (exceptions.RedisError, OSError, trio.TooSlowError, ValueError) as error:
                    # While it connects, coredis turns a cancellation into an error.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    cause = self._cause_to_wait(error, connection)
                except trio.ClosedResourceError:
                    # If `run` was cancelled, we may have been, too, and that is what the caller is to see.
                    await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120
                    raise
                failures += 1
                pause = delay(failures, self._draw(), _BACKOFF)
                if trio.current_time() + pause > until:
                    raise RefusedError(cause, lasting=False)
                self._waiting.begin(me, cause)
                await trio.sleep(pause)
        finally:
            self._waiting.end(me)

    async def _answer_of_script(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[str | bytes],
        connection: BaseConnection,
    ) -> Reply:
        behind = (str(len(keys)), *keys, self.process, *arguments)
        try:
            return await _answer(("EVALSHA", script.sha, *behind), connection)
        except exceptions.NoScriptError:
            return await _answer(("EVAL", script.source, *behind), connection)

    # -- connecting ----------------------------------------------------------------------------------------

    async def _connected(self) -> BaseConnection:
        """Return the connection, after dialling if there is none that can be used."""
        async with self._one_dials:
            if self._connection is None or not self._connection.usable:
                self._connection = await self._dial()
            return self._connection

    async def _dial(self) -> BaseConnection:
        self._check_runs()
        url = self._url()
        location, stream = await _open_stream(url, self._moved)
        try:
            nursery = self._check_runs()
        except trio.ClosedResourceError:
            await anyio.aclose_forcefully(stream)
            raise
        connection = _Connection(location, stream, url)
        outside = _ours.set(True)
        try:
            await nursery.start(connection.run, name="redis connection")
        finally:
            _ours.reset(outside)
        try:
            told = await _answer(("INFO", "server"), connection)
        except BaseException:
            connection.invalidate()
            raise
        lines = told.splitlines() if isinstance(told, bytes) else []
        self.process = next((line for line in lines if line.startswith(b"run_id:")), b"")
        self.connections += 1
        return connection

    def _check_runs(self) -> trio.Nursery:
        if self._closed or self._nursery is None:
            raise trio.ClosedResourceError("the store is closed")
        return self._nursery

    def _cause_to_wait(self, error: Exception, connection: BaseConnection | None) -> str:
        """Return why a command has to be sent again, in words; raise RefusedError if waiting does not help."""
        self._moved = (error.host, error.port) if isinstance(error, exceptions.MovedError) else None
        if connection is not None and isinstance(error, _CONNECT_ANEW):
            connection.invalidate()
        cause, advice, lasting = _judged(error)
        text = f"{cause}; {advice.format(setting=self._setting, keys=self._keys)}"
        if lasting and not (
            isinstance(error, ValueError) and self.connections
        ):  # a secret may be there again soon
            raise RefusedError(text, lasting=True) from error
        return text


async def _answer(command: Sequence[str | bytes], connection: BaseConnection) -> Reply:
    name, *arguments = command
    return await connection.create_request(cast("bytes", name), *arguments)


class _Connection(BaseConnection):
    """A connection of coredis on a stream that is open already: coredis leaves much behind where it can't connect."""

    def __init__(self, location: Location, stream: ByteStream, url: RedisUrl) -> None:
        options = BaseConnectionParams(
            stream_timeout=_TIMEOUT, username=url.username, password=url.password, db=url.db
        )
        super().__init__(location, **options)
        self._opened = stream

    async def _connect(self) -> ByteStream:
        return self._opened  # noqa: ASYNC910 - cancelled here, nobody would close it

    def describe(self) -> str:
        return repr(self.location)


async def _open_stream(url: RedisUrl, moved: tuple[str, int] | None) -> tuple[Location, ByteStream]:
    location: Location
    with trio.fail_after(_TIMEOUT):
        if url.socket:
            location = UnixDomainSocketLocation(url.socket)
            stream: ByteStream = await anyio.connect_unix(url.socket)
        else:
            host, port = moved or (url.host, url.port)
            location = TCPLocation(host or url.host, port)
            stream = await _open_tcp(location, url)
    return location, stream


async def _open_tcp(location: TCPLocation, url: RedisUrl) -> ByteStream:
    if not url.tls:
        return await anyio.connect_tcp(location.host, location.port)
    try:
        context = ssl.create_default_context(cafile=url.ca_file)
        if url.cert_file is not None:
            context.load_cert_chain(url.cert_file, url.key_file)
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"ca-file, cert-file or key-file can't be used: {reason}") from error
    return await anyio.connect_tcp(
        location.host, location.port, tls=True, ssl_context=context, tls_standard_compatible=False
    )


# -- troubles, in words --------------------------------------------------------------------------------------

_CONNECT_ANEW = (
    exceptions.ConnectionError,
    TimeoutError,
    exceptions.MovedError,
    exceptions.ReadOnlyError,
    exceptions.UnblockedError,
)
"""After these, the connection leads to nobody, or to the wrong server."""
_USER = "look at user and password in {setting}, and at the engine's ACL"
_GOES_ON = "it is tried again; look whether the engine runs and can be reached"
_BY_TYPE: tuple[tuple[type[Exception], str, str, bool], ...] = (
    (exceptions.AuthenticationFailureError, "the engine refuses user or password", _USER, True),
    (exceptions.AuthenticationRequiredError, "the engine wants a password", _USER, True),
    (
        exceptions.AuthorizationError,
        "the engine's ACL forbids it",
        "allow its user the keys {keys} and the commands +@read +@write +@scripting +@connection +info",
        True,
    ),
    (
        exceptions.WrongTypeError,
        "a key of this name holds something else",
        "remove it (one of the keys {keys}), or name another stream in {setting}",
        True,
    ),
    (exceptions.UnknownCommandError, "the engine is too old", "use Valkey, or Redis 6.2 or later", True),
    (
        exceptions.ReadOnlyError,
        "the engine is a replica, which takes no writes",
        "name the primary in {setting}",
        False,
    ),
    (exceptions.BusyLoadingError, "the engine loads its data", "it is tried again", False),
    (exceptions.MovedError, "another node of the cluster has the keys", "it is asked", False),
    (exceptions.ClusterDownError, "the cluster is down", _GOES_ON, False),
    (
        exceptions.AskError,
        "the keys are on their way to another node of the cluster",
        "it is tried again",
        False,
    ),
    (
        exceptions.TryAgainError,
        "the keys are on their way to another node of the cluster",
        "it is tried again",
        False,
    ),
    (exceptions.UnblockedError, "the engine has become a replica", "name the primary in {setting}", False),
    (
        ssl.SSLCertVerificationError,
        "its certificate is not trusted",
        "set ca-file in {setting} to the certificates to trust",
        True,
    ),
)
_BY_CODE = {
    "OOM": (
        "the engine is out of memory, and evicts nothing",
        "give it more memory, or set history.max-bytes lower",
    ),
    "MISCONF": ("the engine can't save its data, and so takes no writes", "look at its log and its disk"),
    "NOREPLICAS": ("the engine has too few replicas, and so takes no writes", "look at its replicas"),
    "MASTERDOWN": ("the engine is a replica that has lost its primary", "name the primary in {setting}"),
    "BUSY": ("the engine is busy with a script", "it is tried again"),
}
"""Codes of errors that coredis has no class for, and that end by themselves or by somebody's hand."""


def _judged(error: BaseException) -> tuple[str, str, bool]:
    """Return the cause of an error, advice, and whether waiting does not help."""
    reasons = [error]
    while (deeper := reasons[-1].__cause__) is not None:
        reasons.append(deeper)
    for reason in reasons:
        for kind, cause, advice, lasting in _BY_TYPE:
            if isinstance(reason, kind):
                return cause, advice, lasting
    deepest = reasons[-1]
    if isinstance(error, OSError | exceptions.ConnectionError | trio.TooSlowError):
        text = (deepest.strerror if isinstance(deepest, OSError) else None) or "the connection broke"
        if isinstance(deepest, TimeoutError | trio.TooSlowError):
            text = "no answer in time"
        return f"the engine can't be reached: {text}", _GOES_ON, False
    return _reply_judged(str(error)) if isinstance(error, exceptions.ResponseError) else _refused(str(error))


def _reply_judged(text: str) -> tuple[str, str, bool]:
    """Return the same of an error that the engine has replied."""
    code = text.partition(" ")[0]
    if code in _BY_CODE:
        return (*_BY_CODE[code], False)
    if text.startswith("ACL failure"):  # within a script
        return _judged(exceptions.AuthorizationError())
    return _refused(f"the engine says: {text}")


def _refused(cause: str) -> tuple[str, str, bool]:
    return cause, "look at {setting}", True
