"""The page itself: a few files, served as they are, or put into one."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

MODULES: Final = (
    "source.js",
    "places.js",
    "embedded.js",
    "colours.js",
    "matrix.js",
    "charts.js",
    "panes.js",
    "classes.js",
    "explore.js",
)
"""Modules of the page, each of which imports only from those before it."""


def page_file(name: str) -> bytes:
    """One of the files of the page."""
    return files(__name__).joinpath(name).read_bytes()
