"""The listener's TLS context: renewed when its files change, and when that fails, tried again."""

from __future__ import annotations

import errno
import os
import ssl
from typing import TYPE_CHECKING

import trio
import trustme
from trio_wsout._wire import tls
from trio_wsout.config import ServerTls

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from trio.testing import MockClock


async def test_a_renewal_that_fails_is_tried_again_and_told_once(
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = trustme.CA().issue_cert("a.test")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    context = tls.ServerContext(ServerTls(cert=str(cert), key=str(key)))
    first = await context.get()

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    cert.write_bytes(cert.read_bytes() + b"\n")
    monkeypatch.setattr(ssl, "SSLContext", fail)
    for _ in range(5):
        await trio.sleep(1)
        assert await context.get() is first
    assert caplog.text.count("the old one stays: Too many open files") == 1
    monkeypatch.undo()
    assert await context.get() is first, "it looks once a second"
    await trio.sleep(1)
    renewed = await context.get()
    assert renewed is not first
    await trio.sleep(1)
    assert await context.get() is renewed
