"""An index over sketches, for more of them than can be looked through: a graph of neighbours, by usearch."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from dask_svcca import machine
from dask_svcca.errors import IncompatibleError, MissingPackageError, ParametersChangedError, StoreFormatError
from dask_svcca.sketches.identity import IDENTITY
from dask_svcca.sketches.opened import made, numbers_of, opened
from dask_svcca.sketches.store import SketchStore
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.backend import backend_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy.typing as npt

    from dask_svcca.sketches.opened import Opened
    from dask_svcca.stores._io import StoreLike

INDEXED: Final = 1024
"""Numbers of a sketch that the graph is made by, a byte each: the first ones, which are a coarser sketch."""

ADDED_AT_ONCE: Final = 8192
"""Rows that are read and added together."""

LOOKED_AT: Final = 512
"""Rows that the graph finds, at least: their whole sketches are read, and say which are the nearest."""

GRAPH: Final = "graph.usearch"
ABOUT: Final = "about.json"
FORMAT: Final = "dask-svcca-sketch-index-1"


def index_sketches(
    sketches: StoreLike, folder: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> None:
    """Make an index of sketches, by which `search` finds the nearest of ten million as fast as of a thousand.

    It takes about 1.4 KB of disk a layer, and is read through memory maps. Below a million layers a search without it
    is as fast, and misses none. Needs the extra ``index`` (usearch).

    Parameters
    ----------
    sketches : path, zarr store, or URL
        From `sketch`. After it has grown, make the index anew, in another place.
    folder : path
        A new folder for the index.
    storage_options : mapping, optional
        For a URL: see `create_zoo`.

    Raises
    ------
    MissingPackageError
        Where usearch is not installed.
    StoreFormatError
        Where there is something at that place already.
    """
    index = _usearch()
    source, place = _of_store(opened(with_options(sketches, storage_options))), Path(folder)
    if place.exists():
        raise StoreFormatError(f"there is already something at {str(place)!r}; choose another folder for the index")
    rows = np.flatnonzero(made(source))
    wide = min(INDEXED, source.family.size)
    graph = index.Index(ndim=wide, metric="cos", dtype="i8")
    for start in range(0, len(rows), ADDED_AT_ONCE):
        some = rows[start : start + ADDED_AT_ONCE]
        graph.add(some.astype(np.uint64), numbers_of(source, some)[:, :wide], threads=machine.cores())
    partial = place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        graph.save(str(partial / GRAPH))
        about = {"format": FORMAT, "numbers": wide, "rows": len(rows), "made": _made(source)}
        about |= {name: source.attributes.get(name) for name in IDENTITY}
        (partial / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        partial.rename(place)
    finally:
        if partial.exists():
            for file in partial.iterdir():
                file.unlink()
            partial.rmdir()


def found_by_index(
    source: Opened, folder: str | os.PathLike[str], numbers: npt.NDArray[np.float32], count: int
) -> npt.NDArray[np.intp]:
    """Rows that an index finds near some numbers, at least `LOOKED_AT`, where there are as many.

    Raises
    ------
    StoreFormatError
        Where there is no index, or it is damaged.
    ParametersChangedError
        Where it is of other sketches, or of fewer.
    """
    index, place = _usearch(), Path(folder)
    source, about = _of_store(source), _about(place)
    for name in IDENTITY:
        if about.get(name) != source.attributes.get(name):
            raise ParametersChangedError(
                f"the index {str(place)!r} is of sketches with {name}={about.get(name)!r}, those in {source.place!r} "
                f"have {source.attributes.get(name)!r}. Give the index of these, or make it with index_sketches "
                f"(dask-svcca sketch --index)"
            )
    if about["made"] != _made(source):
        raise ParametersChangedError(
            f"the sketches {source.place!r} have changed since the index {str(place)!r} was made of {about['rows']:,} "
            f"of them. Make it anew in another place, with index_sketches (dask-svcca sketch --index)"
        )
    try:
        graph = index.Index.restore(str(place / GRAPH), view=True)
        whole = (graph.ndim, len(graph)) == (about["numbers"], about["rows"])
    except (AttributeError, OSError, RuntimeError, ValueError):
        whole = False
    if not whole:
        raise StoreFormatError(
            f"the index {str(place)!r} is damaged: {GRAPH!r} in it is not what was written. Make it anew in another "
            f"place"
        )
    wanted = min(max(LOOKED_AT, 4 * count), len(graph))
    graph.expansion_search = wanted
    return np.sort(graph.search(numbers[: graph.ndim], wanted).keys.astype(np.intp))


def _of_store(source: Opened) -> SketchStore:
    if not isinstance(source, SketchStore):
        raise IncompatibleError("an index is of sketches in a store; this is a Dataset. Give sketch() a place to store")
    return source


def _about(place: Path) -> dict[str, Any]:
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreFormatError(f"there is no index of sketches at {str(place)!r}: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise StoreFormatError(f"{str(place)!r} is not an index of sketches that this version reads")
    return about


def _made(source: SketchStore) -> str:
    """Digest of the digests of all rows, as they are stored: a million are read in milliseconds."""
    keys = [f"digest/c/{chunk}" for chunk in range(source.column_chunks)]
    digest = xxhash.xxh3_128()
    for part in backend_of(source.root).read_many(keys):
        digest.update(part or b"")
    return digest.hexdigest()


def _usearch() -> Any:
    try:
        from usearch import index  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingPackageError(
            "an index of sketches needs usearch: pip install 'dask-svcca[index]'. Below a million layers, search "
            "without index="
        ) from error
    return index
