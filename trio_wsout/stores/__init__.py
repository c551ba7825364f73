"""Cursors, histories and spools, which outlive a process. The protocols of histories and spools are public."""
