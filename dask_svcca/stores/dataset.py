"""The comparison as people have it: one labelled Dataset of xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_svcca.errors import DamagedStoreError, StoreFormatError
from dask_svcca.stores import _io
from dask_svcca.stores._access import UNREADABLE, accessing
from dask_svcca.stores._checked import CheckedStore
from dask_svcca.stores._documents import SEAL
from dask_svcca.stores._metadata import said
from dask_svcca.stores._rechunk import check_rechunked
from dask_svcca.stores._stored import check_all_stored
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.comparison import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from dask_svcca.stores._io import StoreLike


def open_comparison(store: StoreLike, *, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open a comparison as a lazy, labelled Dataset.

    Parameters
    ----------
    store : path, zarr store, or URL
    storage_options : mapping, optional
        For a URL: see `create_zoo`.

    Returns
    -------
    xarray.Dataset
        Dims ``representation_a``, ``representation_b``; one variable per measure, ``pair_status``, and coordinates
        ``model_a``, ``checkpoint_a``, ``layer_a``, ``step_a``, ``depth_a`` and the same for b. Values are read when
        they are used.

    Raises
    ------
    StoreFormatError
        Where there is no comparison, or one of another version, or one to which a run is adding representations or was
        interrupted while it did.
    """
    import xarray as xr  # noqa: PLC0415 - a worker and `dask-svcca info` import this module, and need no xarray

    store = with_options(store, storage_options)
    root = _io.open_root(store, mode="r", kind="comparison", version=FORMAT_VERSION)
    check_rechunked(root)
    documents = check_all_stored(root)
    try:
        with _io.ignoring_strange_folders(), accessing(root.store_path):
            dataset = xr.open_dataset(
                CheckedStore(root.store, root, documents),  # type: ignore[arg-type]
                group=root.path or None,
                engine="zarr",
                zarr_format=3,
                chunks=None,
                consolidated=False,
            )
    except DamagedStoreError:
        raise
    except UNREADABLE as error:
        if "conflicting sizes" not in str(error):
            raise StoreFormatError(
                f"the comparison {str(root.store_path)!r} cannot be opened ({said(error)}): something in it is missing "
                f"or damaged, or not of this package. 'dask-svcca verify' names it"
            ) from error
        raise StoreFormatError(
            f"the comparison {str(root.store_path)!r} has variables for different numbers of representations: a run "
            f"is adding some, or was interrupted while it did. Wait for it, or compare again; what is finished is kept"
        ) from None
    for attributes in (dataset.attrs, *(one.attrs for one in dataset.variables.values())):
        attributes.pop(SEAL, None)
    dataset.encoding["source"] = root.store_path
    return dataset


def parameters_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Parameters that a comparison was made with; none for a Dataset that was computed from one without them."""
    return dict(dataset.attrs.get("parameters", {}))


def store_of(comparison: xr.Dataset | StoreLike) -> StoreLike:
    """Store that a Dataset was opened from; anything else is a store already, and is returned as it is.

    Raises
    ------
    StoreFormatError
        For a Dataset that does not say where it was opened from.
    """
    import xarray as xr  # noqa: PLC0415 - see `open_comparison`

    if not isinstance(comparison, xr.Dataset):
        return comparison
    source: Any = comparison.encoding.get("source")
    if source is None:
        raise StoreFormatError(
            "this Dataset does not say which comparison it was opened from: it may have been computed from another. "
            "Pass what open_comparison or compare returned, or the path of the comparison"
        )
    return source  # type: ignore[no-any-return]
