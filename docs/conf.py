"""Sphinx configuration: Markdown pages, doctests on."""

import pna

project = "pna"
author = "the pna developers"
copyright = "the pna developers"
version = release = pna.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pna"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
nitpicky = False
doctest_global_setup = "import torch, pna"
