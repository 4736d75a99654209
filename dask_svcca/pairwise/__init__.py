"""Decompositions of one array or two: correlations, aligned directions, coefficients.

One pass over chunks of examples reduces the arrays to a factor (see `dask_svcca.kernels.factors`). All else follows
from the factor, in double precision. Directions are as long as the data: those of a Dask array stay lazy.
"""

from dask_svcca.pairwise.canonical import canonical_directions
from dask_svcca.pairwise.decompositions import cca, pca, pls
from dask_svcca.pairwise.projector import projection

__all__ = ["canonical_directions", "cca", "pca", "pls", "projection"]
