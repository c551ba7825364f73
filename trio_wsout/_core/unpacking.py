"""Messages of peers to events: batches taken apart as `packing` puts them together (SPEC 2 and 4).

Rules
-----
1. The lines of header and footer are removed from both ends. A message with fewer lines can't be decoded, nor can one whose
   header or footer differs from a configured text without ``${…}``. Of other texts only the number of lines is checked: no
   value has a line break.
2. With `wrap-as-json` the rest is a JSON array, whose elements are the events. Otherwise every line is an event, decoded by
   `payload`; an empty rest holds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from trio_wsout._core.json_line import parse_json
from trio_wsout._core.payload import MessageError, decode
from trio_wsout.config.sections import Batch, Payload
from trio_wsout.config.templates import Template, no_value


class Unpacker:
    """Unpacks the messages of the peers of one listener."""

    def __init__(self, payload: Payload, batch: Batch) -> None:
        self._payload = payload
        self._wrapped = batch.wrap_as_json
        self._header = _Edge(batch.header)
        self._footer = _Edge(batch.footer)

    def events(self, message: str | bytes) -> Sequence[object]:
        """Return the events of a message, in order.

        Raises:
            MessageError: It is no batch of the configured kind.
        """
        lines: list[str] | list[bytes]
        lines = message.split("\n") if isinstance(message, str) else message.split(b"\n")
        first, after = self._header.count, len(lines) - self._footer.count
        if first > after or not (self._header.fits(lines[:first]) and self._footer.fits(lines[after:])):
            raise MessageError("it does not have the header and footer of batch")
        body = lines[first:after]
        if self._wrapped:
            return self._elements(b"\n".join(_bytes(line) for line in body))
        if len(body) == 1 and not body[0]:
            return []
        return [decode(line, self._payload) for line in body]

    def _elements(self, body: bytes) -> Sequence[object]:
        try:
            value = parse_json(body)
        except ValueError:
            value = None
        if not isinstance(value, list):
            raise MessageError("it is not a JSON array, and batch.wrap-as-json is true")
        return cast("list[object]", value)


class _Edge:
    """The lines of a header or footer."""

    def __init__(self, text: str | None) -> None:
        template = None if text is None else Template.parse(text, of_batch=True)
        self._lines: list[bytes] | None = None
        breaks = 0
        if template is None:
            self._lines = []
        elif template.is_static:
            self._lines = template.expand(no_value).encode().split(b"\n")
        else:  # no value has a line break
            breaks = sum(part.count("\n") for part in template.parts if isinstance(part, str))
        self.count = breaks + 1 if self._lines is None else len(self._lines)

    def fits(self, lines: Sequence[str] | Sequence[bytes]) -> bool:
        return self._lines is None or [_bytes(line) for line in lines] == self._lines


def _bytes(line: str | bytes) -> bytes:
    return line.encode() if isinstance(line, str) else line
