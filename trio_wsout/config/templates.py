"""Templated text: ``{{name}}`` is resolved once, when loading; ``${source}`` at every attempt (SPEC 5).

Sources are ``${cursor}``, ``${attempt}``, ``${env|NAME}`` and ``${secret|name}``, each with an optional
``||default``. ``$${`` writes a literal ``${``. There is one pass: what a value holds is never
expanded again, and a context value put into a templated text is escaped for that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Placeholder", "Template", "TemplateError", "resolve_context"]

_CONTEXT = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_RUNTIME = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAMED = ("env", "secret")
_PLAIN = ("cursor", "attempt")


class TemplateError(ValueError):
    """A template that can't be parsed or expanded; the text never holds a value."""


def resolve_context(text: str, context: Mapping[str, str], *, escape: bool) -> str:
    """Put context values in the place of every ``{{name}}``.

    Args:
        text: Any text of a configuration.
        context: The values by name.
        escape: Whether the text is a template of ``${…}`` too, which a value must not become.

    Raises:
        TemplateError: A name is not in the context.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in context:
            known = f"; known: {', '.join(sorted(context))}" if context else "; no context was given"
            message = f"{{{{{name}}}}} is not in the context{known}"
            raise TemplateError(message)
        return context[name].replace("${", "$${") if escape else context[name]

    return _CONTEXT.sub(value, text)


@frozen
class Placeholder:
    """One ``${…}`` of a template."""

    source: str
    """cursor, attempt, env or secret."""
    name: str | None
    """What of the source, for env and secret."""
    default: str | None
    """What stands there when the source has no value."""


@frozen
class Template:
    """A parsed text with ``${…}`` in it."""

    parts: tuple[str | Placeholder, ...]
    """Literal texts and placeholders, in order."""

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a text.

        Raises:
            TemplateError: A ``${`` is not closed, or names no known source.
        """
        parts: list[str | Placeholder] = []
        literal = ""
        position = 0
        for match in _RUNTIME.finditer(text):
            literal += text[position : match.start()]
            position = match.end()
            if match[0] == "$${":
                literal += "${"
                continue
            if not match[2]:
                message = "a ${ is not closed; write $${ for the characters themselves"
                raise TemplateError(message)
            parts += [literal, _placeholder(match[1])]
            literal = ""
        parts.append(literal + text[position:])
        return cls(tuple(part for part in parts if part != ""))

    @property
    def is_static(self) -> bool:
        """Whether the text is the same at every expansion."""
        return all(isinstance(part, str) for part in self.parts)

    def expand(self, resolve: Callable[[str, str | None], str | None]) -> str:
        """The text with values in it.

        Args:
            resolve: Gives the value of a source and name; None: there is none.

        Raises:
            TemplateError: There is neither a value nor a default; a cursor may be missing.
        """
        return "".join(part if isinstance(part, str) else _value(part, resolve) for part in self.parts)


def _placeholder(inside: str) -> Placeholder:
    what, bars, default = inside.partition("||")
    source, bar, name = (each.strip() for each in what.partition("|"))
    given = default if bars else None
    if source in _NAMED and name:
        return Placeholder(source, name, given)
    if source in _PLAIN and not bar:
        return Placeholder(source, None, given)
    message = (
        "a ${…} must be ${cursor}, ${attempt}, ${env|NAME} or ${secret|name}, each with an optional ||default"
    )
    raise TemplateError(message)


def _value(part: Placeholder, resolve: Callable[[str, str | None], str | None]) -> str:
    value = resolve(part.source, part.name)
    if value is None:
        value = part.default
    if value is None and part.source == "cursor":
        return ""
    if value is None:
        what = f"${{{part.source}|{part.name}}}" if part.name else f"${{{part.source}}}"
        message = f"{what} has no value and no ||default"
        raise TemplateError(message)
    return value
