"""Sphinx configuration: Markdown pages, a generated API, a generated table of settings."""

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

import pna

project = "pna"
author = "the pna developers"
copyright = "the pna developers"
version = release = pna.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "pna"

default_role = "code"  # docstrings have single backticks
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_use_ivar = True
doctest_global_setup = "import torch, pna"
doctest_test_doctest_blocks = ""  # docstrings run in their modules: pytest --doctest-modules


class RecipeSettings(Directive):
    """A table of every setting of a recipe, with default and meaning, made from its types."""

    def run(self) -> list[nodes.Node]:
        """Parse the table as Markdown."""
        from pna.train import all_settings

        table = ["| setting | default | meaning |", "|---|---|---|"]
        for name, default, meaning in all_settings():
            shown = f"`{default}`" if default else "required"
            table.append(f"| `{name}` | {shown} | {' '.join(meaning.split())} |")
        container = nodes.container()
        self.state.nested_parse(StringList(table, "recipe"), self.content_offset, container)
        return container.children


def skip_field_aliases(app, what, name, obj, skip, options):
    """Leave out the generated docstrings of named tuples' fields; `Attributes:` has them."""
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def setup(app):
    """Register the above."""
    app.add_directive("recipe-settings", RecipeSettings)
    app.connect("autodoc-skip-member", skip_field_aliases)
