"""The arrays of a comparison as they are stored, compared with their declarations before a value is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import StoreFormatError
from dask_svcca.stores._io import open_array
from dask_svcca.stores._metadata import MOST_ROWS, check_variable, parse, read_whole
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import DETAIL_VARIABLES, FREQUENCY_AXES, PAIR_STATUS, REPRESENTATION_VARIABLES, Variable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import zarr

COLUMN_CHUNK = 4096
"""Representations in a chunk of a column: few files, each written at once."""

_COLUMNS = {f"{variable.name}{side}": variable for variable in REPRESENTATION_VARIABLES for side in ("_a", "_b")}
_AXES = {variable.name: variable for variable in FREQUENCY_AXES}
_DECLARED = {**_COLUMNS, **_AXES, **{variable.name: variable for variable in (PAIR_STATUS, *DETAIL_VARIABLES.values())}}


def pair_variables(attributes: Mapping[str, Any]) -> list[str]:
    """Names of the variables along pairs that a comparison says it has: status, measures, details."""
    details = [DETAIL_VARIABLES[name].name for name in attributes["parameters"]["keep"]]
    return [PAIR_STATUS.name, *attributes["versions"], *details]


def stored_names(root: zarr.Group) -> tuple[list[str], list[str]]:
    """Names of all variables that a comparison says it has: those along pairs, the status first, and all others."""
    attributes: dict[str, Any] = dict(root.attrs)
    axes = list(_AXES) if "frequencies" in attributes["parameters"]["keep"] else []
    return pair_variables(attributes), [*_COLUMNS, *axes]


def check_stored(document: Mapping[str, Any], name: str, root: zarr.Group) -> None:
    """Refuse an array of a comparison that is not stored as it is declared.

    Parameters
    ----------
    document : mapping
        Its metadata.
    name : str
        Any that is not declared is taken for a measure.
    root : zarr.Group

    Raises
    ------
    StoreFormatError
    """
    tile = int(root.attrs["tile"])  # type: ignore[arg-type]
    variable = _DECLARED.get(name) or Variable(name, "pair", "float64", math.nan, "")
    try:
        check_variable(document, name, variable, (tile, tile) if variable.kind == "pair" else (COLUMN_CHUNK,))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise StoreFormatError(
            f"the comparison {str(root.store_path)!r} is not what was written: {error}. Restore it from a copy, or "
            f"compare into another store"
        ) from None


def check_all_stored(root: zarr.Group) -> None:
    """Refuse a comparison of which any array is missing, or is not stored as it is declared; read all at once."""
    pairs, columns = stored_names(root)
    names = [*pairs, *columns]
    documents = backend_of(root).read_many([f"{name}/zarr.json" for name in names])
    for name, document in zip(names, documents, strict=True):
        try:
            stored = parse(document or b"")
        except ValueError as error:
            raise StoreFormatError(
                f"the comparison {str(root.store_path)!r} is not what was written: the metadata of {name!r} cannot be "
                f"read ({error}). Restore it from a copy, or compare into another store"
            ) from None
        check_stored(stored, name, root)


def mend_columns(root: zarr.Group) -> None:
    """Write what is missing or cannot be read of a column anew, from its equal along the other axis.

    As a rule bytes are compared, all at once, and nothing is decoded.
    """
    backend = backend_of(root)
    documents = backend.read_many([f"{name}/zarr.json" for name in _COLUMNS])
    keys: list[tuple[str, str]] = []
    for name, document in zip(_COLUMNS, documents, strict=True):
        if name.endswith("_a") and document is not None:
            length = _length(document)
            keys += [(name, f"c/{chunk}") for chunk in range(-(-length // COLUMN_CHUNK))]
    twins = [(f"{name}/{key}", f"{name[:-2]}_b/{key}") for name, key in keys]
    found = backend.read_many([key for pair in twins for key in pair])
    for (name, _), pair, one, other in zip(keys, twins, found[::2], found[1::2], strict=True):
        if one == other:
            continue
        if one is None or not _readable(root, name):
            if other is not None:
                backend.write(pair[0], other)
        elif other is None or not _readable(root, f"{name[:-2]}_b"):
            backend.write(pair[1], one)


def _length(document: bytes) -> int:
    """Length of a column, as its metadata says; none where that is damaged."""
    try:
        (length,) = parse(document)["shape"]
        return int(length) if 0 <= length <= MOST_ROWS else 0
    except (KeyError, TypeError, ValueError):
        return 0


def _readable(root: zarr.Group, name: str) -> bool:
    try:
        read_whole(open_array(root, name), name, root.store_path)
    except StoreFormatError:
        return False
    return True
