"""Settings of the documentation, which `nox -s docs` builds; a warning is an error. Nothing is fetched."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "trio_wsout"
author = "trio_wsout developers"
project_copyright = "2026, trio_wsout developers"
version = release = version_of("trio-wsout")

extensions = ["myst_parser", "sphinx_copybutton", "state_diagram"]
exclude_patterns = ["_build", "_ext"]
default_role = "code"

myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

html_theme = "furo"
html_title = f"trio_wsout {release}"
