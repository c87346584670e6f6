"""Sphinx configuration; the settings and command pages are generated from the code before the build."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from generate import write_pages  # noqa: E402

project = "recbole_tiger"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "recbole_tiger"
autodoc_typehints = "signature"
napoleon_attr_annotations = False  # the words give types and shapes; "str_" in a type reads as a link
autodoc_member_order = "bysource"
suppress_warnings = ["myst.header"]

write_pages(HERE)
