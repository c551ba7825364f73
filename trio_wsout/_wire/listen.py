"""Listening sockets for `server.bind`, and the addresses of sockets (SPEC 10)."""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from trio_wsout.config.addresses import BindAddress, UnixAddress, parse_address, parse_bind
from trio_wsout.errors import ConfigError, Problem

_TRIES = 5
"""Attempts to find a port that is free at every address."""
_ACCESS = "choose a port of 1024 or more, or a path where this user may write"
_PATH = "choose a path whose directory is there"
_ADVICE: dict[int | None, str] = {
    errno.EADDRINUSE: "choose another address, or end the program that uses it",
    errno.EADDRNOTAVAIL: "choose an address of this machine",
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: _ACCESS,
    errno.ENOENT: _PATH,
    errno.ENOTDIR: _PATH,
    None: "choose a shorter path",  # an error of Python, not of the system: a path has about 100 bytes
    errno.EMFILE: "make the limit of open files higher",
    errno.ENFILE: "make the limit of open files higher",
}
_BACKLOG = 0xFFFF
"""Connections that may wait for a listener, as trio has it; systems lower it to what they allow."""
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors for an address, or a kind of address, that this machine does not have."""


async def open_listeners(bind: str, *, reuse_port: bool = False) -> list[trio.SocketListener]:
    """Listen at ``host:port``, ``[v6]:port``, ``:port`` or ``unix:PATH``.

    Port 0 stands for a free port, the same at every address of the host. With `reuse_port`, other processes of this user
    that ask for it, too, may listen at the same address. Raise ConfigError if the address can't be used; the problem has
    the reason.
    """
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        reason = "this system has no SO_REUSEPORT; leave it out, and let one process listen"
        raise ConfigError([Problem(path="server.reuse-port", reason=reason)])
    address = parse_bind(bind)
    try:
        if isinstance(address, UnixAddress):
            return [await _open_unix(address.path)]
        return await _open_tcp(address, reuse_port=reuse_port)
    except OSError as error:
        reason = f"{bind}: {error.strerror or error}; {_advice(error)}"
        raise ConfigError([Problem(path="server.bind", reason=reason)]) from None


def _advice(error: OSError) -> str:
    """Return advice on an error of the system."""
    if isinstance(error, socket.gaierror):  # its numbers are not those of `errno`
        return "choose a name that can be resolved, or an address of this machine"
    return _ADVICE.get(error.errno, "choose another address")


async def _open_tcp(address: BindAddress, *, reuse_port: bool) -> list[trio.SocketListener]:
    if address.port:
        return await _open_each(address.host, address.port, reuse_port=reuse_port)
    for _ in range(_TRIES):
        listeners = await _open_each(address.host, 0, reuse_port=reuse_port)
        if len(listeners) == 1:
            return listeners
        port = listeners[0].socket.getsockname()[1]
        for listener in listeners:
            await listener.aclose()
        try:
            return await _open_each(address.host, port, reuse_port=reuse_port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free at every address")


async def _open_each(host: str | None, port: int, *, reuse_port: bool) -> list[trio.SocketListener]:
    """Listen at each address of a host that this machine has: ``localhost`` may mean ``::1`` where IPv6 is off."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[trio.SocketListener] = []
    missing: OSError | None = None
    try:
        for address in dict.fromkeys(str(each[4][0]) for each in found):
            try:
                listeners += (
                    [_share(address, port)]
                    if reuse_port
                    else await trio.open_tcp_listeners(port, host=address)
                )
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    if missing is not None and not listeners:
        raise missing
    return listeners


def _share(address: str, port: int) -> trio.SocketListener:
    """Listen at an address and port at which other processes may listen, too; trio has no option for that."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        made = socket.create_server((address, port), family=family, backlog=_BACKLOG, reuse_port=True)
    except OSError as error:  # Python adds the address to its text
        raise OSError(error.errno, os.strerror(error.errno or 0)) from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(made))


async def _open_unix(path: str) -> trio.SocketListener:
    """Listen at a path; a socket file that no process listens at is replaced."""
    if await _is_abandoned(path):
        remove_socket(path)
    made = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await made.bind(path)
        made.listen(socket.SOMAXCONN)
    except BaseException:
        made.close()
        raise
    return trio.SocketListener(made)


async def _is_abandoned(path: str) -> bool:
    """Return whether a socket file is at the path and no process listens at it."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        stream = await trio.open_unix_socket(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    await trio.aclose_forcefully(stream)
    return False


def remove_socket(path: str, inode: tuple[int, int] | None = None) -> None:
    """Remove a socket file if it is there; with `inode`, only if it is that file."""
    if inode is None or inode == inode_of(path):
        with suppress(OSError):
            Path(path).unlink()


def inode_of(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file at a path; None if there is none.

    While a socket is open, no other file gets its inode.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def listening_at(listeners: Sequence[object]) -> tuple[str, ...]:
    """Return the addresses of listeners, each as ``host:port``, ``[v6]:port`` or ``unix:PATH``."""
    return tuple(
        _text(each.socket.getsockname()) for each in listeners if isinstance(each, trio.SocketListener)
    )


def address_of(stream: object) -> str:
    """Return the remote end of an accepted stream: ``host:port``, ``unix``, or ``memory`` if it is no socket."""
    if not isinstance(stream, trio.SocketStream):
        return "memory"
    try:
        return _text(stream.socket.getpeername(), nameless="unix")
    except OSError:
        return "gone"


def _text(name: object, nameless: str = "unix:") -> str:
    if isinstance(name, tuple):
        host, port = str(name[0]), name[1]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - the type of a socket's name is unknown
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{name}" if isinstance(name, str) and name else nameless


def is_local(address: str) -> bool:
    """Return whether only this machine can connect to an address, as `listening_at` returns it."""
    parsed = parse_bind(address)
    if isinstance(parsed, UnixAddress):
        return True
    found = None if parsed.host is None else parse_address(parsed.host)
    return found is not None and found.is_loopback
