"""Variables of a comparison along its representations: each twice, once for either axis."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.stores._blocks import AXES
from dask_svcca.stores._documents import array_document, is_whole
from dask_svcca.stores._packed import decompressed, packed, unpacked
from dask_svcca.stores._stored import COLUMN_CHUNK, damaged, lost, stored
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.variables import Variable


def column_name(variable: Variable, axis: str) -> str:
    """Name of a variable along an axis."""
    return variable.name + (axis[-2:] if variable.kind == "representation" else "")


def write_columns(root: zarr.Group, columns: Sequence[tuple[Variable, str, npt.NDArray[Any]]]) -> None:
    """Write whole columns, together; at no time is what was known missing.

    Parameters
    ----------
    root : zarr.Group
    columns : sequence of (Variable, str, array)
        With the axis of each.
    """
    write_values(root, columns)
    backend_of(root).write_many(
        (f"{column_name(variable, axis)}/zarr.json", (_document(variable, axis, len(values)),))
        for variable, axis, values in columns
    )


def write_values(root: zarr.Group, columns: Sequence[tuple[Variable, str, npt.NDArray[Any]]]) -> None:
    """Write values of whole columns that are as long as before, so that their metadata stays."""
    # Both axes have the same values.
    encoded: dict[tuple[str, int, int], tuple[bytes, bytes]] = {}

    def items() -> Iterator[tuple[str, tuple[bytes, bytes]]]:
        for variable, axis, values in columns:
            for start in range(0, len(values), COLUMN_CHUNK):
                known = (variable.name, id(values), start)
                if known not in encoded:
                    encoded[known] = _encoded(variable, values[start:][:COLUMN_CHUNK])
                yield f"{column_name(variable, axis)}/c/{start // COLUMN_CHUNK}", encoded[known]

    backend_of(root).write_many(items())


def write_in_order(root: zarr.Group, columns: Sequence[tuple[Variable, str, npt.NDArray[Any]]]) -> None:
    """Write whole columns as `write_columns` does, those last that say of which representations the others are.

    The labels of the first axis come last of all: they say how many representations are known. The digests come just
    before: what is known of other activations must not stand beside them.
    """
    write_columns(root, [one for one in columns if not _identifies(one[0])])
    for one in sorted((one for one in columns if _identifies(one[0])), key=_order):
        write_columns(root, [one])


def _identifies(variable: Variable) -> int:
    return ("digest", "representation").index(variable.name) + 1 if variable.name in {"digest", "representation"} else 0


def _order(column: tuple[Variable, str, npt.NDArray[Any]]) -> tuple[int, bool]:
    variable, axis, _ = column
    return _identifies(variable), axis == AXES[0]


@lru_cache(maxsize=1024)
def _document(variable: Variable, axis: str, count: int) -> bytes:
    return array_document(
        shape=(count,),
        chunk_shape=(COLUMN_CHUNK,),
        dtype=variable.dtype,
        fill=variable.fill,
        dims=(axis,),
        compression="zstd",
        attributes=variable.attributes,
    )


def _encoded(variable: Variable, values: npt.NDArray[Any]) -> tuple[bytes, bytes]:
    text = variable.dtype == "string"
    whole = np.full(COLUMN_CHUNK, variable.fill, dtype=object if text else variable.dtype)
    whole[: len(values)] = values
    return packed(whole)


def read_columns(root: zarr.Group, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Values of variables along the representations, by name without axis; what one axis lost, the other has.

    Raises
    ------
    DamagedStoreError
        Where both have lost it.
    """
    backend = backend_of(root)
    documents = backend.read_many([f"{name}{axis[-2:]}/zarr.json" for name in names for axis in AXES])
    own = {}
    for number, name in enumerate(names):
        pair = zip(AXES, documents[2 * number : 2 * number + 2], strict=True)
        found = (stored(document, f"{name}{axis[-2:]}", root) for axis, document in pair)
        document = next((one for one in found if one is not None), None)
        if document is None:
            raise lost(root, f"{name}_a/zarr.json", f"{name}_b/zarr.json")
        own[name] = document
    keys = [f"{name}_a/c/{part}" for name in names for part in range(-(-own[name]["shape"][0] // COLUMN_CHUNK))]
    chunks = dict(zip(keys, backend.read_many(keys), strict=True))
    return {name: _decoded(root, name, own[name], chunks) for name in names}


def read_each(root: zarr.Group, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Values of variables along either axis, each from its own file.

    Parameters
    ----------
    root : zarr.Group
    documents : mapping of str to mapping
        Their metadata, by name with its axis.

    Raises
    ------
    DamagedStoreError
        Where one is damaged, whatever the other axis has.
    """
    keys = {
        name: [f"{name}/c/{part}" for part in range(-(-one["shape"][0] // COLUMN_CHUNK))]
        for name, one in documents.items()
    }
    wanted = [key for some in keys.values() for key in some]
    chunks = dict(zip(wanted, backend_of(root).read_many(wanted), strict=True))
    # Both axes have the same values, mostly.
    known: dict[tuple[str, bytes | None], npt.NDArray[Any]] = {}
    found = {}
    for name, one in documents.items():
        dtype = one["data_type"]
        parts = [np.empty(0, object if dtype == "string" else dtype)]
        for key in keys[name]:
            place = (dtype, chunks[key])
            if place not in known:
                known[place] = _values(root, key, chunks[key], dtype)
            parts.append(known[place])
        found[name] = np.concatenate(parts)[: one["shape"][0]]
    return found


def _decoded(
    root: zarr.Group, name: str, document: Mapping[str, Any], chunks: Mapping[str, bytes | None]
) -> npt.NDArray[Any]:
    (count,) = document["shape"]
    text = document["data_type"] == "string"
    parts = [np.empty(0, object if text else document["data_type"])]
    for number in range(-(-count // COLUMN_CHUNK)):
        whole = chunks[f"{name}_a/c/{number}"]
        if whole is None or not is_whole(whole):
            (whole,) = backend_of(root).read_many([f"{name}_b/c/{number}"])
            if whole is None or not is_whole(whole):
                raise lost(root, f"{name}_a/c/{number}", f"{name}_b/c/{number}")
        parts.append(_values(root, f"{name}_a/c/{number}", whole, document["data_type"]))
    return np.concatenate(parts)[:count]


def _values(root: zarr.Group, key: str, whole: bytes | None, dtype: str) -> npt.NDArray[Any]:
    """Values of a chunk as `_encoded` wrote it."""
    try:
        values = unpacked(whole, dtype)
    except ValueError as error:
        raise damaged(root, key) from error
    if len(values) != COLUMN_CHUNK:
        raise damaged(root, key)
    return values


def chunks_with(root: zarr.Group, name: str, text: str, count: int) -> Iterator[int]:
    """Chunks of a column of texts that may hold one, without reading the texts: decoding takes ten times as long.

    Raises
    ------
    DamagedStoreError
    """
    # A text is stored behind its length.
    data = text.encode()
    wanted = len(data).to_bytes(4, "little") + data
    for number in range(-(-count // COLUMN_CHUNK)):
        key = f"{name}/c/{number}"
        (whole,) = backend_of(root).read_many([key])
        try:
            there = wanted in decompressed(whole)
        except ValueError as error:
            raise damaged(root, key) from error
        if there:
            yield number


def values_at(root: zarr.Group, variable: Variable, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Values of some rows of a column that has one axis, without opening it: zarr takes ten times as long for a chunk.

    Raises
    ------
    DamagedStoreError
    """
    found = np.empty(len(rows), dtype=object if variable.dtype == "string" else variable.dtype)
    chunks = rows // COLUMN_CHUNK
    numbers = np.unique(chunks).tolist()
    keys = [f"{variable.name}/c/{number}" for number in numbers]
    for number, key, whole in zip(numbers, keys, backend_of(root).read_many(keys), strict=True):
        here = chunks == number
        found[here] = _values(root, key, whole, variable.dtype)[rows[here] - number * COLUMN_CHUNK]
    return found


def mend_columns(root: zarr.Group, variables: Sequence[Variable]) -> None:
    """Write anew what is damaged of the columns of either axis, from those of the other.

    Raises
    ------
    DamagedStoreError
        Where both are damaged.
    """
    backend = backend_of(root)
    names = [column_name(variable, axis) for variable in variables for axis in AXES]
    read = backend.read_many([f"{name}/zarr.json" for name in names])
    documents = [stored(document, name, root) for name, document in zip(names, read, strict=True)]
    wanted: list[str] = []
    for number, variable in enumerate(variables):
        pair = documents[2 * number : 2 * number + 2]
        counts = [one["shape"][0] for one in pair if one is not None]
        if not counts:
            raise lost(root, *(f"{name}/zarr.json" for name in names[2 * number : 2 * number + 2]))
        for axis, one in zip(AXES, pair, strict=True):
            if one is None:
                backend.write(f"{column_name(variable, axis)}/zarr.json", _document(variable, axis, min(counts)))
        wanted += [f"{variable.name}_{{}}/c/{part}" for part in range(-(-min(counts) // COLUMN_CHUNK))]
    chunks = backend.read_many([key.format(side) for key in wanted for side in "ab"])
    for number, key in enumerate(wanted):
        a, b = chunks[2 * number : 2 * number + 2]
        whole_a, whole_b = (one is not None and is_whole(one) for one in (a, b))
        if not whole_a and not whole_b:
            raise lost(root, *map(key.format, "ab"))
        if a is not None and whole_a and not whole_b:
            backend.write(key.format("b"), a)
        elif b is not None and whole_b and not whole_a:
            backend.write(key.format("a"), b)
