"""Thin trio loops, one a file: they wait, ask the pure core, and act on its decisions."""
