"""A representation as people read it: lazy, with the labels of its examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from dask_svcca.dims import EXAMPLE, TOKEN
from dask_svcca.errors import UnreadableActivationsError
from dask_svcca.stores import _nodes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import zarr

    from dask_svcca.stores.zoo.index import Representation


def labelled(root: zarr.Group, item: Representation, coords: Mapping[str, npt.NDArray[Any]]) -> xr.DataArray:
    """Activations of a representation: a Dask array under xarray labels.

    Parameters
    ----------
    root : zarr.Group
        Of the zoo.
    item : Representation
    coords : mapping of str to (example,) or (example, token) array
        Coordinates of the zoo; those of another number of tokens are left out.
    """
    import dask.array  # noqa: PLC0415 - a worker imports this module, and needs no Dask

    array = _nodes.open_array(root, f"{item.place}/activations")
    if array.shape != item.shape:
        raise UnreadableActivationsError(
            f"{item.label!r} cannot be read: its array has the shape {array.shape}, and its attributes say {item.shape}"
        )
    # Whoever takes these values further, to another zoo or to `cca`, takes their precision along.
    source = None if item.source_dtype == item.dtype.name else item.source_dtype
    sizes = dict(zip(item.dims, item.shape, strict=True))
    return xr.DataArray(
        dask.array.from_zarr(array, inline_array=True),
        dims=item.dims,
        coords={
            coordinate: ((EXAMPLE, TOKEN)[: values.ndim], values)
            for coordinate, values in coords.items()
            if values.ndim == 1 or values.shape[1] == sizes.get(TOKEN)
        },
        name="activations",
        attrs={
            key: value
            for key, value in {
                **item.name._asdict(),
                "step": item.step,
                "depth": item.depth,
                "source_dtype": source,
                "parent": item.parent or None,
            }.items()
            if value is not None
        },
    )
