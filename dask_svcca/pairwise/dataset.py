"""Results as xarray: what all decompositions have in common, and directions, lazy where the array is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr

from dask_svcca.errors import MemoryLimitError
from dask_svcca.machine import available_memory
from dask_svcca.pairwise.arrays import as_floating, chunked_by_example, examples_at_a_time

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.pairwise.arrays import InputArray
    from dask_svcca.pairwise.components import Components
    from dask_svcca.pairwise.layout import Filters


def as_dataset(
    name: str,
    components: Components,
    along_components: dict[str, tuple[FloatArray, str, str]],
    numbers: dict[str, tuple[Any, str]],
) -> xr.Dataset:
    """Components as a Dataset.

    Parameters
    ----------
    name : str
        What the analysis is called.
    components : Components
    along_components : dict of str to (values, description, units)
        Variables along components, beside those that all analyses have.
    numbers : dict of str to (value, description)
        Variables that are single numbers, lazy or not.

    Raises
    ------
    MemoryLimitError
        For results that are larger than the free memory.
    """
    sources = [array.source for array in components.decomposition.arrays]
    filters = [components.forward(index) for index in range(len(sources))]
    count = len(components.order)
    size = sum(
        one.neuron_mean().size + (0 if source.lazy else source.samples)
        for one, source in zip(filters, sources, strict=True)
    )
    check_memory(
        filters[0].dtype.itemsize * size * count,
        f"directions and coefficients of {count} components",
        "components=, or variance=, or another conv=",
    )
    result = xr.Dataset(attrs={"long_name": name, "samples": components.decomposition.samples})
    for key, (values, long_name, units) in along_components.items():
        result[key] = ("component", values, {"long_name": long_name, "units": units})
    for index, one in enumerate(filters):
        result = result.assign(_variables_of_array(components, index, one))
    for key, (value, long_name) in numbers.items():
        result[key] = ((), value, {"long_name": long_name})
    gridded = next((index for index, source in enumerate(sources) if source.reading.grid), None)
    if gridded is not None:
        attrs = {"long_name": "cycles over the whole axis"}
        frequency = (("component", "axis"), components.frequencies(gridded), attrs)
        result = result.assign_coords(axis=list(sources[gridded].spatial_dims), frequency=frequency)
    # Where both arrays label their examples, the labels of x are used.
    return result.assign_coords({key: value for source in reversed(sources) for key, value in source.coords.items()})


def check_memory(need: int, what: str, remedy: str) -> None:
    """Refuse a result that is larger than the free memory.

    Parameters
    ----------
    need : int
        Bytes.
    what, remedy : str
        What takes these bytes, and what to pass so that it takes less.

    Raises
    ------
    MemoryLimitError
    """
    free = available_memory()
    if need > free:
        raise MemoryLimitError(
            f"{what} take {need / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are free; pass {remedy}"
        )


def _variables_of_array(
    components: Components, index: int, filters: Filters
) -> dict[str, tuple[Any, Any, dict[str, str]]]:
    """Variables of one array: named after it where there are two."""
    arrays = components.decomposition.arrays
    source = arrays[index].source
    suffix = f"_{source.name}" if len(arrays) == 2 else ""
    neurons = tuple(f"{dim}{suffix}" for dim in source.coefficient_dims)
    directions = {"long_name": f"directions of {source.name}"}
    coefficients = {"long_name": "from neurons to directions"}
    share = {"long_name": "share of the variance explained", "units": "1"}
    rank = {"long_name": "directions kept, with multiplicities"}
    return {
        f"direction{suffix}": ((*source.sample_dims, "component"), _directions(source, filters), directions),
        f"coefficients{suffix}": ((*neurons, "component"), filters.coefficients(), coefficients),
        f"explained_variance{suffix}": ("component", components.explained(index), share),
        f"mean{suffix}": (neurons, filters.neuron_mean(), {"long_name": "mean of a neuron"}),
        f"rank{suffix}": ((), arrays[index].rank, rank),
    }


def _directions(source: InputArray, filters: Filters) -> Any:
    """Directions of all examples: lazy for a Dask array, computed for any other."""
    count = len(filters.order)
    sizes = source.reading.sizes if source.reading.positions_as == "samples" else ()
    if not source.lazy:
        directions = np.empty((source.examples, *sizes, count), dtype=filters.dtype)
        size = examples_at_a_time([source])
        for start in range(0, source.examples, size):
            chunk = slice(start, start + size)
            directions[chunk] = _apply(source.values[chunk], filters)
        return directions
    values = chunked_by_example(source.values, source.values.chunks[0])
    chunks = (values.chunks[0], *((size,) for size in sizes), (count,))
    return values.map_blocks(
        _apply,
        # A delayed value stands in the graph once, not once a chunk.
        filters=dask.delayed(filters),
        dtype=filters.dtype,
        chunks=chunks,
        drop_axis=list(range(1, values.ndim)),
        new_axis=list(range(1, len(chunks))),
        meta=np.empty((0,) * len(chunks), dtype=filters.dtype),
    )


def _apply(values: npt.NDArray[Any], filters: Filters) -> InexactArray:
    return filters(as_floating(values))
