"""Faults of the files of certificates and keys, in words that OpenSSL does not have (RFC 7468)."""

import re

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_CERTIFICATES = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"})
_KEYS = frozenset(
    {b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"DSA PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"}
)
_OLD_ENCRYPTION = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----\s+Proc-Type: *4,ENCRYPTED")
_SEQUENCE = 0x30
"""First byte of DER (X.690)."""
_BUNDLE = re.compile(rb"\x30(?:[\x00-\x7f]|[\x80-\x84].{0,4})\x02\x01\x03\x30", re.DOTALL)
"""The beginning of PKCS #12: a sequence that begins with the number 3, and a sequence (RFC 7292 section 4)."""


def certificate_fault(content: bytes) -> str | None:
    """Return why this can't be PEM text with a certificate; None if it may be."""
    labels = _labels(content)
    if not _CERTIFICATES.isdisjoint(labels):
        return None
    return _not_pem(content, "x509") or f"holds {_listed(labels)}, and no certificate"


def key_fault(content: bytes) -> str | None:
    """Return why this can't be PEM text with a private key; None if it may be."""
    labels = _labels(content)
    if not _KEYS.isdisjoint(labels):
        return None
    if b"OPENSSH PRIVATE KEY" in labels:
        return "is a key in the form of OpenSSH; convert a copy of it by ssh-keygen -p -m PKCS8 -f COPY"
    return _not_pem(content, "pkey") or f"holds {_listed(labels)}, and no private key"


def is_encrypted(content: bytes) -> bool:
    """Return whether the private key in PEM text needs a password."""
    return b"ENCRYPTED PRIVATE KEY" in _labels(content) or _OLD_ENCRYPTION.search(content) is not None


def _labels(content: bytes) -> list[bytes]:
    return [found[1] for found in _BEGIN.finditer(content)]


def _listed(labels: list[bytes]) -> str:
    return ", ".join(dict.fromkeys(label.decode("ascii").lower() for label in labels))


def _not_pem(content: bytes, command: str) -> str | None:
    """Return why this is no PEM text at all, None if it is some; the `command` of openssl converts it."""
    if not content.strip():
        return "is empty"
    if _labels(content):
        return None
    if _BUNDLE.match(content):
        return "is PKCS #12; convert it to PEM by openssl pkcs12 -in FILE -out NEW.pem"
    if content[0] == _SEQUENCE and not content.isascii():
        return f"is DER, and not PEM; convert it by openssl {command} -inform DER -in FILE -out NEW.pem"
    return "is no PEM text: there is no line -----BEGIN …-----"
