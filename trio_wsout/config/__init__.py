"""The configuration that a user writes: its sections, loading, dumping and its JSON Schema."""

from trio_wsout.config import sections
from trio_wsout.config.dumping import dump_config
from trio_wsout.config.json_schema import json_schema
from trio_wsout.config.loading import load_config
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import *  # noqa: F403 - they are listed once, over there

__all__ = ["Secret", "dump_config", "json_schema", "load_config"]
__all__ += sections.__all__
