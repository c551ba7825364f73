"""Bytes on streams: the only door to trio_websocket, wsproto, h11 and ssl."""
