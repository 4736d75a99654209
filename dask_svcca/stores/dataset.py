"""The comparison as people have it: one labelled Dataset of xarray."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dask_svcca.errors import DamagedStoreError, StoreFormatError
from dask_svcca.stores import _io
from dask_svcca.stores._access import UNREADABLE, accessing
from dask_svcca.stores._documents import SEAL
from dask_svcca.stores._metadata import said
from dask_svcca.stores._rechunk import check_rechunked
from dask_svcca.stores._stored import check_all_stored
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.comparison import FORMAT_VERSION
from dask_svcca.variables import FREQUENCY_AXES, REPRESENTATION_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        they are used. One index over all coordinates of a side selects by several of them together:
        ``result.svcca.sel(model_a="net", step_a=630, layer_b="conv*")``, with names, patterns, lists, and slices of
        steps. A side keeps its dimension unless a representation is named: by its label, or by model, layer, and
        checkpoint or step. Attributes are text and numbers, so that netCDF takes them: what is nested is JSON, such
        as ``parameters``.

    Raises
    ------
    StoreFormatError
        Where there is no comparison, or one of another version, or one to which a run is adding representations or was
        interrupted while it did.
    """
    from dask_svcca.stores._lazy import variables_of  # noqa: PLC0415 - see `_indexed`
    from dask_svcca.stores.side_index import COORDINATES  # noqa: PLC0415

    store = with_options(store, storage_options)
    root = _io.open_root(store, mode="r", kind="comparison", version=FORMAT_VERSION)
    check_rechunked(root)
    documents = check_all_stored(root)
    # An index outlives the call: read later, it would be that of a comparison that has changed meanwhile.
    indexed = {f"{name}{side}" for name in ("representation", *COORDINATES) for side in ("_a", "_b")}
    try:
        with accessing(root.store_path):
            dataset = _indexed(variables_of(root, documents, at_once=indexed), dict(root.attrs))
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
        _make_plain(attributes)
    dataset.encoding["source"] = root.store_path
    return dataset


def parameters_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Parameters that a comparison was made with; none for a Dataset that was computed from one without them."""
    parameters = dataset.attrs.get("parameters", {})
    # As xarray alone reads them from the store, they are not text.
    return dict(json.loads(parameters) if isinstance(parameters, str) else parameters)


def _indexed(given: Mapping[str, xr.Variable], attributes: Mapping[str, Any]) -> xr.Dataset:
    """A Dataset with an index over all coordinates of each side."""
    # A worker and `dask-svcca info` import this module, and need no xarray.
    import numpy as np  # noqa: PLC0415
    import xarray as xr  # noqa: PLC0415

    from dask_svcca.stores._derived import derived_variables  # noqa: PLC0415
    from dask_svcca.stores.side_index import COORDINATES, SideIndex  # noqa: PLC0415

    asked = attributes["parameters"].get("measures", ())
    variables: dict[Any, xr.Variable] = {name: given[name] for name in sorted(given, key=partial(_place, asked))}
    variables |= derived_variables(variables, attributes["n_examples"])
    coords: dict[Any, Any] = {name: variables.pop(name) for name in list(variables) if name in _COORDINATES}
    first, second = "representation_a", "representation_b"
    same = np.array_equal(given[first].to_numpy(), given[second].to_numpy())
    labels = xr.indexes.PandasIndex.from_variables({first: coords[first]}, options={})
    indexes: dict[Any, xr.Index] = {}
    # One by one, they would be checked against each other each time.
    for dim in (first, second):
        if dim == second and same:
            labels = xr.indexes.PandasIndex(labels.index.rename(second), second, coord_dtype=labels.coord_dtype)
        elif dim == second:
            labels = xr.indexes.PandasIndex.from_variables({second: coords[second]}, options={})
        names = [f"{name}{dim[-2:]}" for name in COORDINATES]
        side = SideIndex.from_variables({name: coords[name] for name in names}, options={})
        for index, own in ((labels, [dim]), (side, names)):
            coords |= index.create_variables({name: coords[name] for name in own})
            indexes |= dict.fromkeys(own, index)
    # They name the coordinates, for whoever opens it otherwise.
    shown = {name: value for name, value in attributes.items() if name != "coordinates"}
    return xr.Dataset(variables, coords=xr.Coordinates(coords, indexes), attrs=shown)


_COORDINATES = {
    *(f"{one.name}{side}" for one in REPRESENTATION_VARIABLES if one.coordinate for side in ("_a", "_b")),
    *(axis.name for axis in FREQUENCY_AXES),
}
_KINDS = [one.name for one in REPRESENTATION_VARIABLES]


def _place(asked: Sequence[str], name: str) -> tuple[Any, ...]:
    """Where a variable stands: measures that were asked for, what else pairs have, then each side."""
    base, _, side = name.rpartition("_")
    if base in _KINDS and side in ("a", "b"):
        return (1, side, _KINDS.index(base)) if name in _COORDINATES else (2, _KINDS.index(base), side)
    return (0, asked.index(name) if name in asked else len(asked), name)


def as_opened(dataset: xr.Dataset) -> xr.Dataset:
    """A comparison that xarray alone opened, with what `open_comparison` makes of what is stored."""
    from dask_svcca.stores._derived import derived_variables  # noqa: PLC0415 - see `_indexed`
    from dask_svcca.stores._texts import fixed_width  # noqa: PLC0415

    texts = {
        name: fixed_width(variable)
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "TO" and name not in dataset.dims
    }
    if not texts:
        return dataset
    coords = {name: texts.pop(name) for name in list(texts) if name in dataset.coords}
    # Attributes may be gone with what was done to it.
    derived = derived_variables(dataset.variables, dataset.attrs.get("n_examples", math.inf))
    found = dataset.assign_coords(coords).assign(texts).assign(derived)
    for attributes in (found.attrs, *(one.attrs for one in found.variables.values())):
        attributes.pop(SEAL, None)
        _make_plain(attributes)
    return found


OPEN_ENDS: Final = (-math.inf, math.inf)


def _make_plain(attributes: dict[str, Any]) -> None:
    """Have attributes be text, and numbers or lists of them; what is nested, and lists of text, are JSON."""
    for name, value in attributes.items():
        if isinstance(value, bool):
            attributes[name] = int(value)
        elif name == "valid_range":
            attributes[name] = [end if bound is None else bound for bound, end in zip(value, OPEN_ENDS, strict=True)]
        elif isinstance(value, dict | list) and not (value and all(isinstance(one, int | float) for one in value)):
            attributes[name] = json.dumps(value)
        elif value is None:
            attributes[name] = ""


def store_of(comparison: xr.Dataset | StoreLike) -> StoreLike:
    """Store that a Dataset was opened from; anything else is a store already, and is returned as it is.

    Raises
    ------
    StoreFormatError
        For a Dataset that does not say where it was opened from.
    """
    import xarray as xr  # noqa: PLC0415 - see `_indexed`

    if not isinstance(comparison, xr.Dataset):
        return comparison
    source: Any = comparison.encoding.get("source")
    if source is None:
        raise StoreFormatError(
            "this Dataset does not say which comparison it was opened from: it may have been computed from another. "
            "Pass what open_comparison or compare returned, or the path of the comparison"
        )
    return source  # type: ignore[no-any-return]
