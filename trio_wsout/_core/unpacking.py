"""Messages of peers to events: batches taken apart as `packing` puts them together (SPEC 2 and 4).

Rules
-----
1. The lines of header and footer are removed from both ends. A message with fewer lines can't be decoded, nor can one whose
   header or footer differs from a configured text without ``${…}``. Of other texts only the number of lines is checked: no
   value has a line break.
2. With `wrap-as-json` the rest is a JSON array, whose elements are the events. Otherwise every line is an event, decoded by
   `payload`; an empty rest holds none.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from trio_wsout._core.json_line import parse_json
from trio_wsout._core.payload import MessageError, decode
from trio_wsout.config.sections import Batch, Payload
from trio_wsout.config.templates import Template


class Unpacker:
    """Unpacks the messages of the peers of one listener."""

    def __init__(self, payload: Payload, batch: Batch) -> None:
        self._payload = payload
        self._wrapped = batch.wrap_as_json
        self._header = _Edge(batch.header)
        self._footer = _Edge(batch.footer)

    def events(self, message: str | bytes) -> Sequence[object]:
        """Return the events of a message, in order; raise MessageError if it is no batch of the configured kind."""
        lines: list[str] | list[bytes]
        lines = message.split("\n") if isinstance(message, str) else message.split(b"\n")
        first, after = self._header.count, len(lines) - self._footer.count
        if first > after or not (self._header.fits(lines[:first]) and self._footer.fits(lines[after:])):
            raise MessageError("it does not have the header and footer of batch")
        body = lines[first:after]
        if self._wrapped:
            with suppress(ValueError):
                elements = parse_json(b"\n".join(_bytes(line) for line in body))
                if isinstance(elements, list):
                    return cast("list[object]", elements)
            raise MessageError("it is not a JSON array, and batch.wrap-as-json is true")
        return [] if len(body) == 1 and not body[0] else [decode(line, self._payload) for line in body]


class _Edge:
    """The lines of a header or footer."""

    def __init__(self, text: str | None) -> None:
        template = None if text is None else Template.parse(text, of_batch=True)
        static = template is None or template.is_static
        parts = [] if template is None else [each for each in template.parts if isinstance(each, str)]
        # The lines that they must be; of texts with values, which have no line breaks, only their number is known.
        lines = [] if template is None else "".join(parts).encode().split(b"\n")
        self._lines = lines if static else None
        self.count = len(lines)

    def fits(self, lines: Sequence[str] | Sequence[bytes]) -> bool:
        return self._lines is None or [_bytes(line) for line in lines] == self._lines


def _bytes(line: str | bytes) -> bytes:
    return line.encode() if isinstance(line, str) else line
