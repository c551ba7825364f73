"""Certificates, keys and passwords: each fault is told as what it is, for a link and for a listener."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from attrs import frozen
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ed25519
from trio_wsout import open_output
from trio_wsout._wire.tls import ServerContext, client_context
from trio_wsout.config import Secret, ServerTls, Tls
from trio_wsout.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct horse"
PKCS8, OPENSSL = ser.PrivateFormat.PKCS8, ser.PrivateFormat.TraditionalOpenSSL


@frozen
class Files:
    """A folder with certificates and keys, good and bad, made once."""

    folder: Path

    def write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text("latin-1")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    ca = trustme.CA()
    ours, other = ca.issue_cert("me@example.org"), ca.issue_cert("other@example.org")
    cert, pem = ours.cert_chain_pems[0].bytes(), ours.private_key_pem.bytes()
    key: Any = ser.load_pem_private_key(pem, None)
    sealed, open_ = ser.BestAvailableEncryption(PASSWORD.encode()), ser.NoEncryption()
    made = Files(tmp_path_factory.mktemp("tls"))
    made.write("cert", cert)
    made.write("cert.der", ssl.PEM_cert_to_DER_cert(cert.decode()))
    made.write("cert.damaged", cert[:200] + b"AAAAA" + cert[205:])
    made.write("chain.damaged", cert + cert[:200] + b"AAAAA" + cert[205:])
    made.write("key", pem)
    made.write("key.8", key.private_bytes(ser.Encoding.PEM, PKCS8, open_))
    made.write("key.8.sealed", key.private_bytes(ser.Encoding.PEM, PKCS8, sealed))
    made.write("key.1.sealed", key.private_bytes(ser.Encoding.PEM, OPENSSL, sealed))
    made.write("key.der", key.private_bytes(ser.Encoding.DER, PKCS8, open_))
    made.write("key.damaged", pem[:80] + b"AAAA" + pem[90:])
    made.write("other", other.private_key_pem.bytes())
    another = ed25519.Ed25519PrivateKey.generate().private_bytes(ser.Encoding.PEM, PKCS8, open_)
    made.write("other.kind", another)
    made.write("both", cert + pem)
    made.write("empty", b"")
    (made.folder / "directory").mkdir()
    return made


FAULTS = [
    ("cert", "key.8.sealed", "key", "is encrypted, and {password} is not there"),
    ("cert", "key.1.sealed", "key", "is encrypted, and {password} is not there"),
    ("cert", "key.der", "key", "is DER, and not PEM"),
    ("cert", "empty", "key", "is empty"),
    ("cert", "missing", "key", "can't be read: No such file or directory"),
    ("cert", "directory", "key", "can't be read: Is a directory"),
    ("cert", "cert", "key", "holds certificate, and no private key"),
    ("cert", "key.damaged", "key", "is damaged"),
    ("cert", "other", "key", "does not fit the certificate in {cert}"),
    ("cert", "other.kind", "key", "does not fit the certificate in {cert}"),
    ("key", "key", "cert", "and no certificate"),
    ("cert.der", "key", "cert", "is DER, and not PEM"),
    ("cert.damaged", "key", "cert", "is damaged"),
    ("chain.damaged", "key", "cert", "is damaged"),
    ("empty", "key", "cert", "is empty"),
    ("missing", "key", "cert", "can't be read: No such file or directory"),
]
CLIENT = {"cert": "tls.client-certificate", "key": "tls.client-key", "password": "tls.client-key-password"}
SERVER = {"cert": "server.tls.cert", "key": "server.tls.key", "password": "server.tls.key-password"}


def of_client(cert: str, key: str, password: str | None = None) -> list[tuple[str, str]]:
    secret = None if password is None else Secret(password)
    return problems_of(
        lambda: client_context(
            Tls(client_certificate=cert, client_key=Secret(key), client_key_password=secret), secret
        )
    )


def of_server(cert: str, key: str, password: str | None = None) -> list[tuple[str, str]]:
    secret = None if password is None else Secret(password)
    return problems_of(lambda: ServerContext(ServerTls(cert=cert, key=key, key_password=secret)))


def problems_of(make: Any) -> list[tuple[str, str]]:
    try:
        make()
    except ConfigError as error:
        return [(each.path, each.reason) for each in error.problems]
    return []


SIDES = [(of_client, CLIENT), (of_server, SERVER)]


@pytest.mark.parametrize(("problems", "fields"), SIDES)
@pytest.mark.parametrize(("cert", "key", "at_fault", "words"), FAULTS)
def test_each_fault_is_told_with_its_field_and_file(
    problems: Any, fields: dict[str, str], cert: str, key: str, at_fault: str, words: str, files: Files
) -> None:
    ((path, reason),) = problems(files.path(cert), files.path(key))
    assert path == fields[at_fault]
    told = (
        KEY_FOR
        if path == "tls.client-key" and key == "missing"
        else files.path(cert if at_fault == "cert" else key)
    )
    assert reason.startswith(f"{told} ")
    assert words.format(**fields) in reason


@pytest.mark.parametrize(("problems", "fields"), SIDES)
def test_both_are_told_where_both_are_wrong(problems: Any, fields: dict[str, str], files: Files) -> None:
    found = problems(files.path("key"), files.path("cert"))
    assert [path for path, _ in found] == [fields["cert"], fields["key"]]


@pytest.mark.parametrize(("problems", "fields"), SIDES)
@pytest.mark.parametrize("key", ["key.8.sealed", "key.1.sealed"])
def test_a_password_opens_a_key_and_a_wrong_one_is_told(
    problems: Any, fields: dict[str, str], key: str, files: Files
) -> None:
    cert, path = files.path("cert"), files.path(key)
    assert problems(cert, path, PASSWORD) == []
    for wrong in ("wrong", "", PASSWORD * 200):
        ((field, reason),) = problems(cert, path, wrong)
        assert field == fields["password"]
        assert "is not the password of" in reason or "longer than OpenSSL takes" in reason
        assert not wrong or wrong not in reason
    assert problems(cert, files.path("key"), "of no use") == []


@pytest.mark.parametrize("key", ["key", "key.8", "both"])
def test_what_is_right_is_taken_as_a_path_and_as_text(key: str, files: Files) -> None:
    assert of_client(files.path("cert"), files.path(key)) == []
    assert of_client(files.text("cert"), files.text(key)) == []
    assert of_client(f"bücher\n{files.text('both')}", files.path(key)) == []
    assert of_server(files.path("both"), files.path(key)) == []


KEY_FOR = "the key for tls.client-certificate"


def test_faults_of_pem_text_show_nothing_of_it(files: Files) -> None:
    problem = of_client(files.text("cert"), files.text("key.8.sealed"))
    assert problem == [
        ("tls.client-key", f"{KEY_FOR} is encrypted, and tls.client-key-password is not there")
    ]
    problem = of_client(files.text("cert"), files.text("other"))
    assert problem == [
        ("tls.client-key", f"{KEY_FOR} does not fit the certificate in tls.client-certificate")
    ]
    problem = of_client(files.text("cert.damaged"), files.text("key"))
    assert problem == [
        ("tls.client-certificate", "the PEM text is damaged: OpenSSL can't read a certificate in it")
    ]


def test_a_key_that_lost_its_first_line_is_not_shown(files: Files) -> None:
    cert, text = files.path("cert"), files.text("key").split("\n")[1]
    for lost, reason in (
        (text, "No such file or directory"),
        (text * 99, "File name too long"),
        ("a\0b", "no file has such a name"),
        (files.path("missing"), "No such file or directory"),
    ):
        assert of_client(cert, lost) == [("tls.client-key", f"{KEY_FOR} can't be read: {reason}")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key", "and no certificate"),
        ("cert.der", "is DER"),
        ("cert.damaged", "is damaged"),
        ("empty", "is empty"),
        ("missing", "No such file"),
    ],
)
def test_what_is_no_ca_certificate_is_told(name: str, words: str, files: Files) -> None:
    ((path, reason),) = problems_of(lambda: client_context(Tls(ca_certificate=files.path(name))))
    assert path == "tls.ca-certificate"
    assert reason.startswith(files.path(name))
    assert words in reason


def test_a_ca_certificate_as_text(files: Files) -> None:
    assert problems_of(lambda: client_context(Tls(ca_certificate=files.text("cert")))) == []
    ((_, reason),) = problems_of(lambda: client_context(Tls(ca_certificate=files.text("cert.damaged"))))
    assert reason.startswith("the PEM text is damaged")


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("strict", [ssl.VERIFY_X509_STRICT, ssl.VerifyFlags(0)])
def test_every_python_trusts_alike(
    trust: bool, strict: ssl.VerifyFlags, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python 3.13 does by itself makes no difference, nor does what older ones don't."""
    default = ssl.create_default_context

    def of_some_version() -> ssl.SSLContext:
        context = default()
        context.verify_flags |= strict
        return context

    monkeypatch.setattr(ssl, "create_default_context", of_some_version)
    monkeypatch.setattr("trio_wsout._wire.tls.find_spec", lambda _: None)
    context = client_context(Tls(ca_certificate=files.path("cert") if trust else None))
    flags = context.verify_flags
    assert flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert not flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname


# -- passwords that are templated -------------------------------------------------------------------------


def document(side: str, files: Files, password: str) -> dict[str, Any]:
    if side == "client":
        tls = {
            "client-certificate": files.path("cert"),
            "client-key": files.path("key.8.sealed"),
            "client-key-password": password,
        }
        return {"url": "wss://h.test/", "tls": tls}
    pair = {"cert": files.path("cert"), "key": files.path("key.8.sealed"), "key-password": password}
    return {"mode": "server-output", "server": {"bind": "127.0.0.1:0", "tls": pair}}


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_password_comes_from_the_environment_or_a_resolver(
    side: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_PASSWORD", PASSWORD)
    async with open_output(document(side, files, "${env|KEY_PASSWORD}")):
        pass
    async with open_output(document(side, files, "${secret|x}"), secrets=lambda _: PASSWORD):
        pass


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("${env|NOT_THERE}", "${env|NOT_THERE} has no value"),
        ("${secret|x}", "is not the password of"),
        ("s3cret", "is not the password of"),
    ],
)
async def test_a_password_that_can_not_be_had_is_told_as_the_output_opens(
    side: str, password: str, words: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ConfigError) as caught:
        async with open_output(document(side, files, password), secrets=lambda _: "s3cret"):
            pytest.fail("it must not open")
    (problem,) = caught.value.problems
    assert problem.path == (CLIENT if side == "client" else SERVER)["password"]
    assert words in problem.reason
    assert "s3cret" not in str(problem)


async def test_a_renewed_key_is_opened_by_a_renewed_password(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    password = PASSWORD
    key = tmp_path / "key"
    key.write_text(files.text("key.8.sealed"))
    section = ServerTls(cert=files.path("cert"), key=str(key), key_password=Secret("${secret|x}"))
    context = ServerContext(section, lambda _source, _name: password)
    first = await context.get()
    key.write_text(files.text("key.1.sealed") + "\n")
    password = "wrong"
    await trio.sleep(1)
    assert await context.get() is first
    assert "the old one stays: server.tls.key-password: is not the password of server.tls.key" in caplog.text
    password = PASSWORD
    await trio.sleep(1)
    assert await context.get() is not first
