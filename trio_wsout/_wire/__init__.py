"""Bytes on streams: the only package that knows trio-websocket (in `opening`), h11 and ssl."""
