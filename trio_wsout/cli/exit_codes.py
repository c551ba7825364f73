"""Exit codes of the command (SPEC 13)."""

OK = 0
"""Everything was confirmed."""
CONFIGURATION = 2
"""The configuration or the command is wrong: for example an address is taken, or a file can't be read."""
NO_CONNECTION = 3
"""The link could not be opened, or gave up; or a process of --processes died again and again."""
SOME_UNDELIVERED = 4
"""Some events are undelivered or stay in the spool, some lines were skipped, or messages from peers could not be printed."""
INTERRUPTED = 130
"""Ctrl-C, a termination signal or the end of its terminal ended the run."""
