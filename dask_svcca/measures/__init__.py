"""Measures of similarity as records, by kin, and the registry that finds them by name."""

from dask_svcca.measures.record import (
    Derived,
    Directions,
    Kernel,
    Measure,
    Need,
    Own,
    PairTotals,
    Saturates,
    Totals,
)
from dask_svcca.measures.registry import (
    DERIVED,
    OwnMeasure,
    find_measures,
    kernels_only,
    leading_only,
    load_measures,
    needs_loadings,
    norms_only,
    register_measure,
    split_names,
    with_companions,
)

__all__ = [
    "DERIVED",
    "Derived",
    "Directions",
    "Kernel",
    "Measure",
    "Need",
    "Own",
    "OwnMeasure",
    "PairTotals",
    "Saturates",
    "Totals",
    "find_measures",
    "kernels_only",
    "leading_only",
    "load_measures",
    "needs_loadings",
    "norms_only",
    "register_measure",
    "split_names",
    "with_companions",
]
