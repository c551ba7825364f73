"""Templates: one pass, no value becomes a template, and every mistake is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config.templates import (
    Placeholder,
    Template,
    TemplateError,
    escaped,
    expand_url,
    no_value,
    parse_url_template,
    resolve_context,
)

VALUES = {
    ("env", "HOME"): "/root",
    ("cursor", None): "17",
    ("attempt", None): "3",
    ("file", "/run/token"): "content",
}


def resolve(source: str, name: str | None) -> str | None:
    return VALUES.get((source, name))


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("plain $ { } text", "plain $ { } text"),
        ("${cursor}", "17"),
        ("a${attempt}b${cursor}c", "a3b17c"),
        ("${env|HOME}", "/root"),
        ("${ env | HOME }", "/root"),
        ("${env|NONE||x}", "x"),
        ("${env|NONE||}", ""),
        ("${secret|k||a|b}", "a|b"),
        ("${cursor||none}", "17"),
        ("$${cursor}", "${cursor}"),
        ("$$${cursor}", "$${cursor}"),
        ("@@{job} a@b.c {x}", "@{job} a@b.c {x}"),
        ("${file|/run/token}", "content"),
    ],
)
def test_templates_expand(text: str, expanded: str) -> None:
    assert Template.parse(text).expand(resolve) == expanded


@pytest.mark.parametrize(
    "text",
    [
        "${",
        "a ${cursor",
        "${}",
        "${nope}",
        "${env}",
        "${env|}",
        "${cursor|x}",
        "${attempt|}",
        "${file|}",
        "${file|a\0b}",
    ],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match=r"\$\{"):
        Template.parse(text)


def test_a_missing_cursor_is_nothing_and_anything_else_missing_is_named() -> None:
    assert Template.parse("[${cursor}]").expand(no_value) == "[]"
    with pytest.raises(TemplateError, match=r"\$\{secret\|api\} has no value"):
        Template.parse("${secret|api}").expand(no_value)
    with pytest.raises(TemplateError, match=r"\$\{attempt\}"):
        Template.parse("${attempt}").expand(no_value)


@given(st.text(), st.text())
def test_a_value_is_never_expanded_again(before: str, value: str) -> None:
    template = Template((before, Placeholder("env", "X", None)))
    assert template.expand(lambda *_: value) == before + value


def test_only_texts_without_placeholders_are_static() -> None:
    assert Template.parse("a$${b").is_static
    assert not Template.parse("${cursor}").is_static


@given(st.dictionaries(st.text("abc", min_size=1), st.text(), min_size=1), st.data())
def test_context_values_are_put_in_as_they_are(context: dict[str, str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(context)))
    assert resolve_context(f"<{{{{ {name} }}}}>", context, escape=False) == f"<{context[name]}>"


@given(st.text())
def test_a_context_value_in_a_template_comes_out_as_itself(value: str) -> None:
    escaped = resolve_context("{{v}}", {"v": value}, escape=True)
    assert Template.parse(escaped).expand(resolve) == value


def test_a_name_that_is_not_in_the_context_is_named() -> None:
    with pytest.raises(TemplateError, match=r"\{\{b\}\} is not in the context; known: a"):
        resolve_context("{{b}}", {"a": "1"}, escape=False)
    with pytest.raises(TemplateError, match="no context was given"):
        resolve_context("{{b}}", {}, escape=False)


def test_a_file_that_is_not_there_is_told_as_such() -> None:
    with pytest.raises(TemplateError, match=r"\$\{file\|/none\} names no file that is there"):
        Template.parse("${file|/none}").expand(no_value)
    assert Template.parse("${file|/none||}").expand(no_value) == ""


@pytest.mark.parametrize("text", ["@{job}", "a @{x", "${cursor}@{", "@@@{", "$@{a}"])
def test_templates_of_another_system_are_told_to_be_foreign(text: str) -> None:
    if text == "@@@{":
        assert Template.parse(text).expand(resolve) == "@@{"
        return
    with pytest.raises(TemplateError, match=r"another system.*@@\{"):
        Template.parse(text)


@given(st.text("$@{}|ab", max_size=12))
def test_an_escaped_text_comes_out_as_itself(text: str) -> None:
    assert Template.parse(escaped(text)).expand(resolve) == text
    assert Template.parse(escaped(text), of_batch=True).expand(resolve) == text


# -- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "placeholder"),
    [
        ("${batch|number}", Placeholder("batch", "number", None)),
        ("${stat|_BATCH_NUMBER}", Placeholder("batch", "number", None)),
        ("${ batch | count }", Placeholder("batch", "count", None)),
        ("${time|iso}", Placeholder("time", "iso", None)),
        ("${event|/a/0||x}", Placeholder("event", "/a/0", "x")),
        ("${field}", Placeholder("event", "/field", None)),
        ("${a.b~c/d||}", Placeholder("event", "/a/b~0c~1d", "")),
        ("${cursor}", Placeholder("cursor", None, None)),
        ("${file|/x}", Placeholder("file", "/x", None)),
    ],
)
def test_batches_know_more_sources(text: str, placeholder: Placeholder) -> None:
    assert Template.parse(text, of_batch=True).parts == (placeholder,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${batch|size}", r"\$\{batch\|number\}, \$\{batch\|count\}"),
        ("${batch}", r"\$\{batch\|number\}"),
        ("${env}", r"\$\{env\|NAME\}"),
        ("${stat|_EVENTS}", r"\$\{batch\|number\}"),
        ("${time|local}", r"\$\{time\|iso\}"),
        ("${event|}", r"\$\{event\|/pointer\}"),
        ("${event|a}", "starts with /"),
        ("${a..b}", "joined by dots"),
        ("${}", r"\$\{field\}"),
        ("${a||two\nlines}", "line break"),
    ],
)
def test_what_a_batch_does_not_know_is_told_with_what_it_does(text: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        Template.parse(text, of_batch=True)


@pytest.mark.parametrize("text", ["${batch|number}", "${event|/a}", "${time|iso}", "${stat|_BATCH_NUMBER}"])
def test_what_only_batches_know_is_told_to_belong_there(text: str) -> None:
    with pytest.raises(TemplateError, match=r"batch\.header and batch\.footer only.*\$\{env\|NAME\}"):
        Template.parse(text)


# -- the context ------------------------------------------------------------------------------------------

CONTEXT = {
    "n": 5,
    "f": 1.5,
    "yes": True,
    "a": {"b": {"c": "deep"}, "d.e": "dotted"},
    "x.y": "flat",
    "x": {"y": "nested"},
    "list": [1],
    "null": None,
    "none": {},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{n}}", 5),
        ("{{ f }}", 1.5),
        ("{{yes}}", True),
        ("{{a.b.c}}", "deep"),
        ("{{a.d.e}}", "dotted"),
        ("{{x.y}}", "flat"),
        ("{{n}}{{yes}}-{{f}}", "5true-1.5"),
        ("plain", "plain"),
    ],
)
def test_a_context_may_be_nested_and_typed(text: str, value: object) -> None:
    found = resolve_context(text, CONTEXT, escape=False, typed=True)
    assert found == value
    assert type(found) is type(value)
    as_text = resolve_context(text, CONTEXT, escape=False)
    assert as_text == (str(value).lower() if isinstance(value, bool) else str(value))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("b", "known: a.b.c, a.d.e, f, list, n, none, null, x.y, yes"),
        ("a.b.d", "is not in the context"),
        ("n.m", "is not in the context"),
        ("a.b", "is a mapping"),
        ("list", "is a list"),
        ("null", r"is nothing \(null\)"),
    ],
)
def test_what_a_context_has_not_is_named_with_what_it_has(name: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        resolve_context(f"{{{{{name}}}}}", CONTEXT, escape=False)


@given(st.lists(st.text("$@{}a|", max_size=4), min_size=2, max_size=5))
def test_what_context_values_make_with_what_is_beside_them_is_no_template(pieces: list[str]) -> None:
    """Texts and values take turns; the texts have no templates of their own."""
    context = {f"v{index}": piece for index, piece in enumerate(pieces)}
    own = [escaped(piece).replace("{{", "{").replace("}}", "}") for piece in pieces]
    text = "".join(
        f"{each}<{{{{v{index}}}}}" if index % 2 else f"{each}{{{{v{index}}}}}"
        for index, each in enumerate(own)
    )
    if "{{{" in text or "}}}" in text:
        return
    plain = "".join(
        f"{Template.parse(each).expand(resolve)}{'<' if index % 2 else ''}{pieces[index]}"
        for index, each in enumerate(own)
    )
    assert Template.parse(str(resolve_context(text, context, escape=True))).expand(resolve) == plain


def test_a_sign_and_a_value_in_braces_make_no_template() -> None:
    for text, values, plain in (
        ("${{v}}", {"v": "{cursor}"}, "${cursor}"),
        ("{{v}}{cursor}", {"v": "$"}, "${cursor}"),
        ("@{{v}}", {"v": "{job}"}, "@{job}"),
        ("{{v}}{{w}}", {"v": "$", "w": "{cursor}"}, "${cursor}"),
    ):
        assert Template.parse(str(resolve_context(text, values, escape=True))).expand(resolve) == plain


# -- URLs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://h/a", "ws://h/a"),
        ("ws://h/$${x}@@{y}", "ws://h/$${x}@@{y}"),
        ("HTTPS://${env|HOST}:${env|PORT}/a?x=${secret|t}", "wss://${env|HOST}:${env|PORT}/a?x=${secret|t}"),
        ("ws://[${env|ADDRESS}]:${env|PORT}/", "ws://[${env|ADDRESS}]:${env|PORT}/"),
        ("${env|URL}", "${env|URL}"),
        ("${env|BASE}/feed", "${env|BASE}/feed"),
        ("${env|SCHEME}://h/", "${env|SCHEME}://h/"),
        ("ws${env|TLS||s}://h/", "ws${env|TLS||s}://h/"),
    ],
)
def test_a_url_may_be_templated(text: str, kept: str) -> None:
    assert parse_url_template(text) == kept
    assert parse_url_template(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "${env|A} b",
        "ftp://${env|HOST}/",
        "wss://user:${secret|p}@h/",
        "wss://h/#${env|A}",
        "/${env|PATH}",
        "wss://h:${env|PORT}x/",
        "wss://h/@{job}",
        "wss://h/${",
        "wss://h/${batch|number}",
    ],
)
def test_what_can_be_no_url_whatever_its_values_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_url_template(text)


@pytest.mark.parametrize(
    ("text", "value", "url"),
    [
        ("${env|X}", "https://h:1/a?b=c", "wss://h:1/a?b=c"),
        ("${env|X}/b?d", "wss://h/a", "wss://h/a/b?d"),
        ("wss://${env|X}:1/", "h", "wss://h:1/"),
        ("wss://h/${env|X}/", "a/b c?#&é", "wss://h/a/b%20c%3F%23%26%C3%A9/"),
        ("wss://h?t=${env|X}", "a/b c?#&=%é", "wss://h?t=a%2Fb%20c%3F%23%26%3D%25%C3%A9"),
        ("wss://h/$${x}", "", "wss://h/${x}"),
    ],
)
def test_values_in_a_path_or_query_are_data(text: str, value: str, url: str) -> None:
    assert expand_url(text, lambda *_: value) == url


@pytest.mark.parametrize(
    "value", ["hunter2 x", "u:hunter2@h", "h#hunter2", "hunter2/\n", "", "hunter2\ud800"]
)
def test_a_url_that_is_none_is_told_without_its_values(value: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        expand_url("wss://${env|X}/", lambda *_: value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(TemplateError, match=r"\$\{env\|X\} has no value"):
        expand_url("wss://h/${env|X}", lambda *_: None)
