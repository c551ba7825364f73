"""From a peer's bytes, cut in any way, to messages, pings, pongs, a Close or a violation (RFC 6455 section 5). Pure.

Rules
-----
1. The outcome depends on the bytes alone, never on how they are cut.
2. Messages, pings and the Close keep their order. Pongs are returned beside them, because a pong is taken as soon as
   it is read.
3. A frame is judged as early as possible: by its first two bytes, by its whole header, and a text by each piece of it.
   After a Close or a violation no further byte is decoded.
4. A violation has the close code of RFC 6455 section 7.4.1: 1007 for what is not UTF-8, 1009 for a
   message of more than `max-message-size` or of more than 1024 fragments (SPEC 10), 1002 for everything else.
5. Without an extension a reserved bit is a violation. With `inflate`, RSV1 on the first frame of a message marks a
   compressed message (RFC 7692 section 6), whose payload goes through `inflate` once it is whole.
6. Only a header that is cut, or a control frame that is cut, is read again when more bytes come. So each byte costs
   the same, also if a peer sends its bytes one by one.
"""

import codecs
from collections.abc import Callable, Sequence

from attrs import define, field, frozen

from trio_wsout._core.close_codes import may_be_sent
from trio_wsout._wire.frames import BINARY, CLOSE, PING, PONG, TEXT, unmask

LONGEST_RUN = 256
"""Messages of one run at most: a millisecond's work, after which other tasks run."""
MOST_FRAGMENTS = 1024
"""Frames of one message at most (SPEC 10)."""
NO_STATUS = 1005
"""Stands for a Close frame without a code; never sent (RFC 6455 section 7.4.1)."""

_PROTOCOL_ERROR, _NOT_UTF_8, _TOO_BIG = 1002, 1007, 1009
_LONGEST_CONTROL = 125

_FIN = 0x80
_MASKED = 0x80
_RESERVED, _RSV1 = 0x70, 0x40
_COMPRESSED = (_RSV1 | TEXT, _RSV1 | BINARY)
"""First bytes, without the final bit, of the frames that begin a compressed message (RFC 7692 section 6)."""
_OPCODE = 0x0F
_OPCODES = frozenset({0, TEXT, BINARY, CLOSE, PING, PONG})
_WHOLE_TEXT, _WHOLE_PONG = _FIN | TEXT, _FIN | PONG
_WHOLE = (_WHOLE_TEXT, _FIN | BINARY)
_LENGTH_2, _LENGTH_8 = 126, 127
"""Second byte of a frame, without the mask bit, whose length follows in 2 or in 8 bytes."""
_LONGEST_2, _LONGEST = 2**16 - 1, 2**63 - 1
"""Bytes of a payload whose length is in 2 bytes, and of any payload (RFC 6455 section 5.2)."""
_XOR_BELOW = 1024
"""Bytes below which a mask is taken off in the loop itself; `unmask` chooses the way for more."""
_from_bytes = int.from_bytes


@frozen
class Ping:
    """A ping, to be answered when everything before it has been handed over."""

    payload: bytes = field(repr=False)


@frozen
class Close:
    """A valid Close."""

    code: int
    """1005 if the frame has none."""
    reason: str = field(default="", repr=False)
    """It may contain secrets."""


@frozen
class Violation:
    """A violation of the protocol by the peer."""

    code: int
    """The code of the Close to send to the peer (RFC 6455 section 7.1.7)."""
    words: str
    """The peer's fault, as the end of "the peer sent …"; at most 123 bytes, without a quotation."""


Part = list[str | bytes] | Ping | Close | Violation
"""A run of messages, which is never empty, or one other part, which comes between messages."""
Inflate = Callable[[bytes], bytes | Violation]
"""Returns the payload of a compressed message, of a bounded size, or the violation that it is."""


def parse_close(payload: bytes) -> Close | Violation:
    """Return the Close that a payload means (RFC 6455 section 7.4), or the violation that it is."""
    if not payload:
        return Close(NO_STATUS)
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1:
        return Violation(_PROTOCOL_ERROR, "a Close with half a code")
    if not may_be_sent(code):
        return Violation(_PROTOCOL_ERROR, f"a Close with the code {code}")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        return Violation(_NOT_UTF_8, "a Close whose reason is not UTF-8")


_TOO_LARGE = Violation(_TOO_BIG, "a message of more than max-message-size")
_TOO_SCATTERED = Violation(_TOO_BIG, f"a message of more than {MOST_FRAGMENTS} fragments")
_NO_UTF_8 = Violation(_NOT_UTF_8, "a text that is not UTF-8")


@define(eq=False)
class _Message:
    """A message that is not whole yet."""

    is_text: bool
    compressed: bool
    payload: bytearray = field(factory=bytearray, init=False)
    """The payload so far, unmasked."""
    frames: int = field(default=0, init=False)
    """Frames that have begun."""
    size: int = field(default=0, init=False)
    """Bytes of payload in these frames, the missing ones included."""
    missing: int = field(default=0, init=False)
    """Bytes that the latest frame still lacks."""
    whole: bool = field(default=False, init=False)
    """Whether nothing more belongs to it."""
    _is_last: bool = field(default=False, init=False)
    _key: bytes = field(default=b"", init=False)
    """Masking key of the latest frame, turned to the next missing byte; empty if the frame is not masked."""
    _utf_8: codecs.IncrementalDecoder | None = field(default=None, init=False)

    def begin_frame(self, size: int, key: bytes, *, is_last: bool) -> None:
        """Begin the next frame, which has `size` bytes."""
        self.frames += 1
        self.size += size
        self.missing, self._key, self._is_last = size, key, is_last

    def take(self, piece: bytes) -> None:
        """Take the next bytes of the frame. Raise UnicodeDecodeError if the text is not UTF-8."""
        self.missing -= len(piece)
        self.whole = self._is_last and not self.missing
        if self._key:
            piece = unmask(piece, self._key)
            turn = len(piece) % 4
            self._key = self._key[turn:] + self._key[:turn]
        self.payload += piece
        if self.is_text and not self.compressed:
            if self._utf_8 is None:
                self._utf_8 = codecs.getincrementaldecoder("utf-8")()
            self._utf_8.decode(piece, self.whole)


def _mask_bit(masked: bool) -> int:  # noqa: FBT001 - a converter
    return _MASKED if masked else 0


@define(eq=False, kw_only=True)
class Decoder:
    """Decodes the bytes of one peer."""

    _mask: int = field(alias="masked", converter=_mask_bit)
    """The mask bit that every frame must have; the argument is whether the peer is a client (RFC 6455 section 5.1)."""
    _most: int = field(alias="most")
    """Bytes of a message at most, before it is inflated as well as after."""
    _inflate: Inflate | None = field(default=None, alias="inflate")
    """Inflates compressed messages; None if compression was not agreed on."""
    _cut_frame: bytes = field(default=b"", init=False)
    """The beginning of a frame that is read again when more bytes come: a cut header, or a cut control frame."""
    _message: _Message | None = field(default=None, init=False)
    """The message that has begun; None between messages."""
    over: bool = field(default=False, init=False)
    """Whether a Close or a violation was found."""

    def lone_pong(self, chunk: bytes) -> bytes | None:
        """Return the payload if the next bytes are one whole pong and nothing else; None otherwise.

        It costs a fraction of `feed`. After None the bytes are still to be fed.
        """
        size = len(chunk)
        if size <= 1 or chunk[0] != _WHOLE_PONG or self._cut_frame or self.over:
            return None
        if self._message is not None and self._message.missing:
            return None
        start = 6 if self._mask else 2
        if chunk[1] ^ self._mask != size - start or size - start > _LONGEST_CONTROL:
            return None
        return unmask(chunk[6:], chunk[2:6]) if self._mask else chunk[2:]

    def feed(self, chunk: bytes) -> tuple[list[Part], Sequence[bytes]]:
        """Take the next bytes; return the parts that end in them, in order, and the payloads of the pongs."""
        parts: list[Part] = []
        pongs: list[bytes] = []
        if self._cut_frame:
            chunk, self._cut_frame = self._cut_frame + chunk, b""
        at, end = 0, len(chunk)
        while at < end and not self.over:
            message = self._message
            if message is None:
                at = self._take_whole(chunk, at, parts)
                if at == end:
                    break
            elif message.missing:
                piece = chunk[at : at + message.missing]
                at += len(piece)
                self._take_piece(message, piece, parts)
                continue
            at = self._take_frame(chunk, at, parts, pongs)
        return parts, pongs

    # -- messages of one frame ------------------------------------------------------------------------

    def _take_whole(self, chunk: bytes, at: int, parts: list[Part]) -> int:
        """Take messages from `at` on while each is one whole frame without a fault; return the offset of their end."""
        # This loop is most of the cost of a message (tests/bench), so there are no calls and no attributes in it.
        mask, most, end = self._mask, self._most, len(chunk)
        key = 4 if mask else 0
        run = _last_run(parts)
        while at + 1 < end:
            first = chunk[at]
            size = chunk[at + 1] ^ mask  # the wrong mask bit makes it larger than any length
            start = at + 2 + key
            if size >= _LENGTH_2:
                size, start = _long_size(chunk, at, size, start)
            stop = start + size
            if stop > end or size > most or size < 0 or first not in _WHOLE:
                break
            payload = chunk[start:stop]
            if key and size <= _XOR_BELOW:
                pad = (chunk[start - 4 : start] * (size // 4 + 1))[:size]
                xored = _from_bytes(payload, "little") ^ _from_bytes(pad, "little")
                payload = xored.to_bytes(size, "little")
            elif key:
                payload = unmask(payload, chunk[start - 4 : start])
            if first == _WHOLE_TEXT:
                try:
                    run.append(payload.decode())
                except UnicodeDecodeError:
                    break
            else:
                run.append(payload)
            at = stop
            if len(run) == LONGEST_RUN:
                parts.append(run)
                run = []
        if run:
            parts.append(run)
        return at

    # -- all other frames -----------------------------------------------------------------------------

    def _take_frame(self, chunk: bytes, at: int, parts: list[Part], pongs: list[bytes]) -> int:
        """Take a control frame at `at`, or the header of a data frame, or keep it if it is cut; return the offset of its end."""
        header = self._read_header(chunk, at)
        if isinstance(header, Violation):
            self._end(header, parts)
            return at
        if header is not None:
            start, size = header
            first, key = chunk[at], chunk[start - 4 : start] if self._mask else b""
            opcode = first & _OPCODE
            if opcode < CLOSE:
                self._begin_frame(first, size, key, parts)
                return start
            if start + size <= len(chunk):
                payload = chunk[start : start + size]
                self._take_control(opcode, unmask(payload, key) if key else payload, parts, pongs)
                return start + size
        self._cut_frame = chunk[at:]
        return len(chunk)

    def _read_header(self, chunk: bytes, at: int) -> tuple[int, int] | Violation | None:
        """Return the offset of the payload of the frame at `at`, and its size; None if the header is cut."""
        end = len(chunk)
        if end - at == 1:
            return None
        fault = self._fault(chunk[at], chunk[at + 1])
        if fault:
            return Violation(_PROTOCOL_ERROR, fault)
        key = 4 if self._mask else 0
        size = chunk[at + 1] & ~_MASKED
        start = at + 2 + (2 if size == _LENGTH_2 else 8 if size == _LENGTH_8 else 0)
        if start > end:
            return None
        if size >= _LENGTH_2:
            size, _ = _long_size(chunk, at, size, start)
            if size < 0:
                return Violation(_PROTOCOL_ERROR, "a length that is not in its shortest form")
        return (start + key, size) if start + key <= end else None

    def _fault(self, first: int, second: int) -> str:
        """Return the fault of a frame by its first two bytes; empty if there is none."""
        opcode = first & _OPCODE
        if opcode not in _OPCODES:
            return f"a frame with the unknown opcode {opcode}"
        if first & _RESERVED and not (self._inflate and first & ~_FIN in _COMPRESSED):
            return "a reserved bit, for which no extension was agreed on"
        if second & _MASKED != self._mask:
            return "a frame without a mask" if self._mask else "a frame with a mask"
        if opcode >= CLOSE:
            if not first & _FIN:
                return "a control frame in fragments"
            too_long = second & ~_MASKED > _LONGEST_CONTROL
            return f"a control frame of more than {_LONGEST_CONTROL} bytes" if too_long else ""
        if opcode:
            return "a new message inside of another" if self._message is not None else ""
        return "a continuation of no message" if self._message is None else ""

    def _begin_frame(self, first: int, size: int, key: bytes, parts: list[Part]) -> None:
        """Begin a data frame of `size` bytes."""
        message = self._message
        if message is None:
            message = _Message(first & _OPCODE == TEXT, first & _RESERVED != 0)
            self._message = message
        message.begin_frame(size, key, is_last=first & _FIN != 0)
        if message.size > self._most:
            self._end(_TOO_LARGE, parts)
        elif message.frames > MOST_FRAGMENTS:
            self._end(_TOO_SCATTERED, parts)
        elif not size:
            self._take_piece(message, b"", parts)

    def _take_piece(self, message: _Message, piece: bytes, parts: list[Part]) -> None:
        """Take the next bytes of the message, and end it with its last ones."""
        try:
            message.take(piece)
            if not message.whole:
                return
            self._message = None
            payload = bytes(message.payload)
            if message.compressed and self._inflate is not None:
                inflated = self._inflate(payload)
                if isinstance(inflated, Violation):
                    self._end(inflated, parts)
                    return
                payload = inflated
            whole = payload.decode() if message.is_text else payload
            run = _last_run(parts)
            run.append(whole)
            parts.append(run)
        except UnicodeDecodeError:
            self._end(_NO_UTF_8, parts)

    def _take_control(self, opcode: int, payload: bytes, parts: list[Part], pongs: list[bytes]) -> None:
        """Take a whole control frame."""
        if opcode == PONG:
            pongs.append(payload)
        elif opcode == PING:
            parts.append(Ping(payload))
        else:
            self._end(parse_close(payload), parts)

    def _end(self, part: Close | Violation, parts: list[Part]) -> None:
        parts.append(part)
        self.over = True


def _last_run(parts: list[Part]) -> list[str | bytes]:
    """Take off the run that the next message belongs to; it is empty if a run begins with that message."""
    last = parts[-1] if parts else None
    if not isinstance(last, list) or len(last) >= LONGEST_RUN:
        return []
    del parts[-1]
    return last


def _long_size(chunk: bytes, at: int, size: int, start: int) -> tuple[int, int]:
    """Return size and start of a payload whose length is in 2 or 8 bytes more; -1 if that is not its shortest form."""
    if size == _LENGTH_2:
        size = _from_bytes(chunk[at + 2 : at + 4], "big")
        return (size, start + 2) if size >= _LENGTH_2 else (-1, start)
    if size == _LENGTH_8:
        size = _from_bytes(chunk[at + 2 : at + 10], "big")
        return (size, start + 8) if _LONGEST_2 < size <= _LONGEST else (-1, start)
    return -1, start
