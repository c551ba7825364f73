"""Templated text: ``{{name}}`` is resolved when it is loaded, ``${source}`` at every attempt or batch (SPEC 4 and 5).

Sources are ``${cursor}``, ``${attempt}``, ``${env|NAME}``, ``${file|PATH}`` and ``${secret|name}``, each with an
optional ``||default``. The header and footer of a batch also know ``${batch|number}``, ``${batch|count}``,
``${event|/pointer}`` of the first event, ``${time|iso}`` and ``${time|epoch}``, and two spellings of other systems:
``${stat|_BATCH_NUMBER}``, and ``${name}`` for a field of the first event.
``$${`` writes a literal ``${``. ``@{…}`` is a template of another system and refused; ``@@{`` writes the characters.
There is one pass: a value is never expanded again, so a context value in a templated text is escaped.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Self, cast
from urllib.parse import quote

from attrs import frozen

from trio_wsout.config.addresses import parse_url
from trio_wsout.config.event_paths import parse_dotted, parse_pointer
from trio_wsout.config.scalars import is_unicode, type_name

Resolve = Callable[[str, str | None], str | None]
"""Returns the value of a source and name; None if it has none."""

_CONTEXT = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_MARK = re.compile(r"[$@](?=\{)")
_RUNTIME = re.compile(r"([$@])\1\{|\$\{([^}]*)(\}?)|@\{")
_PLAIN = ("cursor", "attempt")
_NAMED = ("env", "file", "secret")
_OF_BATCH: Mapping[str, tuple[str, ...]] = {
    "batch": ("number", "count"),
    "time": ("iso", "epoch"),
    "stat": ("_BATCH_NUMBER",),
    "event": (),
}
"""Sources that only a batch has, and the names that each knows; ``event`` takes a JSON pointer."""
_KNOWN = "${cursor}, ${attempt}, ${env|NAME}, ${file|PATH} or ${secret|name}"
_KNOWN_IN_BATCH = (
    "${batch|number}, ${batch|count}, ${event|/pointer}, ${time|iso}, ${time|epoch}, "
    f"${{field}} of the first event, {_KNOWN}"
)
_FOREIGN = (
    "@{…} is a template of another system, which nobody expands here; use {{name}} with a context, or ${env|NAME}; "
    "write @@{ for the characters themselves"
)


class TemplateError(ValueError):
    """A template that can't be parsed or expanded; the text never holds a value."""


def no_value(source: str, name: str | None) -> None:
    """Return None: a `Resolve` for texts without placeholders, or whose values are not known."""
    del source, name


# -- context ------------------------------------------------------------------------------------------


def resolve_context(
    text: str, context: Mapping[str, object], *, escape: bool, typed: bool = False
) -> str | float | bool:
    """Return a text with the context's values in place of every ``{{name}}``.

    Values are texts, numbers, true and false, and mappings of these for ``{{a.b}}``. With `escape` the text is a template of
    ``${…}`` too, which no value may become; with `typed` a text of nothing but one ``{{name}}`` may stand for a number, or
    true or false. Raise TemplateError if the context has no such value.
    """
    whole = _CONTEXT.fullmatch(text)
    if whole is not None and typed:
        return _context_value(whole[1], context)
    pieces: list[tuple[str, bool]] = []  # each with whether it is the configuration's own
    position = 0
    for match in _CONTEXT.finditer(text):
        value = _context_value(match[1], context)
        pieces.append((text[position : match.start()], True))
        pieces.append((value if isinstance(value, str) else json.dumps(value), False))
        position = match.end()
    pieces.append((text[position:], True))
    joined = "".join([piece for piece, _ in pieces])
    return _escaped_values(joined, pieces) if escape and len(pieces) > 1 else joined


def _escaped_values(joined: str, pieces: list[tuple[str, bool]]) -> str:
    """Escape every mark of a template, unless the mark and its brace stand in one of the configuration's own pieces."""
    ends = accumulate(len(piece) for piece, _ in pieces)
    own = [
        range(end - len(piece), end - 1) for end, (piece, is_own) in zip(ends, pieces, strict=True) if is_own
    ]
    return _MARK.sub(
        lambda mark: mark[0] if any(mark.start() in each for each in own) else mark[0] * 2, joined
    )


def _context_value(name: str, context: Mapping[str, object]) -> str | float | bool:
    flat = list(_flat(context))
    for each, value in flat:
        if each == name and isinstance(value, str | int | float):
            return value
        if each == name:
            kind = type_name(value)
            raise TemplateError(
                f"{{{{{name}}}}} is {kind} in the context; it must be a text, a number, true or false"
            )
    known = ", ".join(sorted({each for each, value in flat if not value or not isinstance(value, Mapping)}))
    raise TemplateError(
        f"{{{{{name}}}}} is not in the context; {f'known: {known}' if known else 'no context was given'}"
    )


def _flat(context: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Yield each name of a context with its value; names in a mapping follow it, with dots."""
    for name, value in context.items():
        yield f"{above}{name}", value
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, object]", value), f"{above}{name}.")


# -- ${…} ---------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Return the template that expands to a text."""
    return _MARK.sub(lambda mark: mark[0] * 2, text)


@frozen
class Placeholder:
    """One ``${…}`` of a template."""

    source: str
    """cursor, attempt, env, file or secret; of a batch also batch, event or time."""
    name: str | None
    """The name of the value in the source; None for cursor and attempt."""
    default: str | None
    """The value if the source has none; None if that is an error."""

    def value(self, resolve: Resolve) -> str:
        """Return the value or the default; for a cursor or an event without either, the empty text.

        Raise TemplateError if there is neither.
        """
        value = resolve(self.source, self.name)
        if value is None:
            value = self.default
        if value is None and self.source in {"cursor", "event"}:
            return ""
        if value is None:
            placeholder = f"${{{self.source}|{self.name}}}" if self.name else f"${{{self.source}}}"
            lacks = "names no file that is there" if self.source == "file" else "has no value"
            raise TemplateError(f"{placeholder} {lacks} and no ||default")
        return value


@frozen
class Template:
    """A parsed text with ``${…}`` in it."""

    parts: tuple[str | Placeholder, ...]
    """Literal texts and placeholders, in order."""

    @classmethod
    def parse(cls, text: str, *, of_batch: bool = False) -> Self:
        """Parse a text; `of_batch` is whether it is the header or footer of a batch.

        Raise TemplateError if a ``${`` is not closed, or names no source that is known there; or there is a
        ``@{``.
        """
        parts: list[str | Placeholder] = []
        literal = ""
        position = 0
        for match in _RUNTIME.finditer(text):
            literal += text[position : match.start()]
            position = match.end()
            if match[1]:
                literal += match[0][1:]
                continue
            if match[0] == "@{":
                raise TemplateError(_FOREIGN)
            if not match[3]:
                raise TemplateError("a ${ is not closed; write $${ for the characters themselves")
            parts += [literal, _placeholder(match[2], of_batch=of_batch)]
            literal = ""
        parts.append(literal + text[position:])
        return cls(tuple(part for part in parts if part != ""))

    @property
    def is_static(self) -> bool:
        """Whether the text is the same at every expansion."""
        return not self.placeholders

    @property
    def placeholders(self) -> list[Placeholder]:
        """The placeholders, in order."""
        return [part for part in self.parts if isinstance(part, Placeholder)]

    def expand(self, resolve: Resolve) -> str:
        """Return the text with values in it.

        Raise TemplateError if a placeholder has neither a value nor a default, and is neither a cursor's nor an
        event's.
        """
        return "".join(part if isinstance(part, str) else part.value(resolve) for part in self.parts)


def _placeholder(inside: str, *, of_batch: bool) -> Placeholder:
    wanted, bars, text = inside.partition("||")
    source, bar, name = (each.strip() for each in wanted.partition("|"))
    default = text if bars else None
    if source in _NAMED and name and "\0" not in name:
        return Placeholder(source, name, default)
    if source in _PLAIN and not bar:
        return Placeholder(source, None, default)
    if of_batch:
        return _placeholder_of_batch(source, name if bar else None, default)
    if source in _OF_BATCH and bar:
        raise TemplateError(
            f"${{{source}|…}} is known in batch.header and batch.footer only; known here: {_KNOWN}"
        )
    raise TemplateError(f"a ${{…}} must be {_KNOWN} here, each with an optional ||default")


def _placeholder_of_batch(source: str, name: str | None, default: str | None) -> Placeholder:
    if default is not None and ("\n" in default or "\r" in default):
        raise TemplateError("a ||default in a batch's header or footer can't hold a line break")
    try:
        if name is None and source and source not in {*_NAMED, *_OF_BATCH}:
            tokens = parse_dotted(source)
            pointer = "".join(f"/{token.replace('~', '~0').replace('/', '~1')}" for token in tokens)
            return Placeholder("event", pointer, default)
        if source == "event" and name:
            parse_pointer(name)
            return Placeholder(source, name, default)
    except ValueError as error:
        spelling = "${field} of an event" if name is None else "${event|/pointer}"
        raise TemplateError(f"{spelling}: {error}") from None
    if name is not None and name in _OF_BATCH.get(source, ()):
        source, name = ("batch", "number") if source == "stat" else (source, name)
        return Placeholder(source, name, default)
    raise TemplateError(f"a ${{…}} must be {_KNOWN_IN_BATCH} here, each with an optional ||default")


# -- URLs ---------------------------------------------------------------------------------------------
# 1. A URL without ``${…}`` is checked as a whole when it is loaded. Any other must be a URL with some sample values.
# 2. A value in the path or the query is percent-encoded, except ``/`` in a path. A value before them (scheme, host,
#    port, or the whole URL) stands as it is.
# 3. The expanded URL of an attempt is checked as a whole. No error holds a value.

_SAMPLES = ("a", "s", "1")
"""Values that may stand for a part of a host, or of a scheme."""
_PORT = re.compile(r"://[^/?]*:[0-9]*$")
_ONE_CHARACTER = re.compile("it holds '[^']*'$")
_SCHEME = re.compile(r"[A-Za-z]+(?=://)")


def parse_url_template(text: str) -> str:
    """Return a remote endpoint, templated; a scheme that is written out becomes ``ws`` or ``wss``.

    Raise ValueError if it is no URL with any sample values, or no template.
    """
    template = Template.parse(text)
    if template.is_static:
        return escaped(parse_url(template.expand(no_value)))
    refused: list[ValueError] = []
    for sample in _SAMPLES:
        try:
            url = parse_url(_sampled(template, sample))
        except ValueError as error:
            refused.append(error)
        else:
            return _SCHEME.sub(url.partition(":")[0], text, count=1) if _SCHEME.match(text) else text
    raise refused[0]


def _sampled(template: Template, sample: str) -> str:
    """Return a URL template with a plausible value in place of each placeholder."""
    first, *rest = template.parts
    if isinstance(first, Placeholder):
        has_scheme = bool(rest) and isinstance(rest[0], str) and rest[0].startswith("://")
        first = "wss" if has_scheme else "wss://h"
    url = first
    for part in rest:
        if isinstance(part, str):
            url += part
        else:
            url += "::1" if url.endswith("[") else "1" if _PORT.search(url) else sample
    return url


def expand_url(text: str, resolve: Resolve) -> str:
    """Return the URL of one attempt, as ``ws://`` or ``wss://``.

    Raise ValueError if it is no URL with these values, or a value is missing; the text holds no value.
    """
    template = Template.parse(text)
    if template.is_static:  # checked when it was loaded
        return template.expand(resolve)
    url = ""
    for part in template.parts:
        url += part if isinstance(part, str) else _encoded(part.value(resolve), url)
    try:
        return parse_url(url)
    except ValueError as error:
        raise ValueError(_ONE_CHARACTER.sub("it holds a character that no host has", str(error))) from None


def _encoded(value: str, before: str) -> str:
    """Return a value as it stands in a URL behind the text `before`."""
    _, scheme, rest = before.partition("://")
    if not is_unicode(value):
        raise TemplateError("a value holds half of a surrogate pair, which is no character")
    if not scheme or not re.search("[/?]", rest):
        return value
    return quote(value, safe="" if "?" in rest else "/")
