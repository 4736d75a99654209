"""Configuration of the documentation: ``sphinx-build -W --keep-going .github/docs build/docs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dask_svcca

if TYPE_CHECKING:
    import click
    from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "dask-svcca"
author = "The dask-svcca developers"
project_copyright = author
release = version = dask_svcca.__version__

extensions = [
    "measures_directive",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_extensions", "_templates"]
templates_path = ["_templates"]
# What docstrings write between single backticks: a name of this package, linked where it has a page.
default_role = "py:obj"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say it in words
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "dask-svcca"
html_show_sourcelink = False
html_sidebars = {"tutorial": []}  # it is one page
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}


def show_examples(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    """Examples at the end of a command's help are typed text, with asterisks that emphasise nothing."""
    if lines[:1] == ["| Examples:"]:
        lines[:] = ["Examples::", "", *(line.removeprefix("| ") for line in lines[1:])]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("sphinx-click-process-epilog", show_examples)
