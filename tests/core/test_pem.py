"""What is wrong with the content of a certificate's or a key's file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.pem import certificate_fault, is_encrypted, key_fault


def pem(label: str, first: str = "") -> bytes:
    return f"a remark\n-----BEGIN {label}-----\n{first}\nTUlJ\n-----END {label}-----\n".encode()


CERTIFICATE, KEY, OLD_KEY = pem("CERTIFICATE"), pem("PRIVATE KEY"), pem("EC PRIVATE KEY")
SEALED = pem("ENCRYPTED PRIVATE KEY")
OLD_SEALED = pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n")
PARAMETERS = pem("EC PARAMETERS")
SSH = pem("OPENSSH PRIVATE KEY")
DER = b"\x30\x82\x01\x02\x30\x81\x00"
BUNDLES = [
    b"\x30\x82\x0a\x0b\x02\x01\x03\x30\x82",
    b"\x30\x80\x02\x01\x03\x30\x80",
    b"\x30\x10\x02\x01\x03\x30",
]


@pytest.mark.parametrize(
    "content", [CERTIFICATE, CERTIFICATE * 3, KEY + CERTIFICATE, pem("TRUSTED CERTIFICATE")]
)
def test_what_may_be_a_certificate(content: bytes) -> None:
    assert certificate_fault(content) is None


@pytest.mark.parametrize(
    "content", [KEY, OLD_KEY, SEALED, OLD_SEALED, PARAMETERS + OLD_KEY, CERTIFICATE + KEY, b"\xff" + KEY]
)
def test_what_may_be_a_key(content: bytes) -> None:
    assert key_fault(content) is None
    assert is_encrypted(content) == (content in (SEALED, OLD_SEALED))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \r\n\n", "is empty"),
        (DER, "is DER, and not PEM"),
        *[(bundle, "is PKCS #12") for bundle in BUNDLES],
        (b"0123", "is no PEM text"),
        (b"TUlJQ", "is no PEM text"),
        (b"\x00\xff", "is no PEM text"),
    ],
)
def test_what_is_no_pem(content: bytes, words: str) -> None:
    for fault in (certificate_fault(content), key_fault(content)):
        assert fault is not None
        assert fault.startswith(words)


def test_one_in_the_place_of_the_other() -> None:
    assert (
        certificate_fault(PARAMETERS + OLD_KEY) == "holds ec parameters, ec private key, and no certificate"
    )
    assert certificate_fault(pem("CERTIFICATE REQUEST")) == "holds certificate request, and no certificate"
    assert key_fault(CERTIFICATE * 2) == "holds certificate, and no private key"
    assert key_fault(pem("PUBLIC KEY")) == "holds public key, and no private key"
    assert "ssh-keygen" in str(key_fault(SSH))


def test_the_command_fits_what_it_is_to_convert() -> None:
    assert "openssl x509 -inform DER" in str(certificate_fault(DER))
    assert "openssl pkey -inform DER" in str(key_fault(DER))


@given(st.binary(max_size=60), st.sampled_from([b"", CERTIFICATE, KEY]))
def test_whatever_it_holds_a_fault_is_one_printable_line_without_it(content: bytes, behind: bytes) -> None:
    for fault in (certificate_fault(content + behind), key_fault(content + behind)):
        assert fault is None or (fault.isprintable() and len(fault) < 150)
