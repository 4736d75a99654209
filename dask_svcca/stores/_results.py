"""The arrays along pairs that measures and details have, made before there is any value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.stores._blocks import pair_document
from dask_svcca.stores._columns import write_columns
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import DETAIL_VARIABLES, FREQUENCY_AXES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zarr

    from dask_svcca.measures import Measure
    from dask_svcca.variables import Variable


def create_results(
    root: zarr.Group,
    attributes: Mapping[str, Any],
    *,
    count: int,
    measures: Sequence[Measure],
    asked: Sequence[str],
    details: Mapping[str, tuple[int, ...]],
    settled: Sequence[str],
    sparse: bool,
) -> dict[str, Any]:
    """Create the arrays of measures and details that attributes do not name yet; attributes that then do, if any."""
    versions, parameters, tile = dict(attributes["versions"]), attributes["parameters"], int(attributes["tile"])
    keep = list(parameters["keep"])
    added = [measure for measure in measures if measure.name not in versions]
    for measure in added:
        compressed = sparse or measure.few_values
        create_pairs(root, measure.variable, (), measure.attributes, count=count, tile=tile, compressed=compressed)
    for name, sizes in details.items():
        if name in keep:
            continue
        variable = DETAIL_VARIABLES[name]
        create_pairs(root, variable, sizes, variable.attributes, count=count, tile=tile)
        if name == "frequencies":
            pairs = zip(FREQUENCY_AXES, sizes, strict=True)
            write_columns(root, [(axis, axis.name, np.arange(size) - size // 2) for axis, size in pairs])
    if not added and not set(details) - set(keep):
        return {}
    return {
        "parameters": {**parameters, "measures": list(asked), "keep": sorted({*keep, *details})},
        "versions": versions | {measure.name: measure.version for measure in added},
        "settled": list(settled),
    }


def create_pairs(
    root: zarr.Group,
    variable: Variable,
    sizes: tuple[int, ...],
    attributes: Mapping[str, Any],
    *,
    count: int,
    tile: int,
    compressed: bool = False,
) -> None:
    """Create an array along pairs; one that an interrupted call left is replaced."""
    backend = backend_of(root)
    backend.remove(variable.name)
    document = pair_document(variable, sizes, attributes, count=count, tile=tile, compressed=compressed)
    backend.write(f"{variable.name}/zarr.json", document)
