"""A zoo as it is read: its examples, its index, and its activations."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from dask_svcca.dims import EXAMPLE
from dask_svcca.errors import IncompleteRepresentationError, RepresentationNotFoundError
from dask_svcca.stores import _io, html
from dask_svcca.stores._digest import chunk_digest, combined_digest
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo.examples import read_coords
from dask_svcca.stores.zoo.index import Index, Representation, frame_of
from dask_svcca.stores.zoo.read import labelled
from dask_svcca.stores.zoo.tree import tree_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import pandas as pd
    import xarray as xr
    import zarr

Key: TypeAlias = str | tuple[str, str, str]
"""A representation's model, checkpoint and layer, or its label: all three with slashes between."""


class ZooView:
    """What a zoo has; `Zoo` adds what changes it.

    Parameters
    ----------
    root : zarr.Group
    """

    def __init__(self, root: zarr.Group) -> None:
        self._root = root
        self._index: Index | None = None

    def __repr__(self) -> str:
        entries = self.entries()
        size = sum(item.nbytes for item in entries)
        return (
            f"<dask_svcca.Zoo {str(self._root.store_path)!r}: {len(entries)} representations, "
            f"{self.n_examples} examples, {size / 1e6:.1f} MB>"
        )

    def _repr_html_(self) -> str:
        """What notebooks show: its bytes and chunks, and what there is of each model."""
        entries = self.entries()
        models: dict[str, list[Representation]] = {}
        for item in entries:
            models.setdefault(item.name.model, []).append(item)
        return html.page(
            f"Zoo {str(self._root.store_path)!r}",
            [
                ("examples", f"{self.n_examples:,}"),
                ("coordinates", ", ".join(self.coordinate_names) or "none"),
                ("representations", f"{len(entries):,} of {len(models):,} models"),
                ("bytes", f"{sum(item.nbytes for item in entries) / 1e6:,.1f} MB before compression"),
                ("chunks", f"{sum(-(-self.n_examples // max(1, item.chunk_examples)) for item in entries):,}"),
                ("unfinished", f"{len(self.unfinished):,}"),
            ],
            ("model", "checkpoints", "layers", "representations", "MB", "examples in a chunk"),
            [
                (
                    model,
                    len({item.name.checkpoint for item in items}),
                    len({item.name.layer for item in items}),
                    len(items),
                    f"{sum(item.nbytes for item in items) / 1e6:,.1f}",
                    _span([item.chunk_examples for item in items]),
                )
                for model, items in models.items()
            ],
        )

    @property
    def root(self) -> zarr.Group:
        """The zarr group that holds everything."""
        return self._root

    @property
    def coords(self) -> dict[str, npt.NDArray[Any]]:
        """Coordinates along the examples, such as ``label``, or along examples and tokens; without the ids."""
        return {name: values for name, values in self._coords.items() if name != EXAMPLE}

    @property
    def coordinate_names(self) -> list[str]:
        """Names of the coordinates, without the ids; nothing else is read."""
        names: dict[str, str] = self._root.attrs["example_coordinates"]  # type: ignore[assignment]
        return [name for name in names if name != EXAMPLE]

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
        """All complete representations, one row each, ordered by model, step, checkpoint and depth.

        Numbers in names are ordered by size: ``epoch-9`` stands before ``epoch-10``.
        """
        return frame_of(self.entries())

    @property
    def unfinished(self) -> list[str]:
        """Labels of the representations that were begun and never finished."""
        return [name.label for name in sorted(self._read_index().unfinished)]

    @property
    def damaged(self) -> dict[RepresentationName, str]:
        """Representations that do not count since their attributes cannot be read; a sentence for each."""
        files = {name: f"{name.path}/zarr.json" for name in sorted(self._read_index().damaged)}
        return {
            name: f"{name.label!r} cannot be read: its attributes, in {file!r}, are damaged or missing. Write it anew"
            for name, file in files.items()
        }

    def entries(self) -> list[Representation]:
        """Index of the complete representations, in the order of `representations`."""
        return list(self._read_index().ordered)

    def refresh(self) -> None:
        """Forget what was read; it is read again when next needed, with what other writers have added."""
        self._index = None
        self.__dict__.pop("_coords", None)

    def __contains__(self, key: object) -> bool:
        try:
            name = RepresentationName.of(key)
        except RepresentationNotFoundError:
            return False
        if self._index is None:
            # One file is read, instead of a walk through the whole store.
            return bool((_io.read_attributes(self._root, name.path) or {}).get("complete"))
        return name in self._index.by_name

    def __len__(self) -> int:
        return len(self._read_index().ordered)

    def __iter__(self) -> Iterator[RepresentationName]:
        """Names of the complete representations, in the order of `representations`."""
        return iter([item.name for item in self._read_index().ordered])

    def __getitem__(self, key: Key) -> xr.DataArray:
        """Activations of one representation, lazy: a dask array under xarray labels.

        Parameters
        ----------
        key : (model, checkpoint, layer), or their label
            For example ``zoo["net", "step1", "fc"]`` or ``zoo["net/step1/fc"]``.

        Raises
        ------
        RepresentationNotFoundError
            The message says what there is instead.
        IncompleteRepresentationError
        """
        name = RepresentationName.of(key)
        index = self._read_index()
        if name in index.unfinished:
            raise self._incomplete(name)
        if name not in index.by_name:
            raise RepresentationNotFoundError(index.describe_missing(name))
        return labelled(self._root, index.by_name[name], self._coords)

    def to_datatree(
        self, *, model: str | Sequence[str] | None = None, checkpoint: str | Sequence[str] | None = None
    ) -> xr.DataTree:
        """Some models or checkpoints as a tree of groups, ``model/checkpoint/layer``; nothing is read.

        As ``xr.open_datatree`` opens the whole zoo, which takes milliseconds for each representation.

        Parameters
        ----------
        model, checkpoint : str or sequence of str, optional
            A name, a pattern, or several: see `query`. Default: all.

        Raises
        ------
        RepresentationNotFoundError
            Where nothing matches; the message says what there is.

        Examples
        --------
        >>> from zarr.storage import MemoryStore
        >>> from dask_svcca import create_zoo
        >>> zoo = create_zoo(MemoryStore(), examples=range(3))
        >>> for step in range(3):
        ...     zoo.write("net", f"step{step}", "fc", [[1.0], [2.0], [4.0]])
        >>> list(zoo.to_datatree(model="net", checkpoint="step[12]")["net"])
        ['step1', 'step2']
        """
        return tree_of(self, model=model, checkpoint=checkpoint)

    def _incomplete(self, name: RepresentationName) -> IncompleteRepresentationError:
        return IncompleteRepresentationError(
            f"{name.label!r} was begun and never finished; write it again, whole, with overwrite=True"
        )

    @cached_property
    def _coords(self) -> dict[str, npt.NDArray[Any]]:
        return read_coords(self._root)

    def _read_index(self) -> Index:
        if self._index is None:
            self._index = Index.read(self._root)
        return self._index


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
