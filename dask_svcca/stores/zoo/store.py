"""The store itself: a handle on a zoo, to write to it and to put it in order, beside what `ZooView` reads."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from dask_svcca.errors import (
    IncompleteRepresentationError,
    InvalidActivationsError,
    MismatchedExamplesError,
    RepresentationExistsError,
    RepresentationNotFoundError,
    StoreFormatError,
)
from dask_svcca.stores import _chunked, _io
from dask_svcca.stores._links import under_other_case
from dask_svcca.stores._metadata import is_number
from dask_svcca.stores._names import RepresentationName, decode
from dask_svcca.stores.zoo.batches import batches_of, mismatch, prepare
from dask_svcca.stores.zoo.index import Representation
from dask_svcca.stores.zoo.leases import begin_writing, check_writing, end_writing
from dask_svcca.stores.zoo.options import WriteOptions, check_parent
from dask_svcca.stores.zoo.parents import one_parent, parents_in
from dask_svcca.stores.zoo.replace import begin_beside, clear_beside, settle
from dask_svcca.stores.zoo.view import ZooView
from dask_svcca.stores.zoo.write import PENDING_BYTES, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import numpy.typing as npt
    import zarr

    from dask_svcca.arrays import Given
    from dask_svcca.stores._documents import Compression
    from dask_svcca.stores.zoo.batches import Batch
    from dask_svcca.stores.zoo.options import Stored
    from dask_svcca.stores.zoo.view import Key


class Zoo(ZooView):
    """A store of activations; made by `create_zoo` or `open_zoo`.

    Its index is read once, when it is first needed, and follows what is written through this object; what others write
    shows after `refresh`. As a context manager it checks, at the end, that every representation begun with `append`
    was finished.
    """

    def __init__(self, root: zarr.Group, *, writable: bool) -> None:
        super().__init__(root)
        self._writable = writable
        self._writers: dict[RepresentationName, Writer] = {}
        self._held: list[Writer] | None = None
        self._parents: dict[tuple[str, str], dict[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        unfinished, self._writers = self._writers, {}
        for writer in unfinished.values():
            self._discard(writer)
        if unfinished and kind is None:
            name, writer = next(iter(unfinished.items()))
            raise IncompleteRepresentationError(
                f"{len(unfinished)} representations were begun and not finished, {name.label!r} with {writer.count} of "
                f"{self.n_examples} examples. They do not count: write them again, whole"
            )

    def write(
        self,
        model: str,
        checkpoint: str,
        layer: str,
        activations: npt.ArrayLike | Iterable[npt.ArrayLike] | Given,
        *,
        step: float | None = None,
        depth: float | None = None,
        dims: Sequence[str] | None = None,
        attrs: Mapping[str, Any] | None = None,
        compression: Compression = "lz4",
        dtype: Stored | None = None,
        source_dtype: str | None = None,
        parent: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the activations of one layer over all examples.

        Parameters
        ----------
        model, checkpoint, layer : str
            Any text; slashes and percent signs too.
        activations : (example, ..., neuron) array, or batches
            float16, float32 or float64 of NumPy, Dask, xarray, pandas, PyTorch, JAX or h5py; bfloat16 and float8 are
            stored as float32. Batches come from an iterator, a loader that does not shuffle, or a list, and are written
            as they come; a Dask array is never held as a whole where its blocks are independent of each other.

            An array with ids along its examples (a coordinate ``example``, the index of a DataFrame) is put in the
            zoo's order by them; batches must have the zoo's next ids. An index that only counts, 0, 1, 2 ..., is not
            taken for ids. Without ids, examples are in the zoo's order. A mask that they bring along, a coordinate
            (example, token), has to be the zoo's.
        step : float, optional
            Training step or epoch, a finite number, for ordering checkpoints.
        depth : float, optional
            Position of the layer in the network, for ordering layers.
        dims : sequence of str, optional
            Names of the axes: ``example``; ``neuron`` or ``channel``; ``height``, ``width``, ``depth``; ``token``.
            Default for two axes ``(example, neuron)``, for three ``(example, token, neuron)``: a convolution in one
            dimension has to say ``("example", "channel", "width")``. More axes need them, unless labelled. They are
            stored in the order examples, depth, height, width, neurons; channels first are welcome.
        attrs : mapping, optional
            Further attributes of the representation: JSON values, and numbers and arrays of NumPy.
        compression : {"lz4", "zstd", "none"}
            ``lz4`` reads twice as fast as ``zstd``, ``none`` twice as fast again.
        dtype : {"float16", "float32", "float64"}, optional
            Type to store them in; by default the type they have. ``float16`` takes half the disk of ``float32`` and
            rounds a value by up to 1 part in 2,000; see `FLOAT16_ERROR` for what that does to similarities.
        source_dtype : str, optional
            Floating type in which they were computed, where it is coarser than the one they come in: for example
            ``"bfloat16"``, captured as float32. It decides which directions are rounding noise. Arrays of PyTorch, JAX
            and ``ml_dtypes`` say so themselves.
        parent : str, optional
            The checkpoint that the training of this one began with, as ``"model/checkpoint"``, such as the model that
            was fine-tuned; it need not be in the zoo. It is one for all layers of a checkpoint, and what one of them
            has is the default for the others. Comparisons keep it as the coordinate ``parent``.
        overwrite : bool
            Replace a representation of the same name, whose step and depth hold unless others are given. It stays until
            all examples of the new one are written, and so stays where that is interrupted. A comparison that reads it
            just then has the numbers of the old one, or none and a problem that says so, until it is run again.

        Raises
        ------
        RepresentationExistsError
        StoreInUseError
            Where another process writes the same checkpoint. A process that was killed does not count.
        MismatchedExamplesError
            Where they have other examples than the zoo.
        InvalidActivationsError
            Where they are not floating, have an unexpected shape or axes without names, are too large for ``dtype``, or
            are masked, sparse or quantised.
        IncompatibleError
            Where another layer of the checkpoint has another parent.
        ValueError
            For names, numbers and attributes that cannot be stored. Nothing is written then.
        """
        name = self._for_writing(model, checkpoint, layer)
        options = WriteOptions(step, depth, dims, attrs, compression, dtype, source_dtype, parent)
        check_parent(parent, model, checkpoint)
        # A representation that `append` began is begun anew.
        self._discard(self._writers.pop(name, None))
        writer = None
        try:
            for batch in batches_of(activations, name, options, self._coords):
                writer = self._feed(writer, name, batch, options, overwrite=overwrite)
            if writer is not None:
                self._finish(writer)
        except BaseException:
            self._discard(writer)
            raise
        if writer is None:
            raise mismatch(name, 0, self.n_examples)

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
        source_dtype: str | None = None,
        parent: str | None = None,
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
            given = WriteOptions(step, depth, dims, attrs, compression, dtype, source_dtype, parent)
            check_parent(parent, model, checkpoint)
            options, start = (given, 0) if writer is None else (writer.options, writer.count)
            prepared = prepare(batch, name, options, self._coords, start)
            fed = self._feed(writer, name, prepared, options, overwrite=overwrite)
        except (InvalidActivationsError, MismatchedExamplesError):
            # Nothing was taken of this batch: a valid one may follow.
            if writer is not None:
                self._writers[name] = writer
            raise
        except BaseException:
            self._discard(writer)
            raise
        fed.attrs = given.attrs
        if fed.complete:
            self._finish(fed)
        else:
            self._writers[name] = fed
            self._bound()

    def abandon(self, model: str, checkpoint: str, layer: str) -> None:
        """Give up a representation that `append` began, and remove what was written of it."""
        name = self._for_writing(model, checkpoint, layer)
        writer = self._writers.pop(name, None)
        if writer is not None and writer.replaces:
            clear_beside(self._root, name.path)
        elif writer is not None:
            del self._root[name.path]
            if self._index is not None:
                self._index.unfinished.discard(name)
        end_writing(self, self._root, name)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, what replaces other representations waits: all become valid at the end, or none, as layers should."""
        held: list[Writer] = []
        self._held = held
        try:
            yield
            self._check_parents(held)
            self._complete(held)
        except BaseException:
            for writer in held:
                self._discard(writer)
            raise
        finally:
            self._held = None

    def _discard(self, writer: Writer | None) -> None:
        """Remove what was written of a representation, where another of its name stays valid."""
        if writer is None:
            return
        self._parents.pop(writer.name[:2], None)
        if writer.replaces:
            self._index = None
            # Where the store fails too, what stopped the writing is the error to hear.
            with suppress(Exception):
                attributes = _io.read_attributes(self._root, writer.name.path) or {}
                if not attributes.get("beside"):
                    clear_beside(self._root, writer.name.path)
        end_writing(self, self._root, writer.name)

    def _bound(self) -> None:
        """Where what waits exceeds the budget, write it: later chunks have its size, and so keep to the budget."""
        if sum(writer.waiting for writer in self._writers.values()) > PENDING_BYTES:
            for writer in self._writers.values():
                if writer.spillable:
                    writer.spill()

    def delete(self, model: Key, checkpoint: str | None = None, layer: str | None = None) -> None:
        """Remove a representation, finished or not.

        Comparisons keep what they have of it.

        Parameters
        ----------
        model, checkpoint, layer : str
            Or its label alone, or all three as a tuple, as for ``zoo[...]``.

        Raises
        ------
        RepresentationNotFoundError
        StoreFormatError
            Where the zoo was opened for reading.

        Examples
        --------
        All layers of a checkpoint::

            for name in zoo:
                if name.checkpoint == "step00100":
                    zoo.delete(name)
        """
        if (checkpoint is None) != (layer is None):
            raise RepresentationNotFoundError(
                f"{(model, checkpoint, layer)!r} does not name a representation: give its model, checkpoint and layer; "
                f"for all of a checkpoint, delete each: for name in zoo: if name.checkpoint == 'step1': "
                f"zoo.delete(name)"
            )
        name = self._present(model if checkpoint is None else (model, checkpoint, layer))
        with self._writing(name):
            # It must not look complete while its files go, one by one.
            _chunked.write_group(self._root, name.path, {"complete": False})
            _chunked.remove_group(self._root, name.path)
            clear_beside(self._root, name.path)
        self._writers.pop(name, None)
        self._parents.pop(name[:2], None)
        if self._index is not None:
            self._index.remove(name)

    def rename(self, old: Key, new: Key) -> None:
        """Give a representation another name.

        A comparison takes it for a new one, and the old one for one that left; its subspace is not made again.

        Parameters
        ----------
        old, new : (model, checkpoint, layer), or their label

        Raises
        ------
        RepresentationNotFoundError, IncompleteRepresentationError
            Where there is none of the old name, or it is not finished.
        RepresentationExistsError
            Where there is one of the new name.
        StoreFormatError
            Where the zoo was opened for reading.
        IncompatibleError
            Where the other checkpoint has another parent.
        ValueError
            Where the new name is not valid.

        Examples
        --------
        All layers of a model::

            for name in zoo:
                if name.model == "resnet":
                    zoo.rename(name, name._replace(model="resnet-s0"))
        """
        before, after = self._present(old), self._for_writing(*RepresentationName.of(new))
        attributes = _io.read_attributes(self._root, before.path) or {}
        if not attributes.get("complete"):
            raise self._incomplete(before)
        if after == before:
            return
        with self._writing(before), self._writing(after):
            self._check_free(after, overwrite=False)
            parent = attributes.get("parent") or None
            check_parent(parent, after.model, after.checkpoint)
            if after[:2] != before[:2]:
                layers = {**self._parents_stored(after), **self._parents_begun(after)}
                parent = one_parent(layers, parent, after.model, after.checkpoint, ())
            settle(self._root, before.path)
            attributes.pop("beside", None)
            attributes |= {**after._asdict(), "parent": parent or ""}
            _chunked.move_group(self._root, before.path, after.path, attributes)
        for name in (before, after):
            self._parents.pop(name[:2], None)
        if self._index is not None:
            self._index.remove(before)
            self._index.add(Representation.from_attributes(after, attributes))

    @contextmanager
    def _writing(self, name: RepresentationName) -> Iterator[None]:
        begin_writing(self, self._root, name)
        try:
            yield
        finally:
            end_writing(self, self._root, name)

    def _present(self, key: object) -> RepresentationName:
        """Name of a representation that is there and may be changed, finished or not."""
        name = self._for_writing(*RepresentationName.of(key))
        if _io.read_attributes(self._root, name.path) is None:
            raise RepresentationNotFoundError(self._read_index().describe_missing(name))
        return name

    def _for_writing(self, model: str, checkpoint: str, layer: str) -> RepresentationName:
        if not self._writable:
            raise StoreFormatError(
                f"the zoo {str(self._root.store_path)!r} was opened for reading; use open_zoo(store, mode='r+')"
            )
        name = RepresentationName(model, checkpoint, layer)
        name.check()
        return name

    def refresh(self) -> None:
        """Forget what was read; it is read again when next needed, with what other writers have added."""
        super().refresh()
        self._parents.clear()

    def _feed(
        self, writer: Writer | None, name: RepresentationName, batch: Batch, options: WriteOptions, *, overwrite: bool
    ) -> Writer:
        """Give a batch to the writer of a representation, made here where there is none yet."""
        if writer is not None:
            writer.append(batch)
            return writer
        begin_writing(self, self._root, name)
        try:
            options = replace(options, parent=self._parent_for(name, options.parent, overwrite=overwrite))
            if overwrite:
                options = self._placed_as_before(name, options)
            place = self._begin(name, overwrite=overwrite)
            writer = Writer(self._root, name, batch, self.n_examples, options, place)
            writer.append(batch)
        except BaseException:
            end_writing(self, self._root, name)
            raise
        return writer

    def _parent_for(self, name: RepresentationName, parent: str | None, *, overwrite: bool) -> str | None:
        """Parent of a representation: that of its checkpoint, or the one that is given."""
        written, stored = self._parents_begun(name), self._parents_stored(name)
        # Which others are replaced together is known at the end alone.
        later = stored.keys() if self._held is not None and overwrite else ()
        layers = {**written, **{layer: stored[layer] for layer in stored.keys() - written.keys()}}
        return one_parent(layers, parent, *name[:2], {name.layer} | (set(later) - written.keys()))

    def _placed_as_before(self, name: RepresentationName, options: WriteOptions) -> WriteOptions:
        """Options with the step and the depth of the representation that is replaced, where none are given."""
        present = _io.read_attributes(self._root, name.path) or {}
        step, depth = (number if is_number(number := present.get(key)) else None for key in ("step", "depth"))
        return replace(
            options,
            step=step if options.step is None else options.step,
            depth=depth if options.depth is None else options.depth,
        )

    def _parents_begun(self, name: RepresentationName) -> dict[str, str]:
        """Parents of layers of a checkpoint that are being written."""
        writers = [*self._writers.values(), *(self._held or ())]
        return {one.name.layer: one.options.parent or "" for one in writers if one.name[:2] == name[:2]}

    def _parents_stored(self, name: RepresentationName) -> dict[str, str]:
        """Parents of layers that a checkpoint has, read once."""
        if name[:2] not in self._parents:
            self._parents[name[:2]] = parents_in(self._root, *name[:2])
        return self._parents[name[:2]]

    def _check_parents(self, held: Sequence[Writer]) -> None:
        """Refuse to replace layers where others stay that have another parent."""
        for writer in held:
            layers = {**self._parents_stored(writer.name), **self._parents_begun(writer.name)}
            one_parent(layers, writer.options.parent, *writer.name[:2], ())

    def _begin(self, name: RepresentationName, *, overwrite: bool) -> str:
        """Make room for a representation, and return its path. It must not look complete before it is."""
        if self._check_free(name, overwrite=overwrite):
            return begin_beside(self._root, name.path)
        _chunked.write_group(self._root, name.path, {"complete": False})
        if self._index is not None:
            self._index.begin(name)
        return name.path

    def _check_free(self, name: RepresentationName, *, overwrite: bool) -> bool:
        """Whether there is a complete representation of a name, which may be replaced."""
        if name.model in self._coords:
            raise ValueError(f"a model cannot be called {name.model!r}: a coordinate of the examples has that name")
        self._check_case(name)
        present = _io.read_attributes(self._root, name.path)
        complete = bool((present or {}).get("complete"))
        if complete and not overwrite:
            raise RepresentationExistsError(
                f"{name.label!r} is already in the zoo {str(self._root.store_path)!r}; give it another name, or "
                f"write it with overwrite=True"
            )
        return complete

    def _check_case(self, name: RepresentationName) -> None:
        """Refuse a name that the disk takes for another: both would be in one place."""
        folder = _io.local_folder(self._root.store_path)
        taken = None if folder is None else under_other_case(str(folder), name.path)
        if taken is not None:
            raise RepresentationExistsError(
                f"{name.label!r} cannot be told from what is in the zoo as {decode(taken)!r}: this disk does not "
                f"distinguish upper and lower case. Give it another name"
            )

    def _finish(self, writer: Writer) -> None:
        if self._held is not None and writer.replaces:
            self._held.append(writer)
        else:
            self._complete([writer])

    def _complete(self, writers: Sequence[Writer]) -> None:
        """Make representations valid, and then bring those that replace others to their places."""
        try:
            for writer in writers:
                check_writing(self._root, writer.name)
            finished = [writer.finish() for writer in writers]
            for representation in finished:
                if (known := self._parents.get(representation.name[:2])) is not None:
                    known[representation.name.layer] = representation.parent
                if representation.beside:
                    settle(self._root, representation.path)
                if self._index is not None:
                    self._index.add(replace(representation, beside=False))
        finally:
            for writer in writers:
                end_writing(self, self._root, writer.name)
