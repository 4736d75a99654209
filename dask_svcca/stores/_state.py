"""What a comparison has: one value that says whether it is the one asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from dask_svcca.errors import ParametersChangedError, UnknownMeasureError
from dask_svcca.measures import find_measures, with_companions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.measures import Measure


class Blocks(Protocol):
    """A matrix of which blocks are read: an array of zarr or of NumPy."""

    def __getitem__(self, place: tuple[slice, slice], /) -> Any:
        """Some rows and columns."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Some rows and columns of a matrix, in ascending order."""

    matrix: Blocks
    kept: npt.NDArray[np.int64]

    def __getitem__(self, place: tuple[slice, slice], /) -> npt.NDArray[np.uint8]:
        rows, columns = (self.kept[one] for one in place)
        if not len(rows) or not len(columns):
            return np.zeros((len(rows), len(columns)), dtype=np.uint8)
        whole = self.matrix[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return np.asarray(whole)[np.ix_(rows - rows[0], columns - columns[0])]


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonState:
    """What a comparison has: one value, read at once but for the status of pairs.

    Attributes
    ----------
    place : str
        Where it is.
    parameters : dict of str to object
        Parameters it was made with, as stored.
    versions : dict of str to str
        Version of each measure that it has, companions included.
    details : dict of str to tuple of int
        Details that it stores of every pair, and the sizes of their dims after those of the pair.
    settled : tuple of str
        Measures and details that partial pairs have.
    growing : bool
        Whether measures were added, and pairs may still be marked as done that lack them.
    tile : int
        Representations along each axis of a tile.
    examples_digest : str
    n_examples : int
    labels, digests : tuple of str
        Labels of its representations, and digests of their activations.
    status : (representation_a, representation_b)
        `PairStatus` values, read block by block; rows may follow those of the labels. Pairs whose values are gone are
        missing.
    subspaces : str
        Where its subspaces are; empty if inside.
    workers : int
        For how many workers it was planned when it was made or last grew; 0 where that is not known. A run that goes on
        with others makes the same tiles, and so the same sums in the same order.
    parts : dict of str to int
        By key of a subspace, in how many parts its activations were to be read, where these are several.
    """

    place: str
    parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    details: Mapping[str, tuple[int, ...]]
    settled: tuple[str, ...]
    growing: bool
    tile: int
    examples_digest: str
    n_examples: int
    labels: tuple[str, ...]
    digests: tuple[str, ...]
    status: Blocks
    subspaces: str
    workers: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)

    def without(self, positions: Iterable[int]) -> Self:
        """The same without the representations at some positions."""
        kept = np.setdiff1d(np.arange(len(self.labels)), list(positions))
        return replace(
            self,
            labels=tuple(self.labels[place] for place in kept),
            digests=tuple(self.digests[place] for place in kept),
            status=_Kept(self.status, kept),
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """Measures asked for so far, without companions."""
        return tuple(self.parameters["measures"])

    @property
    def names(self) -> tuple[str, ...]:
        """All measures, companions included, and details."""
        return (*self.versions, *self.details)

    def lacks(self, names: Iterable[str]) -> bool:
        """Whether any of these measures and details has no variable yet, or may lack values."""
        return self.growing or not set(names) <= set(self.names)

    def check(
        self, fixed: Mapping[str, Any], measures: Sequence[Measure], examples_digest: str, n_examples: int
    ) -> None:
        """Raise `ParametersChangedError` where this comparison is not the one asked for.

        `UnknownMeasureError` where it has a measure that is not registered.

        Parameters
        ----------
        fixed : mapping
            Parameters that a comparison cannot change.
        measures : sequence of Measure
            Measures that are asked for, those that it lacks included.
        examples_digest : str
        n_examples : int
            Digest and number of the zoo's examples.
        """
        remedy = "Ask for the same, or compare into another store"
        for name, asked in fixed.items():
            stored = self.parameters.get(name)
            if stored != asked and name == "mask_digest":
                raise ParametersChangedError(
                    f"the comparison {self.place!r} was made with a mask of other values (digest {str(stored)[:8]}, "
                    f"now {str(asked)[:8]}). {remedy}"
                )
            if stored != asked:
                raise ParametersChangedError(
                    f"the comparison {self.place!r} was made with {name}={stored!r}, now {name}={asked!r} is asked "
                    f"for. {remedy}"
                )
        for measure in with_companions((*self._registered(), *measures)):
            version = self.versions.get(measure.name, measure.version)
            if version != measure.version:
                raise ParametersChangedError(
                    f"the comparison {self.place!r} has {measure.name!r} in version {version!r}, and the measure "
                    f"now has version {measure.version!r}: what it computes has changed. Register it under another "
                    f"name, or compare into another store"
                )
        if self.examples_digest != examples_digest:
            raise ParametersChangedError(
                f"the comparison {self.place!r} has {self.n_examples} examples (digest {self.examples_digest[:8]}), "
                f"the zoo has {n_examples} (digest {examples_digest[:8]}): they are not the same. {remedy}"
            )

    def _registered(self) -> tuple[Measure, ...]:
        """The measures that it has, as they are registered in this process; work goes on with all of them."""
        registered: list[Measure] = []
        for name in self.measures:
            try:
                registered += find_measures(name)
            except UnknownMeasureError:
                raise UnknownMeasureError(
                    f"the comparison {self.place!r} has a measure {name!r}, which is not registered in this process. "
                    f"Import the module that registers it first (--measures-from on the command line), or compare into "
                    f"another store"
                ) from None
        return tuple(registered)
