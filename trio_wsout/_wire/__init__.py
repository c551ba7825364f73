"""Bytes on streams: the only package that knows trio_websocket (in `opening`), h11 and ssl."""
