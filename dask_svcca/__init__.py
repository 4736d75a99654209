"""Compare every layer of every checkpoint of a model zoo with every other: SVCCA and its family on Dask and zarr."""

import importlib

# As typing's, which takes a while to import: on the command line, Ctrl-C is answered only behind this line.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from dask_svcca import compat, errors
    from dask_svcca.analysis.dynamics import learning_dynamics, training_phases
    from dask_svcca.analysis.identification import layer_identification
    from dask_svcca.analysis.matching import clusters, embedding, match_layers, nearest, within_and_between
    from dask_svcca.analysis.query import query
    from dask_svcca.analysis.significance import jackknife, permutation_null
    from dask_svcca.capture.torch import capture_torch
    from dask_svcca.cluster import connect
    from dask_svcca.measures import register_measure
    from dask_svcca.pairwise import cca, pca, pls, projection
    from dask_svcca.run.capture import capture_onnx
    from dask_svcca.run.compare import compare, plan_comparison
    from dask_svcca.run.forecast import forecast
    from dask_svcca.run.verify import verify
    from dask_svcca.stores.dataset import open_comparison
    from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo
    from dask_svcca.variables import PairStatus

    __version__: str

__all__ = [
    "PairStatus",
    "Zoo",
    "__version__",
    "capture_onnx",
    "capture_torch",
    "cca",
    "clusters",
    "compare",
    "compat",
    "connect",
    "create_zoo",
    "embedding",
    "errors",
    "forecast",
    "jackknife",
    "layer_identification",
    "learning_dynamics",
    "match_layers",
    "nearest",
    "open_comparison",
    "open_zoo",
    "pca",
    "permutation_null",
    "plan_comparison",
    "pls",
    "projection",
    "query",
    "register_measure",
    "training_phases",
    "verify",
    "within_and_between",
]

_MODULES = frozenset({"compat", "errors"})
_HOMES = {
    "PairStatus": "variables",
    "Zoo": "stores.zoo",
    "capture_onnx": "run.capture",
    "capture_torch": "capture.torch",
    "cca": "pairwise",
    "clusters": "analysis.matching",
    "compare": "run.compare",
    "connect": "cluster",
    "create_zoo": "stores.zoo",
    "embedding": "analysis.matching",
    "forecast": "run.forecast",
    "jackknife": "analysis.significance",
    "layer_identification": "analysis.identification",
    "learning_dynamics": "analysis.dynamics",
    "match_layers": "analysis.matching",
    "nearest": "analysis.matching",
    "open_comparison": "stores.dataset",
    "open_zoo": "stores.zoo",
    "pca": "pairwise",
    "permutation_null": "analysis.significance",
    "plan_comparison": "run.compare",
    "pls": "pairwise",
    "projection": "pairwise",
    "query": "analysis.query",
    "register_measure": "measures",
    "training_phases": "analysis.dynamics",
    "verify": "run.verify",
    "within_and_between": "analysis.matching",
}
"""Where a public name is found when it is first used: all of it at once would import Dask, xarray and pandas."""


# Type checkers see the imports above; for them, a name that is not there stays an error.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _HOMES:
            value = getattr(importlib.import_module(f"dask_svcca.{_HOMES[name]}"), name)
        elif name in _MODULES:
            value = importlib.import_module(f"dask_svcca.{name}")
        elif name == "__version__":
            # Not at the top: it takes longer to import than all else here.
            value = importlib.import_module("importlib.metadata").version("dask-svcca")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
