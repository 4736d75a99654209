"""The store itself: a handle on a zoo, and how one is created and opened."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import xarray as xr
import zarr

from dask_svcca.dims import EXAMPLE, TOKEN
from dask_svcca.errors import (
    IncompleteRepresentationError,
    InvalidActivationsError,
    MismatchedExamplesError,
    RepresentationExistsError,
    RepresentationNotFoundError,
    StoreFormatError,
)
from dask_svcca.stores import _chunked, _io
from dask_svcca.stores._digest import DIGEST, chunk_digest, combined_digest, ids_digest
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo.examples import example_coords, example_ids, read_coords, write_coords
from dask_svcca.stores.zoo.index import Index, Representation, frame_of
from dask_svcca.stores.zoo.write import PENDING_BYTES, WriteOptions, Writer, batches, mismatch, prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    import numpy.typing as npt
    import pandas as pd

    from dask_svcca.stores._chunked import Compression
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo.write import Stored

FORMAT_VERSION = 2


class Zoo:
    """A store of activations; made by `create_zoo` or `open_zoo`.

    Its index is read once, when it is first needed, and follows what is written through this object; what others write
    shows after `refresh`. As a context manager it checks, at the end, that every representation begun with `append`
    was finished.
    """

    def __init__(self, root: zarr.Group, *, writable: bool) -> None:
        self._root = root
        self._writable = writable
        self._writers: dict[RepresentationName, Writer] = {}
        self._index: Index | None = None

    def __repr__(self) -> str:
        entries = self.entries()
        size = sum(item.nbytes for item in entries)
        return (
            f"<dask_svcca.Zoo {str(self._root.store_path)!r}: {len(entries)} representations, "
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
            raise IncompleteRepresentationError(
                f"{len(unfinished)} representations were begun and not finished, {name.label!r} with {writer.count} of "
                f"{self.n_examples} examples. They do not count: write them again, whole"
            )

    @property
    def root(self) -> zarr.Group:
        """The zarr group that holds everything."""
        return self._root

    @property
    def coords(self) -> dict[str, npt.NDArray[Any]]:
        """Coordinates along the examples, such as ``label``, or along examples and tokens; without the ids."""
        return {name: values for name, values in self._coords.items() if name != EXAMPLE}

    def coordinate_digest(self, name: str) -> str:
        """Digest of the values of a coordinate: equal digests, same values."""
        return combined_digest([chunk_digest(self._coords[name])])

    @property
    def examples(self) -> npt.NDArray[Any]:
        """Ids of the examples, in the order all representations have them."""
        return self._coords[EXAMPLE]

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
        return [name.label for name in sorted(self._read_index().unfinished)]

    def entries(self) -> list[Representation]:
        """Index of the complete representations, in the order of `representations`."""
        return list(self._read_index().ordered)

    def refresh(self) -> None:
        """Forget what was read; it is read again when next needed, with what other writers have added."""
        self._index = None
        self.__dict__.pop("_coords", None)

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        name = RepresentationName(*key)
        if self._index is None:
            # One file is read, instead of a walk through the whole store.
            return bool((_io.read_attributes(self._root, name.path) or {}).get("complete"))
        return name in self._index.by_name

    def __len__(self) -> int:
        return len(self._read_index().ordered)

    def __getitem__(self, key: tuple[str, str, str]) -> xr.DataArray:
        """Activations of one representation, lazy: a dask array under xarray labels.

        Parameters
        ----------
        key : (model, checkpoint, layer)

        Raises
        ------
        RepresentationNotFoundError
            The message says what there is instead.
        IncompleteRepresentationError
        """
        name = RepresentationName(*key)
        index = self._read_index()
        if name in index.unfinished:
            raise IncompleteRepresentationError(
                f"{name.label!r} was begun and never finished; write it again, whole, with overwrite=True"
            )
        if name not in index.by_name:
            raise RepresentationNotFoundError(index.describe_missing(name))
        item = index.by_name[name]
        import dask.array  # noqa: PLC0415 - a worker imports this module, and needs no Dask

        path = f"{self._root.path}/{item.path}/activations".lstrip("/")
        sizes = dict(zip(item.dims, item.shape, strict=True))
        return xr.DataArray(
            dask.array.from_zarr(zarr.open_array(self._root.store, path=path, mode="r"), inline_array=True),
            dims=item.dims,
            coords={
                coordinate: ((EXAMPLE, TOKEN)[: values.ndim], values)
                for coordinate, values in self._coords.items()
                if values.ndim == 1 or values.shape[1] == sizes.get(TOKEN)
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
            Training step or epoch, a finite number, for ordering checkpoints.
        depth : float, optional
            Position of the layer in the network, for ordering layers.
        dims : sequence of str, optional
            Default by number of axes: ``(example, neuron)``, ``(example, token, neuron)``,
            ``(example, height, width, channel)``. Names of spatial axes: ``height``, ``width``, ``depth``; of
            sequences: ``token``. They are stored in the order examples, depth, height, width, neurons: channels-first
            arrays are welcome with ``dims=("example", "channel", "height", "width")``. Without dims, four axes that
            look channels-first are refused.
        attrs : mapping, optional
            Further attributes of the representation: JSON values.
        compression : {"lz4", "zstd", "none"}
            ``lz4`` reads twice as fast as ``zstd``, ``none`` twice as fast again.
        dtype : {"float16", "float32", "float64"}, optional
            Type to store them in; by default the type they have. ``float16`` takes half the disk of ``float32`` and
            rounds a value by up to 1 part in 2,000; see `FLOAT16_ERROR` for what that does to similarities.
        overwrite : bool
            Replace a representation of the same name.

        Raises
        ------
        RepresentationExistsError
        MismatchedExamplesError
            Where there are more or fewer examples than the zoo has.
        InvalidActivationsError
            Where they are not floating, have an unexpected shape, look channels-first without ``dims``, or are too
            large for ``dtype``.
        """
        name = self._for_writing(model, checkpoint, layer)
        if isinstance(activations, xr.DataArray) and dims is None and EXAMPLE in activations.dims:
            dims = tuple(map(str, activations.dims))
        options = WriteOptions(step, depth, dims, attrs, compression, dtype)
        # A representation that `append` began is begun anew.
        self._writers.pop(name, None)
        writer = None
        for batch in batches(activations, name, dims, self.n_examples):
            writer = self._feed(writer, name, batch, options, overwrite=overwrite)
        if writer is None:
            raise mismatch(name, 0, self.n_examples)
        self._finish(writer)

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
        """Write one layer over the next examples; it is complete once it has all of them.

        Parameters are those of `write`. Options of the first batch hold for all, but attributes are those of the last.
        What waits for a chunk to be full takes `PENDING_BYTES` at most, for all layers together: chunks are smaller
        where many layers are written at once.
        """
        name = self._for_writing(model, checkpoint, layer)
        writer = self._writers.pop(name, None)
        try:
            options = WriteOptions(step, depth, dims, attrs, compression, dtype)
            fed = self._feed(writer, name, batch, options, overwrite=overwrite)
        except InvalidActivationsError:
            # Nothing was taken of this batch: a valid one may follow.
            if writer is not None:
                self._writers[name] = writer
            raise
        fed.attrs = options.attrs
        if fed.complete:
            self._finish(fed)
        else:
            self._writers[name] = fed
            self._bound()

    def abandon(self, model: str, checkpoint: str, layer: str) -> None:
        """Give up a representation that `append` began, and remove what was written of it."""
        name = self._for_writing(model, checkpoint, layer)
        if self._writers.pop(name, None) is not None:
            del self._root[name.path]
            if self._index is not None:
                self._index.unfinished.discard(name)

    def _bound(self) -> None:
        """Where what waits exceeds the budget, write it: later chunks have its size, and so keep to the budget."""
        if sum(writer.waiting for writer in self._writers.values()) > PENDING_BYTES:
            for writer in self._writers.values():
                if writer.spillable:
                    writer.spill()

    def _for_writing(self, model: str, checkpoint: str, layer: str) -> RepresentationName:
        if not self._writable:
            raise StoreFormatError(
                f"the zoo {str(self._root.store_path)!r} was opened for reading; use open_zoo(store, mode='r+')"
            )
        name = RepresentationName(model, checkpoint, layer)
        name.check()
        return name

    def _feed(
        self,
        writer: Writer | None,
        name: RepresentationName,
        values: npt.ArrayLike,
        options: WriteOptions,
        *,
        overwrite: bool,
    ) -> Writer:
        """Give a batch to the writer of a representation, made here where there is none yet."""
        batch = prepare(values, name, options if writer is None else writer.options)
        if writer is None:
            self._begin(name, overwrite=overwrite)
            writer = Writer(self._root, name, batch, self.n_examples, options)
        writer.append(batch)
        return writer

    def _begin(self, name: RepresentationName, *, overwrite: bool) -> None:
        """Make room for a representation. It must not look complete before all its chunks are there."""
        if name.model in self._coords:
            raise ValueError(f"a model cannot be called {name.model!r}: a coordinate of the examples has that name")
        present = _io.read_attributes(self._root, name.path)
        if present is not None and present.get("complete") and not overwrite:
            raise RepresentationExistsError(
                f"{name.label!r} is already in the zoo {str(self._root.store_path)!r}; give it another name, or "
                f"write it with overwrite=True"
            )
        _chunked.write_group(self._root, name.path, {"complete": False})
        if self._index is not None:
            self._index.begin(name)

    def _finish(self, writer: Writer) -> None:
        representation = writer.finish()
        if self._index is not None:
            self._index.add(representation)

    @cached_property
    def _coords(self) -> dict[str, npt.NDArray[Any]]:
        return read_coords(self._root)

    def _read_index(self) -> Index:
        if self._index is None:
            self._index = Index.read(self._root)
        return self._index


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
        is true for tokens and false for padding. Layers with another number of tokens do without the latter;
        ``xr.open_datatree``, which knows one length per dim, then needs ``drop_variables="mask"``.
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
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    >>> with create_zoo(tempfile.mkdtemp() + "/zoo.zarr", examples=range(100)) as zoo:
    ...     zoo.write("resnet-s0", "step00100", "block1.conv1", x, step=100, depth=3)
    >>> zoo["resnet-s0", "step00100", "block1.conv1"].sizes["neuron"]
    8
    """
    ids = example_ids(examples)
    values = example_coords(ids, coords)
    digest = ids_digest(ids)
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
                f"{zoo.examples_digest[:8]}), these are {len(ids)} (digest {digest[:8]}): they are not the same. Use "
                f"the same examples, or another zoo"
            )
        return zoo
    root = _io.create_root(store, {})
    write_coords(root, values)
    # Written last: without these attributes a store is not yet a zoo.
    root.update_attributes(
        {
            "format": "dask-svcca-zoo",
            "format_version": FORMAT_VERSION,
            "digest": DIGEST,
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
        Only one small file is read.

    Raises
    ------
    StoreFormatError
        Where there is no zoo, or one of another version.
    StoreAccessError
        Where the store cannot be accessed.
    """
    root = _io.open_root(store, mode=mode, kind="zoo", version=FORMAT_VERSION)
    return Zoo(root, writable=mode != "r")
