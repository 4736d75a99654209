"""Compare every layer of every checkpoint of a model zoo with every other: SVCCA and its family on Dask and zarr."""

import importlib

# As typing's, which takes a while to import: on the command line, Ctrl-C is answered only behind this line.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from dask_svcca import compat, errors, plot
    from dask_svcca.analysis.ceiling import noise_ceiling
    from dask_svcca.analysis.discoveries import discoveries
    from dask_svcca.analysis.dynamics import learning_dynamics, training_phases
    from dask_svcca.analysis.heldout import cca_heldout
    from dask_svcca.analysis.identification import layer_identification
    from dask_svcca.analysis.joining import join
    from dask_svcca.analysis.judging import judge_measures
    from dask_svcca.analysis.matching import cluster, embedding, match_layers, nearest, within_and_between
    from dask_svcca.analysis.models import model_similarity
    from dask_svcca.analysis.query import query
    from dask_svcca.analysis.sensitivity import class_sensitivity
    from dask_svcca.analysis.significance import jackknife, permutation_null, without_extreme
    from dask_svcca.capture.torch import capture_torch
    from dask_svcca.coarse.compare import compare, plan_comparison
    from dask_svcca.connections import connect
    from dask_svcca.measures import register_measure
    from dask_svcca.pairwise import canonical_directions, cca, pca, pls, projection
    from dask_svcca.run.capture import capture_onnx
    from dask_svcca.run.forecast import forecast
    from dask_svcca.run.verify import verify
    from dask_svcca.sketches.dataset import open_sketches
    from dask_svcca.sketches.estimates import estimates
    from dask_svcca.sketches.index import index_sketches
    from dask_svcca.sketches.make import sketch
    from dask_svcca.sketches.portable import export_sketches, import_sketches, merge_sketches
    from dask_svcca.sketches.search import search
    from dask_svcca.stores.dataset import open_comparison
    from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo
    from dask_svcca.variables import PairStatus

    __version__: str

__all__ = [
    "PairStatus",
    "Zoo",
    "__version__",
    "canonical_directions",
    "capture_onnx",
    "capture_torch",
    "cca",
    "cca_heldout",
    "class_sensitivity",
    "cluster",
    "compare",
    "compat",
    "connect",
    "create_zoo",
    "discoveries",
    "embedding",
    "errors",
    "estimates",
    "export_sketches",
    "forecast",
    "import_sketches",
    "index_sketches",
    "jackknife",
    "join",
    "judge_measures",
    "layer_identification",
    "learning_dynamics",
    "match_layers",
    "merge_sketches",
    "model_similarity",
    "nearest",
    "noise_ceiling",
    "open_comparison",
    "open_sketches",
    "open_zoo",
    "pca",
    "permutation_null",
    "plan_comparison",
    "plot",
    "pls",
    "projection",
    "query",
    "register_measure",
    "search",
    "sketch",
    "training_phases",
    "verify",
    "within_and_between",
    "without_extreme",
]

_MODULES = frozenset({"compat", "errors", "plot"})
_HOMES = {
    "PairStatus": "variables",
    "Zoo": "stores.zoo",
    "capture_onnx": "run.capture",
    "capture_torch": "capture.torch",
    "canonical_directions": "pairwise",
    "cca": "pairwise",
    "cca_heldout": "analysis.heldout",
    "class_sensitivity": "analysis.sensitivity",
    "cluster": "analysis.matching",
    "compare": "coarse.compare",
    "connect": "connections",
    "create_zoo": "stores.zoo",
    "discoveries": "analysis.discoveries",
    "embedding": "analysis.matching",
    "estimates": "sketches.estimates",
    "export_sketches": "sketches.portable",
    "forecast": "run.forecast",
    "import_sketches": "sketches.portable",
    "index_sketches": "sketches.index",
    "jackknife": "analysis.significance",
    "join": "analysis.joining",
    "judge_measures": "analysis.judging",
    "layer_identification": "analysis.identification",
    "learning_dynamics": "analysis.dynamics",
    "match_layers": "analysis.matching",
    "merge_sketches": "sketches.portable",
    "model_similarity": "analysis.models",
    "nearest": "analysis.matching",
    "noise_ceiling": "analysis.ceiling",
    "open_comparison": "stores.dataset",
    "open_sketches": "sketches.dataset",
    "open_zoo": "stores.zoo",
    "pca": "pairwise",
    "permutation_null": "analysis.significance",
    "plan_comparison": "coarse.compare",
    "pls": "pairwise",
    "projection": "pairwise",
    "query": "analysis.query",
    "register_measure": "measures",
    "search": "sketches.search",
    "sketch": "sketches.make",
    "training_phases": "analysis.dynamics",
    "verify": "run.verify",
    "within_and_between": "analysis.matching",
    "without_extreme": "analysis.significance",
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
