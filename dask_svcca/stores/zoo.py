"""The zoo: activations of many layers of many checkpoints over the same examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args
from urllib.parse import unquote

import dask.array
import numpy as np
import pandas as pd
import xarray as xr
import zarr

from dask_svcca.errors import (
    IncompleteRepresentationError,
    InvalidActivationsError,
    MismatchedExamplesError,
    RepresentationExistsError,
    RepresentationNotFoundError,
    StoreFormatError,
)
from dask_svcca.stores import _chunked, _io
from dask_svcca.stores._names import RepresentationName

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt

    from dask_svcca.stores._chunked import Compression
    from dask_svcca.stores._io import StoreLike

FORMAT_VERSION = 1
CHUNK_BYTES = 8 * 2**20
"""Aimed-at size of an activation chunk, before compression."""

Stored: TypeAlias = Literal["float16", "float32", "float64"]

FLOAT16_ERROR = 1e-4
"""How far SVCCA and CKA move, at most, for activations stored as float16, where 99 % of the variance is kept.

Measured on all pairs of the demo's 82 trained layers: 7e-5 averaged over positions, 5e-5 under the DFT split, 7e-6 in
the median. With ``variance=None`` CKA moves no further, but SVCCA by up to 0.2: rounding decides what is noise.
"""

DEFAULT_DIMS = {
    2: ("example", "neuron"),
    3: ("example", "token", "neuron"),
    4: ("example", "height", "width", "channel"),
}


@dataclass(frozen=True, slots=True)
class Representation:
    """What the index of a zoo knows of one representation.

    Attributes
    ----------
    name : RepresentationName
    dims : tuple of str
        The first is ``example``, the last ``neuron`` or ``channel``.
    shape : tuple of int
    dtype : numpy.dtype
    rows : int
        Examples in a chunk.
    step, depth : float or None
        Order of the checkpoint in training, and of the layer in the network.
    digest : str
        Of the stored values.
    """

    name: RepresentationName
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: int
    step: float | None
    depth: float | None
    digest: str

    @property
    def nbytes(self) -> int:
        """Size of the activations in bytes, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class _Writer:
    """One representation on its way into the zoo: gathers rows until they fill a chunk."""

    root: zarr.Group
    path: str
    array: _chunked.ChunkedArray
    attributes: dict[str, Any]
    written: int = 0
    pending: list[npt.NDArray[Any]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)

    def append(self, batch: npt.NDArray[Any]) -> None:
        rows = self.array.rows
        self.pending.append(batch)
        gathered = sum(len(part) for part in self.pending)
        last = self.written + gathered == self.array.shape[0]
        if gathered < rows and not last:
            # A caller may reuse its buffer before the chunk is full.
            self.pending[-1] = batch.copy()
            return
        whole = self.pending[0] if len(self.pending) == 1 else np.concatenate(self.pending)
        end = gathered if last else gathered - gathered % rows
        for start in range(0, end, rows):
            chunk = whole[start : start + rows]
            self.array.write(self.written // rows, chunk)
            self.digests.append(chunk_digest(chunk))
            self.written += len(chunk)
        self.pending = [whole[end:].copy()] if end < gathered else []

    def finish(self) -> None:
        digest = combined_digest(self.digests)
        _chunked.write_group(self.root, self.path, {**self.attributes, "digest": digest, "complete": True})


def chunk_digest(chunk: npt.NDArray[Any]) -> bytes:
    """Digest of the values of one chunk of activations, as it is stored and as it is read."""
    return hashlib.sha256(np.ascontiguousarray(chunk).data).digest()


def combined_digest(digests: Iterable[bytes]) -> str:
    """Digest of a representation from those of its chunks, in order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()[:32]


class Zoo:
    """A store of activations; made by `create_zoo` or `open_zoo`.

    As a context manager it makes sure, at the end, that every representation begun with `append` was finished.
    """

    def __init__(self, root: zarr.Group, *, writable: bool) -> None:
        self._root = root
        self._writable = writable
        self._writers: dict[RepresentationName, _Writer] = {}
        self._index: dict[RepresentationName, Representation] | None = None
        self._unfinished: list[RepresentationName] = []
        self._coords: dict[str, npt.NDArray[Any]] | None = None

    def __repr__(self) -> str:
        index = self._read_index()
        size = sum(item.nbytes for item in index.values())
        return (
            f"<dask_svcca.Zoo {str(self._root.store_path)!r}: {len(index)} representations, "
            f"{self.n_examples} examples, {size / 1e6:.1f} MB>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        unfinished, self._writers = self._writers, {}
        if unfinished and kind is None:
            name, writer = next(iter(unfinished.items()))
            rows = writer.written + sum(len(part) for part in writer.pending)
            raise IncompleteRepresentationError(
                f"{len(unfinished)} representations were begun and not finished, {name.label!r} with {rows} of "
                f"{self.n_examples} examples. They do not count: write them again, whole"
            )

    @property
    def root(self) -> zarr.Group:
        """The zarr group that holds everything."""
        return self._root

    @property
    def coords(self) -> dict[str, npt.NDArray[Any]]:
        """Coordinates along the examples, such as ``label``, or along examples and tokens; without the ids."""
        return {name: values for name, values in self._read_coords().items() if name != "example"}

    @property
    def examples(self) -> npt.NDArray[Any]:
        """Ids of the examples, in the order all representations have them."""
        return self._read_coords()["example"]

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return int(self._root.attrs["n_examples"])  # type: ignore[arg-type]

    @property
    def examples_digest(self) -> str:
        """Short digest of the ids of the examples: equal digests, same examples."""
        return str(self._root.attrs["examples_digest"])

    @property
    def representations(self) -> pd.DataFrame:
        """All complete representations, one row each, ordered by model, step, checkpoint and depth."""
        return frame_of(self.entries())

    @property
    def unfinished(self) -> list[str]:
        """Labels of the representations that were begun and never finished."""
        self._read_index()
        return [name.label for name in self._unfinished]

    def entries(self) -> list[Representation]:
        """Index of the complete representations, in the order of `representations`."""
        return list(self._read_index().values())

    def refresh(self) -> None:
        """Forget the index; the next look reads what other writers have added."""
        self._index = None

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        name = RepresentationName(*key)
        if self._index is None:
            # One look, and not a walk through the whole store.
            return bool((_io.read_attributes(self._root, name.path) or {}).get("complete"))
        return name in self._index

    def __len__(self) -> int:
        return len(self._read_index())

    def __getitem__(self, key: tuple[str, str, str]) -> xr.DataArray:
        """Activations of one representation, lazy: a dask array under xarray labels.

        Parameters
        ----------
        key : (model, checkpoint, layer)

        Raises
        ------
        RepresentationNotFoundError
            Naming close matches.
        IncompleteRepresentationError
        """
        name = RepresentationName(*key)
        index = self._read_index()
        if name not in index:
            if name in self._unfinished:
                raise IncompleteRepresentationError(
                    f"{name.label!r} was begun and never finished; write it again, whole, with overwrite=True"
                )
            raise RepresentationNotFoundError(_not_found(name, index))
        item = index[name]
        array = zarr.open_array(self._root.store, path=self._path(name, "activations"), mode="r")
        return xr.DataArray(
            dask.array.from_zarr(array, inline_array=True),
            dims=item.dims,
            coords={
                coordinate: (item.dims[: values.ndim], values)
                for coordinate, values in self._read_coords().items()
                if values.ndim == 1 or (item.dims[1] == "token" and values.shape[1] == item.shape[1])
            },
            name="activations",
            attrs={
                key: value
                for key, value in {**name._asdict(), "step": item.step, "depth": item.depth}.items()
                if value is not None
            },
        )

    def write(
        self,
        model: str,
        checkpoint: str,
        layer: str,
        activations: npt.ArrayLike | Iterable[npt.ArrayLike],
        *,
        step: float | None = None,
        depth: float | None = None,
        dims: Sequence[str] | None = None,
        attrs: Mapping[str, Any] | None = None,
        compression: Compression = "lz4",
        dtype: Stored | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the activations of one layer over all examples.

        Parameters
        ----------
        model, checkpoint, layer : str
            Any text; slashes and percent signs too.
        activations : (example, ..., neuron) array, or iterator of batches
            NumPy, dask or xarray, of float16, float32 or float64. An iterator, or a dask array, is written as it
            comes and never held as a whole.
        step : float, optional
            Training step or epoch, for ordering checkpoints.
        depth : float, optional
            Position of the layer in the network, for ordering layers.
        dims : sequence of str, optional
            Default by number of axes: ``(example, neuron)``, ``(example, token, neuron)``,
            ``(example, height, width, channel)``. Names of spatial axes: ``height``, ``width``, ``depth``; of
            sequences: ``token``. Dims in another order are transposed: channels-first arrays are welcome with
            ``dims=("example", "channel", "height", "width")``. Without dims, four axes that look so are refused.
        attrs : mapping, optional
            More to keep with the representation: JSON values.
        compression : {"lz4", "zstd", "none"}
            ``lz4`` reads twice as fast as ``zstd``, ``none`` twice as fast again.
        dtype : {"float16", "float32", "float64"}, optional
            Store them so; as they come by default. ``float16`` takes half the disk of ``float32`` and rounds a value by
            up to 1 part in 2,000; see `FLOAT16_ERROR` for what that does to similarities.
        overwrite : bool
            Replace a representation of the same name.

        Raises
        ------
        RepresentationExistsError
        MismatchedExamplesError
            Where the number of rows is not the number of examples.
        InvalidActivationsError
            Not floating, of an unexpected shape, channels-first as it seems and without ``dims``, or too large for
            ``dtype``.
        """
        options: dict[str, Any] = {
            "step": step,
            "depth": depth,
            "dims": dims,
            "attrs": attrs,
            "compression": compression,
            "dtype": dtype,
            "overwrite": overwrite,
        }
        name = RepresentationName(model, checkpoint, layer)
        if isinstance(activations, xr.DataArray) and dims is None and "example" in activations.dims:
            options["dims"] = dims = tuple(map(str, activations.dims))
        # What an earlier attempt began is begun anew.
        self._writers.pop(name, None)
        rows = 0
        try:
            for batch in _batches(activations, name, dims, self.n_examples):
                length = batch.shape[_example_axis(dims)] if batch.ndim else 0
                if rows == self.n_examples and length:
                    self._retract(name)
                    raise _mismatch(name, rows + length, self.n_examples, more=True)
                if length:
                    self.append(*name, batch, **options)
                rows += length
            if rows != self.n_examples:
                raise _mismatch(name, rows, self.n_examples)
        finally:
            self._writers.pop(name, None)

    def append(
        self,
        model: str,
        checkpoint: str,
        layer: str,
        batch: npt.ArrayLike,
        *,
        step: float | None = None,
        depth: float | None = None,
        dims: Sequence[str] | None = None,
        attrs: Mapping[str, Any] | None = None,
        compression: Compression = "lz4",
        dtype: Stored | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the next rows of one layer; it is complete once there are as many as examples.

        Parameters are those of `write`. Options of the first batch hold for all.
        """
        if not self._writable:
            raise StoreFormatError(
                f"the zoo {str(self._root.store_path)!r} was opened for reading; use open_zoo(store, mode='r+')"
            )
        name = RepresentationName(model, checkpoint, layer)
        values = np.asarray(batch)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if dtype is not None and values.dtype.kind == "f":
            values = _rounded(values, dtype, name)
        canonical = _canonical_dims(dims, values.shape, name)
        if dims is not None:
            values = values.transpose([list(dims).index(dim) for dim in canonical])
        writer = self._writers.get(name)
        if writer is None:
            writer = self._begin(name, values, canonical, step, depth, attrs, compression, overwrite=overwrite)
            self._writers[name] = writer
        expected = writer.array.shape[1:]
        if values.shape[1:] != expected or values.dtype != writer.array.dtype:
            raise InvalidActivationsError(
                f"batches of {name.label!r} differ: the first had rows of shape {expected} and "
                f"{writer.array.dtype}, this one {values.shape[1:]} and {values.dtype}"
            )
        rows = writer.written + sum(len(part) for part in writer.pending) + len(values)
        if rows > self.n_examples:
            del self._writers[name]
            raise _mismatch(name, rows, self.n_examples, more=True)
        writer.append(values)
        if rows == self.n_examples:
            writer.finish()
            del self._writers[name]
            if self._index is not None:
                attributes = _io.read_attributes(self._root, name.path)
                self._index[name] = _from_attributes(attributes or {})
                self._index = dict(sorted(self._index.items(), key=lambda item: _order(item[1])))
                self._unfinished = [other for other in self._unfinished if other != name]

    def _begin(
        self,
        name: RepresentationName,
        values: npt.NDArray[Any],
        dims: tuple[str, ...],
        step: float | None,
        depth: float | None,
        attrs: Mapping[str, Any] | None,
        compression: Compression,
        *,
        overwrite: bool,
    ) -> _Writer:
        name.check()
        if name.model in self._read_coords():
            raise ValueError(f"a model cannot be called {name.model!r}: a coordinate of the examples has that name")
        if values.dtype.kind != "f" or values.dtype.itemsize > 8:
            raise InvalidActivationsError(
                f"activations of {name.label!r} are {values.dtype}; write float16, float32 or float64, for example "
                f"x.astype('float32')"
            )
        if 0 in values.shape[1:]:
            raise InvalidActivationsError(f"activations of {name.label!r} have an empty axis: shape {values.shape}")
        present = _io.read_attributes(self._root, name.path)
        if present is not None and present.get("complete") and not overwrite:
            raise RepresentationExistsError(
                f"{name.label!r} is already in the zoo {str(self._root.store_path)!r}; give it another name, or "
                f"write it with overwrite=True"
            )
        shape = (self.n_examples, *values.shape[1:])
        row_bytes = max(1, math.prod(shape[1:]) * values.dtype.itemsize)
        rows = max(1, min(self.n_examples, CHUNK_BYTES // row_bytes))
        if present is not None:
            self._retract(name)
        else:
            _chunked.write_group(self._root, name.path, {})
        array = _chunked.ChunkedArray(
            self._root,
            f"{name.path}/activations",
            shape=shape,
            rows=rows,
            dtype=values.dtype,
            dims=dims,
            compression=compression,
        )
        attributes = {
            **(dict(attrs) if attrs else {}),
            **name._asdict(),
            "step": _plain(step),
            "depth": _plain(depth),
            "dims": list(dims),
            "shape": list(shape),
            "dtype": str(values.dtype),
            "rows": rows,
        }
        return _Writer(self._root, name.path, array, attributes)

    def _retract(self, name: RepresentationName) -> None:
        """Mark a representation as unfinished: it must not look complete while its chunks change, or are too many."""
        _chunked.write_group(self._root, name.path, {"complete": False})
        if self._index is not None:
            self._index.pop(name, None)
            self._unfinished = sorted({*self._unfinished, name})

    def _path(self, name: RepresentationName, *parts: str) -> str:
        return "/".join(part for part in (self._root.path, name.path, *parts) if part)

    def _read_coords(self) -> dict[str, npt.NDArray[Any]]:
        if self._coords is None:
            names: list[str] = self._root.attrs["example_coordinates"]  # type: ignore[assignment]
            self._coords = {name: np.asarray(self._root[name][...]) for name in names}  # type: ignore[index]
        return self._coords

    def _read_index(self) -> dict[RepresentationName, Representation]:
        if self._index is None:
            found, unfinished = [], []
            for path, attributes in _io.walk_attributes(self._root, depth=3):
                if attributes.get("complete"):
                    found.append(_from_attributes(attributes))
                else:
                    unfinished.append(_name_of(path))
            found.sort(key=_order)
            self._index = {item.name: item for item in found}
            self._unfinished = sorted(unfinished)
        return self._index


def frame_of(items: Sequence[Representation]) -> pd.DataFrame:
    """Representations as a frame, one row each, by label."""
    return pd.DataFrame(
        {
            "model": [item.name.model for item in items],
            "checkpoint": [item.name.checkpoint for item in items],
            "layer": [item.name.layer for item in items],
            "step": np.array([item.step for item in items], dtype=np.float64),
            "depth": np.array([item.depth for item in items], dtype=np.float64),
            "dims": [item.dims for item in items],
            "shape": [item.shape for item in items],
            "dtype": [str(item.dtype) for item in items],
            "nbytes": np.array([item.nbytes for item in items], dtype=np.int64),
            "digest": [item.digest for item in items],
        },
        index=pd.Index([item.name.label for item in items], name="representation", dtype=object),
    )


def create_zoo(
    store: StoreLike,
    *,
    examples: Sequence[Any] | npt.NDArray[Any],
    coords: Mapping[str, npt.ArrayLike] | None = None,
    exist_ok: bool = False,
) -> Zoo:
    """Create a zoo for a set of examples.

    Parameters
    ----------
    store : path, zarr store, or URL
    examples : (example,)
        Ids, text or integers, unique. All representations of the zoo have these examples in this order.
    coords : mapping of str to (example,) or (example, token), optional
        Coordinates along the examples, for example ``label``; or along examples and tokens, for example a mask that
        is true for tokens and false for padding. Layers with another number of tokens do without the latter, and
        ``xr.open_datatree``, where one length holds for all, wants ``drop_variables="mask"``.
    exist_ok : bool
        Open the zoo if it is there already and has the same examples.

    Returns
    -------
    Zoo
        Open for writing.

    Raises
    ------
    StoreFormatError
        Where something is there already.
    MismatchedExamplesError
        Where a coordinate is not of these examples, or, with ``exist_ok``, the zoo has others.

    Examples
    --------
    >>> import tempfile
    >>> x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    >>> with create_zoo(tempfile.mkdtemp() + "/zoo.zarr", examples=range(100)) as zoo:
    ...     zoo.write("resnet-s0", "step00100", "block1.conv1", x, step=100, depth=3)
    >>> zoo["resnet-s0", "step00100", "block1.conv1"].sizes["neuron"]
    8
    """
    ids = _example_ids(examples)
    digest = _digest(ids)
    if coords and "example" in coords:
        raise ValueError("the coordinate 'example' holds the ids, given as examples=; call the other one otherwise")
    values = {"example": ids, **{name: np.asarray(value) for name, value in (coords or {}).items()}}
    _check_coords(values, len(ids))
    if _io.is_group(store):
        zoo = open_zoo(store, mode="r+")
        if not exist_ok:
            raise StoreFormatError(
                f"there is a zoo at {_io.describe(store)!r} already; open it with open_zoo(store, mode='r+'), or "
                f"choose another place"
            )
        if zoo.examples_digest != digest:
            raise MismatchedExamplesError(
                f"the zoo at {_io.describe(store)!r} has {zoo.n_examples} examples (digest "
                f"{zoo.examples_digest[:8]}), these are {len(ids)} (digest {digest[:8]}): not the same ones. Use the "
                f"same examples, or another zoo"
            )
        return zoo
    root = _io.create_root(store, {})
    for name, value in values.items():
        text = value.dtype.kind in "OUT"
        array = root.create_array(
            name,
            shape=value.shape,
            dtype="string" if text else value.dtype,
            chunks=value.shape,
            dimension_names=("example", "token")[: value.ndim],
        )
        array[...] = value.astype(object) if text else value
    # Written last: a store without them is not yet a zoo.
    root.update_attributes(
        {
            "format": "dask-svcca-zoo",
            "format_version": FORMAT_VERSION,
            "n_examples": len(ids),
            "examples_digest": digest,
            "example_coordinates": list(values),
        }
    )
    return Zoo(root, writable=True)


def open_zoo(store: StoreLike, *, mode: Literal["r", "r+"] = "r") -> Zoo:
    """Open a zoo.

    Parameters
    ----------
    store : path, zarr store, or URL
    mode : {"r", "r+"}
        ``r+`` to add representations.

    Returns
    -------
    Zoo
        Nothing is read but one small file.

    Raises
    ------
    StoreFormatError
        Where there is no zoo, or one of a newer version.
    """
    root = _io.open_root(store, mode=mode, kind="zoo", version=FORMAT_VERSION)
    return Zoo(root, writable=mode != "r")


def _example_ids(examples: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    ids = np.asarray(examples)
    if ids.ndim != 1 or ids.dtype.kind not in "iuUOT":
        raise InvalidActivationsError(
            f"examples are ids, one integer or text each; got an array of shape {ids.shape} and type {ids.dtype}"
        )
    if ids.dtype.kind in "UOT":
        ids = np.array([str(value) for value in ids], dtype=object)
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise MismatchedExamplesError(
            f"ids of examples must be unique; {unique[counts > 1][0]!r} occurs {counts.max()} times"
        )
    if len(ids) < 2:
        raise InvalidActivationsError(f"a zoo needs at least two examples to compare anything; got {len(ids)}")
    return ids


def _check_coords(coords: Mapping[str, npt.NDArray[Any]], examples: int) -> None:
    tokens: dict[str, int] = {}
    for name, value in coords.items():
        if value.shape[:1] != (examples,):
            raise MismatchedExamplesError(f"coordinate {name!r} has shape {value.shape}; there are {examples} examples")
        if value.ndim > 2 or 0 in value.shape:
            raise ValueError(
                f"a coordinate has one value an example, or one an example and token; {name!r} has shape {value.shape}"
            )
        if value.ndim == 2:
            tokens[name] = value.shape[1]
    if len(set(tokens.values())) > 1:
        raise ValueError(f"coordinates along tokens must have equally many; they have {tokens}")


def _digest(ids: npt.NDArray[Any]) -> str:
    return hashlib.sha256("\0".join(map(str, ids)).encode()).hexdigest()[:32]


def _batches(
    activations: npt.ArrayLike | Iterable[npt.ArrayLike],
    name: RepresentationName,
    dims: Sequence[str] | None,
    examples: int,
) -> Iterator[npt.NDArray[Any]]:
    if isinstance(activations, Iterator):
        for batch in activations:
            yield np.asarray(batch)
        return
    values: Any = activations if hasattr(activations, "shape") else np.asarray(activations)
    along = _example_axis(dims)
    if values.ndim == 0 or values.shape[along] != examples:
        raise _mismatch(name, values.shape[along] if values.ndim else 0, examples)
    if isinstance(values, xr.DataArray):
        values = values.data
    if not isinstance(values, dask.array.Array):
        yield np.asarray(values)
        return
    stop = 0
    for length in values.chunks[along]:
        start, stop = stop, stop + length
        index = [slice(None)] * values.ndim
        index[along] = slice(start, stop)
        yield np.asarray(values[tuple(index)])


def _example_axis(dims: Sequence[str] | None) -> int:
    return list(dims).index("example") if dims is not None and "example" in dims else 0


def _plain(number: Any) -> Any:
    """A number as JSON takes it: not NumPy's."""
    return number.item() if isinstance(number, np.generic) else number


def _canonical_dims(dims: Sequence[str] | None, shape: tuple[int, ...], name: RepresentationName) -> tuple[str, ...]:
    ndim = len(shape)
    if dims is None:
        if ndim not in DEFAULT_DIMS:
            raise InvalidActivationsError(
                f"activations of {name.label!r} have {ndim} axes; say what they are with dims=, for example "
                f"dims=('example', 'width', 'channel')"
            )
        if ndim == 4 and shape[1] != shape[2] == shape[3]:
            raise InvalidActivationsError(
                f"activations of {name.label!r} look channels-first: {shape[1:]}. Say what the axes are: "
                f"dims=('example', 'channel', 'height', 'width') if so, dims={DEFAULT_DIMS[ndim]!r} if not"
            )
        return DEFAULT_DIMS[ndim]
    last = [dim for dim in dims if dim in {"neuron", "channel"}]
    if len(dims) != ndim or "example" not in dims or len(last) != 1 or len(set(dims)) != ndim:
        raise InvalidActivationsError(
            f"dims={tuple(dims)!r} do not describe the {ndim} axes of {name.label!r}: name each once, one 'example' "
            f"and one 'neuron' or 'channel' among them"
        )
    return ("example", *(dim for dim in dims if dim not in {"example", *last}), *last)


def _mismatch(name: RepresentationName, rows: int, examples: int, *, more: bool = False) -> MismatchedExamplesError:
    got = f"{'at least ' if more else ''}{rows}"
    return MismatchedExamplesError(
        f"{name.label!r} has {got} examples, its zoo {examples}. All representations of a zoo have the same examples "
        f"in the same order: capture it again with the zoo's examples, or keep it in a zoo of its own"
    )


def _not_found(name: RepresentationName, index: Mapping[RepresentationName, Representation]) -> str:
    for part, field_name in enumerate(("model", "checkpoint", "layer")):
        matching = [other for other in index if other[:part] == name[:part]]
        choices = sorted({other[part] for other in matching})
        if name[part] not in choices:
            shown = ", ".join(map(repr, choices[:8])) + (f" and {len(choices) - 8} more" if len(choices) > 8 else "")
            return f"no {field_name} {name[part]!r} for {name.label!r} in this zoo; it has {shown or 'none'}"
    return f"no {name.label!r} in this zoo"


def _from_attributes(attributes: Mapping[str, Any]) -> Representation:
    return Representation(
        name=RepresentationName(attributes["model"], attributes["checkpoint"], attributes["layer"]),
        dims=tuple(attributes["dims"]),
        shape=tuple(attributes["shape"]),
        dtype=np.dtype(attributes["dtype"]),
        rows=attributes["rows"],
        step=attributes.get("step"),
        depth=attributes.get("depth"),
        digest=attributes["digest"],
    )


def _name_of(path: str) -> RepresentationName:
    return RepresentationName(*map(unquote, path.split("/")))


def _order(item: Representation) -> tuple[Any, ...]:
    name = item.name
    step = math.inf if item.step is None else item.step
    depth = math.inf if item.depth is None else item.depth
    return (name.model, step, name.checkpoint, depth, name.layer)


def _rounded(values: npt.NDArray[Any], dtype: Stored, name: RepresentationName) -> npt.NDArray[Any]:
    """Values in another precision, none of them lost to infinity."""
    if dtype not in get_args(Stored):
        raise ValueError(f"dtype is one of {', '.join(map(repr, get_args(Stored)))}; got {dtype!r}")
    if np.can_cast(values.dtype, dtype):
        return values.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    lost = np.isinf(rounded) & np.isfinite(values)
    if lost.any():
        raise InvalidActivationsError(
            f"activations of {name.label!r} are as large as {np.abs(values[lost]).max():.3g}, and {dtype} reaches "
            f"{np.finfo(dtype).max:.3g}; choose a wider dtype, or leave it out to store them as {values.dtype}"
        )
    return rounded
