"""Figures of a comparison, one function each: they take what `open_comparison` returns, and return Axes.

matplotlib is imported when one is drawn: ``pip install 'dask-svcca[plot]'``. Figures are made without pyplot, so that
none stays open behind the back of the caller. A notebook shows one that ends a cell: ``matrix(result).figure``.
"""

from __future__ import annotations

from dask_svcca.plot.identifying import identification
from dask_svcca.plot.labelled import class_sensitivity, directions
from dask_svcca.plot.layers import correlations, rank
from dask_svcca.plot.lineage import lineage
from dask_svcca.plot.maps import cluster, embedding, groups
from dask_svcca.plot.matrices import matrix
from dask_svcca.plot.moments import checkpoints, dynamics
from dask_svcca.plot.training import seeds, settling

__all__ = [
    "checkpoints",
    "class_sensitivity",
    "cluster",
    "correlations",
    "directions",
    "dynamics",
    "embedding",
    "groups",
    "identification",
    "lineage",
    "matrix",
    "rank",
    "seeds",
    "settling",
]
