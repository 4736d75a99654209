"""The arrays of a comparison as they are stored, compared with their declarations before a value is read.

A seal says that a document is what was written, and not that this package wrote it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import DamagedStoreError
from dask_svcca.stores._documents import parsed
from dask_svcca.stores._metadata import check_variable
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import (
    DETAIL_VARIABLES,
    ESTIMATE_VARIABLES,
    FREQUENCY_AXES,
    PAIR_STATUS,
    REPRESENTATION_VARIABLES,
    Variable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import zarr

COLUMN_CHUNK = 4096
"""Representations in a chunk of a column: few files, each written at once."""

_COLUMNS = {f"{variable.name}{side}": variable for variable in REPRESENTATION_VARIABLES for side in ("_a", "_b")}
_AXES = {variable.name: variable for variable in FREQUENCY_AXES}
_PAIRS = (PAIR_STATUS, *DETAIL_VARIABLES.values(), *ESTIMATE_VARIABLES)
_DECLARED = {**_COLUMNS, **_AXES, **{variable.name: variable for variable in _PAIRS}}

ESTIMATED = "estimated"
"""Attribute of a comparison that has estimates."""


def pair_names(root: zarr.Group) -> list[str]:
    """Names of all arrays along pairs that a comparison says it has, the status first."""
    attributes: dict[str, Any] = dict(root.attrs)
    details = [DETAIL_VARIABLES[name].name for name in attributes["parameters"]["keep"]]
    estimates = [variable.name for variable in ESTIMATE_VARIABLES] if attributes.get(ESTIMATED) else []
    return [PAIR_STATUS.name, *attributes["versions"], *details, *estimates]


def column_names(root: zarr.Group) -> list[str]:
    """Names of all arrays along one axis."""
    axes = _AXES if DETAIL_VARIABLES["frequencies"].name in pair_names(root) else ()
    return [*_COLUMNS, *axes]


def check_stored(document: Mapping[str, Any], name: str, root: zarr.Group, tile: int | None = None) -> None:
    """Refuse an array of a comparison that is not stored as it is declared.

    Parameters
    ----------
    document : mapping
        Its metadata.
    name : str
        Any that is not declared is taken for a measure.
    root : zarr.Group
    tile : int, optional
        Of a copy that waits to take the place of the array; by default that of the comparison.

    Raises
    ------
    DamagedStoreError
    """
    tile = tile or int(root.attrs["tile"])  # type: ignore[arg-type]
    variable = _DECLARED.get(name.rpartition("/")[2]) or Variable(name, "pair", "float64", math.nan, "")
    try:
        check_variable(document, name, variable, (tile, tile) if variable.kind == "pair" else (COLUMN_CHUNK,))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DamagedStoreError(
            f"the comparison {str(root.store_path)!r} is not what was written: {error}. Restore it from a copy, or "
            f"compare into another store",
            f"{name}/zarr.json",
        ) from None


def stored(document: bytes | None, name: str, root: zarr.Group, tile: int | None = None) -> dict[str, Any] | None:
    """Metadata of an array of a comparison; None where it is missing or damaged. See `check_stored` for errors."""
    found = parsed(document)
    if found is not None:
        check_stored(found, name, root, tile)
    return found


def check_all_stored(root: zarr.Group) -> dict[str, dict[str, Any]]:
    """Metadata of all arrays of a comparison, by name, read together.

    Raises
    ------
    DamagedStoreError
        Where any is missing, damaged, or not as it is declared.
    """
    names = [*pair_names(root), *column_names(root)]
    documents = backend_of(root).read_many([f"{name}/zarr.json" for name in names])
    found = {}
    for name, document in zip(names, documents, strict=True):
        read = stored(document, name, root)
        if read is None:
            raise damaged(root, f"{name}/zarr.json")
        found[name] = read
    return found


def damaged(root: zarr.Group, key: str) -> DamagedStoreError:
    """Error for a file of a comparison."""
    place = str(root.store_path).removeprefix("file://")
    return DamagedStoreError(
        f"the file {key!r} of the comparison {place!r} is missing, or is not what was written. Mark what is damaged as "
        f"missing with dask-svcca verify {place} --repair, and compare again: it is made anew",
        key,
    )


def lost(root: zarr.Group, key: str, other: str) -> DamagedStoreError:
    """Error for a file of a comparison that is damaged, and so is the other that has the same: no repair finds it."""
    place = str(root.store_path).removeprefix("file://")
    return DamagedStoreError(
        f"the files {key!r} and {other!r} of the comparison {place!r} are missing, or are not what was written, and "
        f"nothing else has what was in them. Compare into another store",
        key,
    )
