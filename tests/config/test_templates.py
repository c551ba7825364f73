"""Templates: one pass, no value becomes a template, and every mistake is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config.templates import Placeholder, Template, TemplateError, resolve_context

VALUES = {("env", "HOME"): "/root", ("cursor", None): "17", ("attempt", None): "3"}


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
    ],
)
def test_templates_expand(text: str, expanded: str) -> None:
    assert Template.parse(text).expand(resolve) == expanded


@pytest.mark.parametrize(
    "text", ["${", "a ${cursor", "${}", "${nope}", "${env}", "${env|}", "${cursor|x}", "${attempt|}"]
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match=r"\$\{"):
        Template.parse(text)


def test_a_missing_cursor_is_nothing_and_anything_else_missing_is_named() -> None:
    assert Template.parse("[${cursor}]").expand(lambda *_: None) == "[]"
    with pytest.raises(TemplateError, match=r"\$\{secret\|api\} has no value"):
        Template.parse("${secret|api}").expand(lambda *_: None)
    with pytest.raises(TemplateError, match=r"\$\{attempt\}"):
        Template.parse("${attempt}").expand(lambda *_: None)


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
