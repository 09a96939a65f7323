"""Sphinx configuration: Markdown pages, a generated API, a generated table of settings."""

import shutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

import pna

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import pictures  # noqa: E402  # beside this file
import play  # noqa: E402

project = "pna"
author = "the pna developers"
copyright = "the pna developers"
version = release = pna.__version__
extensions = [
    "myst_nb",  # pages in Markdown, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
# Notebooks hold no outputs: each build runs them, and fails where one of them does.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # progress, and warnings of the kernel about itself
exclude_patterns = ["_build", "_templates", "play"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "pna"
html_static_path = ["_static"]
html_css_files = ["pna.css"]
html_js_files = ["tables.js", "wipe.js"]

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


class Wipe(Directive):
    """A wipe between the first and the last stage of a bundled photo."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the HTML."""
        html = pictures.wipe(self.arguments[0], "_static/pictures/")
        return [nodes.raw("", html, format="html")]


class Gallery(Directive):
    """All bundled images, segmented."""

    def run(self) -> list[nodes.Node]:
        """Return the HTML."""
        html = pictures.gallery(DRAWN, "_static/pictures/")
        return [nodes.raw("", html, format="html")]


DRAWN: list[pictures.Picture] = []
"""The pictures of this build."""


def draw_pictures(app):
    """Draw them, into the folder that is copied as it is; pages of text need none."""
    if app.builder.format == "html":
        DRAWN[:] = pictures.draw_pictures(HERE / "_static" / "pictures")


def build_page(app, error):
    """Build the page that refines masks in the browser, beside the others."""
    if error is not None or app.builder.format != "html":
        return
    if shutil.which("npm") is None:
        print("The page in the browser is left out: there is no npm here to fetch its runtime.")
        return
    try:
        play.build(Path(app.outdir) / "play")
    except play.RuntimeMissingError as found:  # without a network the other pages are still of use
        print(f"The page in the browser is left out: {found}")


def skip_field_aliases(app, what, name, obj, skip, options):
    """Leave out the generated docstrings of named tuples' fields; `Attributes:` has them."""
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def setup(app):
    """Register the above."""
    app.add_directive("recipe-settings", RecipeSettings)
    app.add_directive("wipe", Wipe)
    app.add_directive("gallery", Gallery)
    app.connect("builder-inited", draw_pictures)
    app.connect("build-finished", build_page)
    app.connect("autodoc-skip-member", skip_field_aliases)
