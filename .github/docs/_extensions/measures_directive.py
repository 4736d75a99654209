"""The directive ``measures``: a list of the measures that a comparison can hold, from what it stores with them."""

from __future__ import annotations

import json
import math
import tempfile
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

import dask_svcca
from dask_svcca.stores.dataset import parameters_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata


RELATED = (
    "mutual_knn",
    "jaccard",
    "second_order_cosine",
    "rsa",
    "rsm_norm_difference",
    "distance_correlation",
    "uniformity_difference",
    "magnitude_difference",
    "hard_correlation_match",
    "soft_correlation_match",
    "soft_matching",
    "permutation_procrustes",
)
"""Measures that ``all`` does not stand for."""


@lru_cache
def stored_attributes() -> dict[str, dict[str, Any]]:
    """Attributes of each measure, as a comparison of two small layers has them."""
    x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    with tempfile.TemporaryDirectory() as folder:
        with dask_svcca.create_zoo(f"{folder}/zoo.zarr", examples=range(100)) as zoo:
            zoo.write("net", "end", "x", x)
            zoo.write("net", "end", "y", y)
        result = dask_svcca.compare(zoo, f"{folder}/comparison.zarr", measures=["all", *RELATED])
        found = {str(name): dict(array.attrs) for name, array in result.data_vars.items() if "sense" in array.attrs}
    asked = parameters_of(result)["measures"]
    return {name: found[name] for name in [*asked, *sorted(found.keys() - set(asked))]}


def said_range(low: float, high: float) -> str:
    """Between which bounds values are."""
    if math.isinf(high):
        return f"{low:g} or more"
    return f"{high:g} or less" if math.isinf(low) else f"{low:g} to {high:g}"


class Measures(SphinxDirective):
    """The measures of some senses: ``similarity``, ``distance`` or ``reference``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """A list of definitions."""
        senses = self.arguments[0].split()
        lines: list[str] = []
        for name, attributes in stored_attributes().items():
            if attributes["sense"] in senses:
                low, high = attributes["valid_range"]
                unchanged = json.loads(attributes["invariant_to"])
                facts = [
                    "a distance" if attributes["sense"] == "distance" else "",
                    said_range(low, high),
                    "" if attributes["symmetric"] else "not symmetric",
                    f"unchanged by {', '.join(unchanged)}" if unchanged else "",
                ]
                lines += [
                    f"`{name}`",
                    f":   {self.escaped(': '.join(filter(None, map(attributes.get, ('long_name', 'comment')))))}.",
                    "",
                    f"    {'; '.join(filter(None, facts)).capitalize()}. {self.escaped(attributes['reference'])}.",
                    "",
                ]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, "measures"), self.content_offset, container)
        return container.children

    @staticmethod
    def escaped(text: str) -> str:
        """Text whose signs mean nothing to Markdown."""
        return "".join(f"\\{sign}" if sign in "\\|*_`$<>" else sign for sign in text)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.add_directive("measures", Measures)
    return {"parallel_read_safe": True}
