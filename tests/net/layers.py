"""What a listener is reached through: plain TCP, or TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import trustme

__all__ = ["PLAIN", "Layer", "secured", "write_certificate"]


@frozen(kw_only=True)
class Layer:
    """Plain TCP, or TLS and what both sides need for it."""

    context: ssl.SSLContext | None = None
    """The client's."""
    fields: Mapping[str, Any] = field(factory=dict[str, Any])
    """Of the section `server`."""


PLAIN = Layer()


def write_certificate(ca: trustme.CA, folder: Path, *names: str) -> dict[str, str]:
    """Write a certificate for these names, and its key, over those that are there; gives the fields of `server.tls`."""
    made = ca.issue_cert(*names)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return {"cert": str(cert), "key": str(key)}


def secured(ca: trustme.CA, folder: Path) -> Layer:
    """TLS for this machine."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return Layer(context=context, fields={"tls": write_certificate(ca, folder, "localhost", "127.0.0.1")})
