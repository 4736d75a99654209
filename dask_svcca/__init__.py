"""Compare every layer of every checkpoint of a model zoo with every other: SVCCA and its family on Dask and zarr."""

from importlib.metadata import version

from dask_svcca import compat
from dask_svcca.analysis.identification import layer_identification
from dask_svcca.analysis.significance import jackknife, permutation_null
from dask_svcca.capture.torch import capture_torch
from dask_svcca.engine.compare import compare
from dask_svcca.measures import register_measure
from dask_svcca.pairwise import cca, pca, pls, projection
from dask_svcca.stores.comparison import open_comparison
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo

__version__ = version("dask-svcca")

__all__ = [
    "Zoo",
    "__version__",
    "capture_torch",
    "cca",
    "compare",
    "compat",
    "create_zoo",
    "jackknife",
    "layer_identification",
    "open_comparison",
    "open_zoo",
    "pca",
    "permutation_null",
    "pls",
    "projection",
    "register_measure",
]
