"""A URL with ``${…}`` in it: what of it can be checked as it is loaded, and what it is at an attempt (SPEC 5).

Rules
-----
1. A URL without ``${…}`` is checked as a whole when it is loaded. Of another, what can be known is: it must be a URL
   with some values in the places of its placeholders.
2. A value in the path or the query is data: it is percent-encoded, in a path but for ``/``. Before them (scheme, host
   and port, or all of a URL) it stands as it is.
3. What it is at an attempt is checked as a whole. No error holds a value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from trio_wsout.config.addresses import parse_url
from trio_wsout.config.quantities import is_unicode
from trio_wsout.config.templates import Placeholder, Template, TemplateError, escaped, no_value

if TYPE_CHECKING:
    from trio_wsout.config.templates import Resolve

__all__ = ["expand_url", "parse_url_template"]

_SAMPLES = ("a", "s", "1")
"""Values that may stand for a part of a host, or of a scheme."""
_PORT = re.compile(r"://[^/?]*:[0-9]*$")
_ONE_CHARACTER = re.compile("it holds '[^']*'$")
_SCHEME = re.compile(r"[A-Za-z]+(?=://)")


def parse_url_template(text: str) -> str:
    """A remote endpoint, templated; a scheme that is written out becomes ``ws`` or ``wss``.

    Raises:
        ValueError: It is no URL, whatever its placeholders stand for; or no template.
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
    """The URL of one attempt, as ``ws://`` or ``wss://``.

    Raises:
        ValueError: It is none with these values, or a value is missing; the text holds no value.
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
    _, scheme, rest = before.partition("://")
    if not is_unicode(value):
        message = "a value holds half of a surrogate pair, which is no character"
        raise TemplateError(message)
    if not scheme or not re.search("[/?]", rest):
        return value
    return quote(value, safe="" if "?" in rest else "/")
