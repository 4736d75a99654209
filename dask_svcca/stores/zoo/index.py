"""What a zoo holds: its representations in order, read from their attributes without opening an array."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from dask_svcca.dims import canonical_dims
from dask_svcca.precision import coarsest, epsilon_of
from dask_svcca.stores import _io
from dask_svcca.stores._documents import SEAL
from dask_svcca.stores._metadata import are_texts, is_number, is_text, is_whole
from dask_svcca.stores._names import RepresentationName, decode, natural_order
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.zoo.replace import beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import zarr


RESERVED = frozenset(
    {"model", "checkpoint", "layer", "step", "depth", "dims", "shape", "dtype", "chunk_examples", "digest"}
    | {"source_dtype", "parent", "complete", "beside", SEAL}
)
"""Attributes of a representation that the zoo writes."""


_TYPES = frozenset({"float16", "float32", "float64"})

MOST_NEURONS, MOST_NUMBERS = 2**33, 2**59
"""Numbers in an example, and in all, beyond which attributes are not believed: no machine could hold one example."""


def name_of(path: str) -> RepresentationName:
    """Name of the representation at a path below the root of a zoo.

    Examples
    --------
    >>> name_of("resnet-s0/step00100/%2Fconv").layer
    '/conv'
    """
    return RepresentationName(*map(decode, path.split("/")))


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype[Any]) -> str:
    """Name of a type, which NumPy puts together anew each time: an index would spend a fifth of its time on that."""
    return str(dtype.name)


@lru_cache(maxsize=1024)
def _are_axes(dims: tuple[str, ...], shape: tuple[int, ...]) -> bool:
    """Whether these are axes in the order in which they are stored: asked once for all layers of one shape."""
    return canonical_dims(dims, shape, "") == dims


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
    chunk_examples : int
        Examples in a chunk.
    step, depth : float or None
        Position of the checkpoint in training, and of the layer in the network.
    digest : str
        Tells whether the stored values changed: see `chunk_digest`.
    source_dtype : str
        Name of the floating type of least precision that the values have been in: the stored one, unless they were
        computed in a coarser one.
    parent : str
        Label of the checkpoint that the training of this one began with; empty where none was given.
    beside : bool
        Whether the array is at `dask_svcca.stores.zoo.replace.beside`: what replaced another was interrupted there.
    """

    name: RepresentationName
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_examples: int
    step: float | None
    depth: float | None
    digest: str
    source_dtype: str = ""
    parent: str = ""
    beside: bool = False

    def __post_init__(self) -> None:
        # A zoo of an earlier version says nothing of it.
        object.__setattr__(self, "source_dtype", coarsest(self.source_dtype or None, _name_of(self.dtype)))

    @property
    def epsilon(self) -> float:
        """Relative precision of the activations: machine epsilon of ``source_dtype``."""
        return epsilon_of(self.source_dtype)

    @property
    def identity(self) -> str:
        """Tells whether anything changed that decides a subspace: the digest, and a precision that is not the values'.

        Of the same values, more directions are noise where they were computed in a coarser type.
        """
        return self.digest if self.source_dtype == _name_of(self.dtype) else f"{self.digest}-{self.source_dtype}"

    @property
    def label(self) -> str:
        """Name for people: see `RepresentationName.label`."""
        return self.name.label

    @property
    def path(self) -> str:
        """Path below the root of its zoo."""
        return self.name.path

    @property
    def place(self) -> str:
        """Path of the group that has its array ``activations``."""
        return beside(self.path) if self.beside else self.path

    @property
    def nbytes(self) -> int:
        """Size of the activations in bytes, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def attributes(self) -> dict[str, Any]:
        """JSON values, as stored."""
        return {
            **self.name._asdict(),
            "step": self.step,
            "depth": self.depth,
            "dims": list(self.dims),
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "chunk_examples": self.chunk_examples,
            "digest": self.digest,
            "source_dtype": self.source_dtype,
            "parent": self.parent,
        }

    @classmethod
    def from_attributes(cls, name: RepresentationName, attributes: Mapping[str, Any]) -> Self:
        """Read back what `attributes` gave.

        Parameters
        ----------
        name : RepresentationName
            By its path, whatever they say: to move a representation renames it, at once.
        attributes : mapping

        Raises
        ------
        KeyError, TypeError, ValueError
            Where they are not what `attributes` gives.
        """
        numbers = {known: attributes.get(known) for known in ("step", "depth")}
        for known, value in numbers.items():
            if value is not None and not (is_number(value) and math.isfinite(value)):
                raise TypeError(f"{known} is {value!r}")
        dims, shape, digest = attributes["dims"], attributes["shape"], attributes["digest"]
        parent = attributes.get("parent", "")
        if not are_texts(dims) or not is_text(digest) or not isinstance(shape, list) or not is_text(parent):
            raise TypeError(f"dims are {dims!r}, the shape {shape!r}, the digest {digest!r}, the parent {parent!r}")
        rows = attributes["chunk_examples"]
        if not all(is_whole(length, 1) for length in (rows, *shape)) or rows > shape[0]:
            raise ValueError(f"the shape is {shape!r}, in chunks of {rows!r} examples")
        dtype = np.dtype(str(attributes["dtype"]))
        if _name_of(dtype) not in _TYPES or math.prod(shape[1:]) > MOST_NEURONS or math.prod(shape) > MOST_NUMBERS:
            raise ValueError(f"activations of {dtype} and shape {shape}")
        if not _are_axes(tuple(dims), tuple(shape)):
            raise ValueError(f"the axes are {dims!r}")
        return cls(
            name=name,
            dims=tuple(dims),
            shape=tuple(shape),
            dtype=dtype,
            chunk_examples=rows,
            **numbers,
            digest=digest,
            source_dtype=attributes.get("source_dtype", ""),
            parent=parent,
            beside=bool(attributes.get("beside")),
        )


class Index:
    """Complete representations, ordered by model, step, checkpoint and depth; and the names of unfinished ones.

    Numbers in names are ordered by size.

    Attributes
    ----------
    ordered : list of Representation
    by_name : mapping of RepresentationName to Representation
    unfinished : set of RepresentationName
    damaged : set of RepresentationName
        Those among them whose attributes are damaged or gone.
    """

    def __init__(
        self,
        complete: Iterable[Representation],
        unfinished: Iterable[RepresentationName],
        damaged: Iterable[RepresentationName] = (),
    ) -> None:
        self.ordered = sorted(complete, key=_order)
        self.by_name = {item.name: item for item in self.ordered}
        self.unfinished = set(unfinished)
        self.damaged = set(damaged)

    @classmethod
    def read(cls, root: zarr.Group) -> Self:
        """Walk through a zoo: some 30 microseconds a representation where it is local."""
        complete, unfinished, damaged, bare = [], [], [], []
        examples = root.attrs["n_examples"]
        for path, attributes in _io.walk_attributes(root, depth=3):
            name = name_of(path)
            if name.path != path:
                # No name has this path: a folder of something else.
                continue
            if not attributes:
                bare.append(path)
            if attributes is None:
                continue
            unfinished.append(name)
            try:
                if attributes.get("complete"):
                    found = Representation.from_attributes(name, attributes)
                    if found.shape[0] == examples:
                        complete.append(found)
                        unfinished.pop()
                    else:
                        damaged.append(unfinished[-1])
            except (KeyError, TypeError, ValueError):
                # One representation that another program spoiled does not make the others unreadable.
                damaged.append(unfinished[-1])
        # A folder without attributes is none of ours, unless it has activations.
        arrays = backend_of(root).read_many([f"{path}/activations/zarr.json" for path in bare])
        damaged += [name_of(path) for path, document in zip(bare, arrays, strict=True) if document is not None]
        return cls(complete, {*unfinished, *damaged}, damaged)

    def begin(self, name: RepresentationName) -> None:
        """Count a representation as unfinished, and no longer as complete."""
        self._remove(name)
        self.damaged.discard(name)
        self.unfinished.add(name)

    def add(self, item: Representation) -> None:
        """Count a representation as complete."""
        self._remove(item.name)
        self.damaged.discard(item.name)
        self.unfinished.discard(item.name)
        insort(self.ordered, item, key=_order)
        self.by_name[item.name] = item

    def remove(self, name: RepresentationName) -> None:
        """Forget a representation, complete or not."""
        self._remove(name)
        self.damaged.discard(name)
        self.unfinished.discard(name)

    def _remove(self, name: RepresentationName) -> None:
        item = self.by_name.pop(name, None)
        if item is not None:
            del self.ordered[bisect_left(self.ordered, _order(item), key=_order)]

    def describe_missing(self, name: RepresentationName) -> str:
        """Sentence for a representation that is missing, with what there is instead."""
        for part, field_name in enumerate(("model", "checkpoint", "layer")):
            choices = sorted({other[part] for other in self.by_name if other[:part] == name[:part]})
            if name[part] not in choices:
                more = f" and {len(choices) - 8} more" if len(choices) > 8 else ""
                shown = ", ".join(map(repr, choices[:8])) + more
                return f"no {field_name} {name[part]!r} for {name.label!r} in this zoo; it has {shown or 'none'}"
        return f"no {name.label!r} in this zoo"


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
            "dtype": [_name_of(item.dtype) for item in items],
            "nbytes": np.array([item.nbytes for item in items], dtype=np.int64),
            "source_dtype": [item.source_dtype for item in items],
            "parent": [item.parent for item in items],
            "digest": [item.digest for item in items],
        },
        index=pd.Index([item.label for item in items], name="representation", dtype=object),
    )


def _order(item: Representation) -> tuple[Any, ...]:
    name = item.name
    step = math.inf if item.step is None else item.step
    depth = math.inf if item.depth is None else item.depth
    return (natural_order(name.model), step, natural_order(name.checkpoint), depth, natural_order(name.layer))
