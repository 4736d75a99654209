"""Sketches as people have them: one labelled Dataset of xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_svcca.errors import StoreFormatError
from dask_svcca.sketches.store import COLUMNS, SketchStore
from dask_svcca.stores import _io
from dask_svcca.stores._access import UNREADABLE, accessing
from dask_svcca.stores._documents import SEAL
from dask_svcca.stores._metadata import said
from dask_svcca.stores._urls import with_options
from dask_svcca.variables import SKETCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from dask_svcca.stores._io import StoreLike


def open_sketches(store: StoreLike, *, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open sketches as a lazy, labelled Dataset.

    Parameters
    ----------
    store : path, zarr store, or URL
    storage_options : mapping, optional
        For a URL: see `create_zoo`.

    Returns
    -------
    xarray.Dataset
        ``sketch`` (representation, feature), NaN where there is none; ``norm``, ``problem`` and more of each
        representation, and coordinates ``model``, ``checkpoint``, ``layer``, ``step`` and ``depth``.

    Raises
    ------
    StoreFormatError
        Where there are no sketches, or of another version.

    Examples
    --------
    >>> import tempfile, numpy as np, dask_svcca
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> _ = dask_svcca.sketch({("net", "1", "fc"): x}, folder + "/sketches.zarr", size=64)
    >>> open_sketches(folder + "/sketches.zarr").layer.item()
    'fc'
    """
    import xarray as xr  # noqa: PLC0415 - workers import what makes sketches, and need no xarray

    sketches = SketchStore.open(with_options(store, storage_options))
    root = sketches.root
    try:
        with _io.ignoring_strange_folders(), accessing(root.store_path):
            dataset = xr.open_dataset(
                root.store,  # type: ignore[arg-type]
                group=root.path or None,
                engine="zarr",
                zarr_format=3,
                chunks=None,
                # It is written last: a run that is adding rows has not got that far.
                consolidated=True,
            )
    except UNREADABLE as error:
        raise StoreFormatError(
            f"the sketches {sketches.place!r} cannot be opened ({said(error)}): something in them is missing or "
            f"damaged. Make them anew"
        ) from error
    for attributes in (dataset.attrs, *(one.attrs for one in dataset.variables.values())):
        attributes.pop(SEAL, None)
    dataset.encoding["source"] = root.store_path
    coordinates = [variable.name for variable in COLUMNS if variable.coordinate]
    return dataset[[SKETCH, *(v.name for v in COLUMNS if not v.coordinate)]].assign_coords(
        {name: dataset[name] for name in coordinates}
    )
