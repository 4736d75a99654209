"""The arrays of a comparison as they are stored, compared with their declarations before a value is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dask_svcca.errors import StoreFormatError
from dask_svcca.stores._io import read_whole
from dask_svcca.stores._metadata import MOST_ROWS, check_texts, check_variable, parse, reading
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
    backend = backend_of(root)
    documents = backend.read_many([f"{name}/zarr.json" for name in names])
    texts: list[tuple[str, list[dict[str, Any]], str]] = []
    for name, document in zip(names, documents, strict=True):
        try:
            stored = parse(document or b"")
        except ValueError as error:
            raise StoreFormatError(
                f"the comparison {str(root.store_path)!r} is not what was written: the metadata of {name!r} cannot be "
                f"read ({error}). Restore it from a copy, or compare into another store"
            ) from None
        check_stored(stored, name, root)
        if stored["data_type"] == "string":
            texts += [(name, stored["codecs"], key) for key in _chunk_keys(name, stored["shape"][0])]
    for (name, codecs, _), chunk in zip(texts, backend.read_many([key for *_, key in texts]), strict=True):
        with reading(name, root.store_path):
            if chunk is not None:
                check_texts(codecs, chunk)


def _chunk_keys(name: str, length: int) -> list[str]:
    return [f"{name}/c/{chunk}" for chunk in range(-(-length // COLUMN_CHUNK))]


def mend_columns(root: zarr.Group) -> None:
    """Write what is missing or cannot be read of a column anew, from its equal along the other axis.

    As a rule bytes are compared, all at once, and nothing is decoded.
    """
    backend = backend_of(root)
    documents = backend.read_many([f"{name}/zarr.json" for name in _COLUMNS])
    names: list[str] = []
    twins: list[tuple[str, str]] = []
    for name, document in zip(_COLUMNS, documents, strict=True):
        if name.endswith("_a") and document is not None:
            twin, length = f"{name[:-2]}_b", _length(document)
            names += [name] * -(-length // COLUMN_CHUNK)
            twins += zip(_chunk_keys(name, length), _chunk_keys(twin, length), strict=True)
    found = backend.read_many([key for pair in twins for key in pair])
    for name, pair, one, other in zip(names, twins, found[::2], found[1::2], strict=True):
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
        read_whole(root, name)
    except StoreFormatError:
        return False
    return True
