"""What a peer must show: only an entry's own name and secret, shown once, admit; and as whom."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.credentials import Credentials
from trio_wsout.config import Secret, ServerAuth
from trio_wsout.config.templates import TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES = st.text("abcAB-é", min_size=1, max_size=4)
PASSWORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="${"), min_size=1, max_size=6
)
TOKENS = st.text("abcABC123-._~+/", min_size=1, max_size=6)


def nothing(source: str, name: str | None) -> None:
    return None


def auth(
    basic: Mapping[str, str] | None = None,
    bearer: Mapping[str, str] | None = None,
    parameter: str | None = None,
) -> ServerAuth:
    return ServerAuth(
        basic={name: Secret(text) for name, text in (basic or {}).items()},
        bearer={name: Secret(text) for name, text in (bearer or {}).items()},
        query_parameter=parameter,
    )


def head(*authorization: str, query: str = "") -> tuple[tuple[str, ...], str]:
    """What of a request's head is looked at."""
    return authorization, query


def shown_basic(name: str, password: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


@given(
    st.dictionaries(NAMES, PASSWORDS, max_size=3),
    st.dictionaries(NAMES, TOKENS, max_size=3),
    NAMES,
    PASSWORDS | TOKENS,
    st.sampled_from(["basic", "bearer", "query"]),
    st.randoms(),
)
def test_only_what_an_entry_says_admits_and_as_who_it_says(basic, bearer, name, secret, way, random) -> None:
    bearer = {
        identity: token for token, identity in {token: identity for identity, token in bearer.items()}.items()
    }
    known = [(way, *each) for each in (basic if way == "basic" else bearer).items()]
    if known and random.random() < 0.7:
        _, name, secret = random.choice(known)
    credentials = Credentials(auth(basic, bearer, "token"), nothing)
    if way == "basic":
        found = credentials.identity_of(*head(shown_basic(name, secret)))
        assert found == (name if basic.get(name) == secret else None)
    else:
        owner = next((each for each, token in bearer.items() if token == secret), None)
        asked = (
            head(f"Bearer {secret}") if way == "bearer" else head(query=f"a=b&token={quote(secret, safe='')}")
        )
        if way == "bearer" and secret != secret.strip(" "):
            return  # blanks around it are no part of a header's value
        assert credentials.identity_of(*asked) == owner
    assert credentials.trouble is None


@pytest.mark.parametrize(
    "asked",
    [
        head(),
        head(""),
        head("Bearer"),
        head("Bearer "),
        head("Basic"),
        head("Basic !!!"),
        head("Basic /w=="),
        head("Basic YW5u"),
        head("Digest t0ken"),
        head("t0ken"),
        head("Bearer t0ken", "Bearer t0ken"),
        head("Bearer t0ken, Bearer t0ken"),
        head("Bearer wrong", query="token=t0ken"),
        head(query="token=t0ken&token=t0ken"),
        head(query="token="),
        head(query="Token=t0ken"),
        head(shown_basic("ann", "")),
        head(shown_basic("", "t0ken")),
        head(shown_basic("cellar", "t0ken")),
        head("Bearer ann:pass"),
        head(query="token=ann%3Apass"),
    ],
)
def test_nothing_else_admits(asked: tuple[tuple[str, ...], str]) -> None:
    credentials = Credentials(auth({"ann": "pass"}, {"cellar": "t0ken"}, "token"), nothing)
    assert credentials.identity_of(*asked) is None


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_the_scheme_is_compared_without_case(scheme: str) -> None:
    credentials = Credentials(auth({"ann": "pass"}), nothing)
    assert credentials.identity_of(*head(shown_basic("ann", "pass", scheme))) == "ann"


def test_a_token_in_the_query_counts_only_where_the_parameter_is_named() -> None:
    assert (
        Credentials(auth(bearer={"cellar": "t0ken"}), nothing).identity_of(*head(query="token=t0ken")) is None
    )


@pytest.mark.parametrize(
    ("section", "challenges"),
    [
        (auth({"a": "b"}), ['Basic realm="trio-wsout", charset="UTF-8"']),
        (auth({}, {"a": "b"}), ['Bearer realm="trio-wsout"']),
        (
            auth({"a": "b"}, {"a": "b"}),
            ['Basic realm="trio-wsout", charset="UTF-8"', 'Bearer realm="trio-wsout"'],
        ),
    ],
)
def test_the_answer_says_which_schemes_there_are(section: ServerAuth, challenges: list[str]) -> None:
    assert Credentials(section, nothing).challenges == tuple(
        ("WWW-Authenticate", each) for each in challenges
    )


def test_a_secret_is_looked_up_at_each_look() -> None:
    values = {"TOKEN": "old"}
    credentials = Credentials(auth(bearer={"cellar": "${env|TOKEN}"}), lambda _, name: values.get(name or ""))
    assert credentials.identity_of(*head("Bearer old")) == "cellar"
    values["TOKEN"] = "new"
    assert credentials.identity_of(*head("Bearer old")) is None
    assert credentials.identity_of(*head("Bearer new")) == "cellar"


def raises(source: str, name: str | None) -> str:
    message = "the secrets callable raised KeyError"
    raise TemplateError(message)


@pytest.mark.parametrize(
    ("resolve", "reason"),
    [
        (nothing, "${env|TOKEN} has no value and no ||default"),
        (raises, "the secrets callable raised KeyError"),
        (lambda _, __: "", "it is empty"),
    ],
)
@pytest.mark.parametrize("shown", ["Bearer ", "Bearer", "Bearer ${env|TOKEN}", "Bearer x"])
def test_an_entry_without_a_value_admits_nobody_and_says_so(
    resolve: Callable[[str, str | None], str | None], reason: str, shown: str
) -> None:
    credentials = Credentials(auth({"ann": "pass"}, {"cellar": "${env|TOKEN}"}), resolve)
    assert credentials.identity_of(*head(shown)) is None
    assert credentials.trouble == f"server.auth.bearer.cellar: {reason}"
    assert list(credentials.problems()) == [("server.auth.bearer.cellar", reason)]
    assert credentials.identity_of(*head(shown_basic("ann", "pass"))) == "ann", "the others are as they were"


def test_no_secret_is_shown() -> None:
    credentials = Credentials(auth({"ann": "canary"}, {"cellar": "canary"}), nothing)
    assert "canary" not in repr(credentials)
