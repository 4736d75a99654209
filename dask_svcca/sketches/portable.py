"""Sketches of several people together, and as one file that can be sent."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.lib import format as npy
from zarr.storage import MemoryStore

from dask_svcca.errors import DaskSvccaError, RepresentationExistsError, StoreFormatError
from dask_svcca.sketches.dataset import open_sketches
from dask_svcca.sketches.identity import FORMAT_VERSION, IDENTITY, check_identity
from dask_svcca.sketches.opened import made, numbers_of, opened
from dask_svcca.sketches.search import check_alike
from dask_svcca.sketches.store import COLUMNS, DIM, SketchStore
from dask_svcca.stores import _io
from dask_svcca.stores._access import accessing
from dask_svcca.stores._create import check_free
from dask_svcca.stores._metadata import is_text, said
from dask_svcca.variables import SKETCH

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy.typing as npt
    import xarray as xr

    from dask_svcca.sketches.opened import Opened, SketchesLike
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.variables import Variable

ATTRIBUTES: Final = "attributes"
"""Name in a file of what the root of a store says, as JSON in UTF-8."""

AGREE: Final = 1e-4
"""Difference of two numbers, in units of their size, below which it is rounding."""

Columns = dict[str, "npt.NDArray[Any]"]


def merge_sketches(a: SketchesLike, b: SketchesLike, store: StoreLike | None = None) -> xr.Dataset:
    """Sketches of two zoos of the same examples together.

    Parameters
    ----------
    a, b : xarray.Dataset, path, zarr store, or URL
        From `sketch` or `open_sketches`, or where they are. What both have is there once, also where the examples of
        their zoos are in another order.
    store : path, zarr store, or URL, optional
        A new place, which is read and added to as that of `sketch`. By default in memory, for as long as the result is
        used; `export_sketches` writes it into a file, and what ``to_zarr`` of xarray writes is not a store of sketches.

    Returns
    -------
    xarray.Dataset
        As `open_sketches`.

    Raises
    ------
    StoreFormatError
        Where something is there already.
    MismatchedExamplesError, ParametersChangedError
        Where examples, seed, size, family or reading differ.
    RepresentationExistsError
        Where both have a representation of one name, with other activations.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 8))
    >>> mine, theirs = (dask_svcca.sketch({name: z}, size=64) for name, z in (("mine", x), ("theirs", y)))
    >>> merge_sketches(mine, theirs).representation.values.tolist()
    ['mine', 'theirs']
    """
    one, other = opened(a), opened(b)
    check_alike(one, other)
    columns, numbers = _contents(one)
    more, more_numbers = _contents(other)
    known = {str(label): str(digest) for label, digest in zip(columns[DIM], columns["digest"], strict=True)}
    rows = {label: row for row, label in enumerate(known)}
    new = []
    for row, (label, digest) in enumerate(zip(more[DIM].tolist(), more["digest"].tolist(), strict=True)):
        if label not in known:
            new.append(row)
        elif known[label] != digest and not _agree(numbers[rows[label]], more_numbers[row]):
            raise RepresentationExistsError(
                f"{label!r} is in both, {one.place!r} and {other.place!r}, with other activations (digests "
                f"{known[label][:8] or 'none'} and {digest[:8] or 'none'}). Rename it in one of the zoos"
            )
    domains = list(one.attributes["domains"])
    domains += [what for what in other.attributes["domains"] if what not in domains]
    places = np.array([domains.index(what) for what in other.attributes["domains"]] or [0])
    more["domain"] = places[more["domain"]]
    together = {name: np.concatenate([columns[name], more[name][new]]) for name in columns}
    place = MemoryStore() if store is None else store
    identity = {name: one.attributes.get(name) for name in (*IDENTITY, "n_examples")}
    _write(place, identity, domains, together, np.concatenate([numbers, more_numbers[new]]))
    result = open_sketches(place)
    return result.load() if store is None else result


def _agree(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Whether two sketches are of the same activations, perhaps in another order: they differ by rounding."""
    return bool(np.allclose(one, other, rtol=0, atol=AGREE / np.sqrt(len(one))))


def export_sketches(sketches: SketchesLike, file: str | os.PathLike[str]) -> None:
    """Write sketches into one file, npz without pickles, to be sent; see `import_sketches`.

    Parameters
    ----------
    sketches : xarray.Dataset, path, zarr store, or URL
    file : path
        A new file, which is there whole or not at all.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> folder = tempfile.mkdtemp()
    >>> x = np.random.default_rng(0).normal(size=(100, 8))
    >>> export_sketches(dask_svcca.sketch({"fc": x}, size=64), folder + "/mine.npz")
    >>> import_sketches(folder + "/mine.npz", folder + "/theirs.zarr").representation.values.tolist()
    ['fc']
    """
    source = opened(sketches)
    columns, numbers = _contents(source)
    names = (*IDENTITY, "n_examples", "domains")
    says = {"format_version": FORMAT_VERSION, **{name: _plain(source.attributes.get(name)) for name in names}}
    texts = {one.name: columns[one.name].astype(_dtype(one, np.str_)) for one in COLUMNS}
    target = Path(file)
    if target.exists():
        raise StoreFormatError(f"there is already something at {str(target)!r}; choose another file")
    if not target.parent.is_dir():
        raise StoreFormatError(f"there is no folder {str(target.parent)!r} to write {target.name!r} to. Make it first")
    partial = target.with_name(f".{target.name}.partial")
    with accessing(target):
        try:
            with partial.open("wb") as stream:
                document = np.frombuffer(json.dumps(says).encode(), np.uint8)
                np.savez(stream, **{ATTRIBUTES: document, SKETCH: numbers}, **texts)  # type: ignore[arg-type]
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)


def import_sketches(file: str | os.PathLike[str], store: StoreLike | None = None) -> xr.Dataset:
    """Make a store of sketches of a file that `export_sketches` wrote, whoever sent it.

    Nothing in the file is run, and nothing is believed before it is checked.

    Parameters
    ----------
    file : path
    store : path, zarr store, or URL, optional
        A new place. By default in memory.

    Returns
    -------
    xarray.Dataset
        As `open_sketches`.

    Raises
    ------
    StoreFormatError
        Where the file is not one of sketches, is damaged, or is of another version or family; or where something is at
        the place already.
    """
    try:
        says, columns, numbers = _read(Path(file))
        check_identity({**says, "coarse_rows": 64}, str(file))
        _check(says, columns, numbers)
    except DaskSvccaError:
        raise
    except (ValueError, TypeError, LookupError, OSError, EOFError, zipfile.BadZipFile, RecursionError) as error:
        raise StoreFormatError(
            f"{str(file)!r} is not a file of sketches that export_sketches wrote: {said(error)}"
        ) from error
    place = MemoryStore() if store is None else store
    identity = {name: says.get(name) for name in (*IDENTITY, "n_examples")}
    _write(place, identity, says["domains"], columns, numbers)
    result = open_sketches(place)
    return result.load() if store is None else result


def _contents(source: Opened) -> tuple[Columns, npt.NDArray[np.float32]]:
    columns = {one.name: source.column(one.name).astype(_dtype(one, object)) for one in COLUMNS}
    return columns, numbers_of(source, np.arange(source.rows), made(source))


def _write(
    place: StoreLike,
    identity: Mapping[str, Any],
    domains: list[str],
    columns: Columns,
    numbers: npt.NDArray[np.float32],
) -> None:
    if _has_sketches(place):
        there = _io.describe(place)
        raise StoreFormatError(
            f"there are sketches already at {there!r}, and those of others are not added to them: choose another "
            f"place, and make one of both in a third, merge_sketches({there!r}, another, store=third)"
        )
    check_free(place)
    sketches = SketchStore.create(place, {name: _plain(value) for name, value in identity.items()}, len(numbers))
    for what in domains:
        sketches.domain(str(what))
    texts = {one.name: columns[one.name].astype(_dtype(one, object)) for one in COLUMNS}
    known = np.flatnonzero(~np.isnan(numbers[:, 0])).tolist()
    sketches.write_rows({row: numbers[row] for row in known})
    sketches.write_columns(texts)


def _has_sketches(place: StoreLike) -> bool:
    try:
        return SketchStore.open(place).rows > 0
    except StoreFormatError:
        return False


def _dtype(variable: Variable, text: type) -> Any:
    """Type of a column, with a type of its own for text."""
    return text if variable.dtype == "string" else variable.dtype


def _plain(value: Any) -> Any:
    """What an attribute is in JSON: a Dataset may have it as an array."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _read(file: Path) -> tuple[dict[str, Any], Columns, npt.NDArray[np.float32]]:
    names = [ATTRIBUTES, SKETCH, *(variable.name for variable in COLUMNS)]
    found: Columns = {}
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if sorted(entries) != sorted(f"{name}.npy" for name in names):
            raise ValueError("it holds other arrays")
        for name in names:
            entry = entries[f"{name}.npy"]
            # What is not packed is no larger than the file.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ValueError(f"{name!r} in it is packed")
            with archive.open(entry) as stream:
                if npy.read_magic(stream) != (1, 0):
                    raise ValueError(f"{name!r} in it has another version of npy")
                shape, fortran, dtype = npy.read_array_header_1_0(stream)
                if fortran or dtype.hasobject or dtype.itemsize == 0:
                    raise ValueError(f"{name!r} in it has the type {dtype}")
                data = stream.read()
            if any(length < 0 for length in shape) or len(data) != dtype.itemsize * int(np.prod(shape, dtype=object)):
                raise ValueError(f"{name!r} in it has the shape {shape}, and {len(data)} bytes")
            found[name] = np.frombuffer(data, dtype).reshape(shape)
    says = json.loads(found.pop(ATTRIBUTES).tobytes())
    if not isinstance(says, dict) or says.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"its format version is not {FORMAT_VERSION}")
    return says, found, found.pop(SKETCH)


def _check(says: Mapping[str, Any], columns: Columns, numbers: npt.NDArray[Any]) -> None:
    count = len(columns[DIM])
    if numbers.dtype != np.float32 or numbers.shape != (count, says["size"]):
        raise ValueError(f"its numbers are {numbers.dtype} of shape {numbers.shape}")
    for variable in COLUMNS:
        values = columns[variable.name]
        good = values.dtype.kind == "U" if variable.dtype == "string" else values.dtype == variable.dtype
        if not good or values.shape != (count,):
            raise ValueError(f"{variable.name!r} is {values.dtype} of shape {values.shape}")
        if values.dtype.kind == "U" and not all(map(is_text, values.tolist())):
            raise ValueError(f"{variable.name!r} has text that cannot be written")
    labels = columns[DIM].tolist()
    if len(set(labels)) < count or "" in labels:
        raise ValueError("two rows in the file have one name, or one has none")
    there = (columns["digest"] != "") & (columns["problem"] == "")
    finite = [np.isfinite(numbers).all(axis=1), *(np.isfinite(columns[name]) for name in ("norm", "trace"))]
    spread = columns["concentration"]
    if not (np.all(finite, axis=0) & (spread >= 0) & (spread <= 1) & (columns["norm"] > 0))[there].all():
        raise ValueError("a sketch in it has NaN, or numbers out of range")
    own = np.einsum("rf,rf->r", *[numbers[there].astype(np.float64)] * 2)
    # It is 1 but for the error of the sketch.
    if ((own < 1e-3) | (own > 1e3)).any():
        raise ValueError("a sketch in it is not of unit norm")
    if not ((columns["domain"] >= 0) & (columns["domain"] < max(1, len(says["domains"])))).all():
        raise ValueError("a representation in it has samples of a kind that is not named")
