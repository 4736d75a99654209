"""What the index of a pack says of each of its subspaces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dask_svcca.kernels.threshold import leading_directions
from dask_svcca.stores._metadata import is_text, is_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive directions that belong to one block of a representation.

    Attributes
    ----------
    index : int
    multiplicity : int
        How often each direction counts.
    directions : int
        Number of directions.
    """

    index: int
    multiplicity: int
    directions: int


@lru_cache(maxsize=256)
def _of_directions(blocks: tuple[Block, ...]) -> tuple[IntArray, IntArray]:
    """Index and multiplicity of the block of each direction: asked for once of all layers that are alike."""
    counts = [block.directions for block in blocks]
    numbers = [[block.index for block in blocks], [block.multiplicity for block in blocks]]
    index, multiplicity = (np.repeat(np.array(one, dtype=np.int64), counts) for one in numbers)
    index.flags.writeable = multiplicity.flags.writeable = False
    return index, multiplicity


@dataclass(frozen=True, slots=True)
class SubspaceEntry:
    """What the index of a pack says of one subspace.

    Attributes
    ----------
    key : str
        Made from the activations and their reading: see `subspace_key`. Empty where the activations could not be read
        this time: such an entry does not count.
    problem : str
        Why there is no subspace; empty if there is one. A sentence whose subject is the representation.
    samples, neurons : int
    domain : str
        What a sample is.
    grid : tuple of int
        Sizes of the grid of the DFT; empty without one.
    total : float
        Variance of all neurons, times the number of samples.
    blocks : tuple of Block
        In the order of the directions.
    with_loadings : bool
    orthonormal : bool
        Whether directions are orthonormal, with eigenvalues for their spectrum. Otherwise they are neurons, centred and
        of length one, with their sums of squares for the spectrum: together they hold all that the samples do. Or they
        are samples: see `is_kernel`.
    squares : float
        Sum of squares of all inner products of samples, where directions are not orthonormal.
    epsilon : float
        Relative precision of the samples, where directions are not orthonormal.
    share : float
        Share of the variance up to which thresholds find their directions here: below 1, these are the leading ones
        alone, and the samples are stored as they are beside them.
    sums : tuple of float
        Of what is stored of the samples among one another in place of directions, sums that a null is made of.
    """

    key: str
    problem: str = ""
    samples: int = 0
    neurons: int = 0
    domain: str = ""
    grid: tuple[int, ...] = ()
    total: float = 0.0
    blocks: tuple[Block, ...] = ()
    with_loadings: bool = False
    orthonormal: bool = True
    squares: float = 0.0
    epsilon: float = 0.0
    share: float = 1.0
    sums: tuple[float, ...] = ()

    @property
    def directions(self) -> int:
        """Number of stored directions."""
        return sum(block.directions for block in self.blocks)

    @property
    def is_kernel(self) -> bool:
        """Whether directions are samples, where neurons outnumber these.

        Scores are then the inner products of all samples, over the square root of the sum of their squares; the
        spectrum is what the samples have with themselves.
        """
        return not self.orthonormal and self.directions != self.neurons

    @property
    def block(self) -> IntArray:
        """The block of each direction, (direction,)."""
        return _of_directions(self.blocks)[0]

    @property
    def multiplicity(self) -> IntArray:
        """How often each direction counts, (direction,)."""
        return _of_directions(self.blocks)[1]

    def kept(self, spectrum: FloatArray, variance: float | None) -> BoolArray:
        """Which directions a variance threshold keeps, (direction,), from their eigenvalues."""
        return leading_directions(spectrum, self.multiplicity, variance, None if self.share == 1 else self.total)

    def to_json(self) -> dict[str, Any]:
        """JSON values, as stored."""
        if self.problem:
            return {"key": self.key, "problem": self.problem}
        return {
            "key": self.key,
            "samples": self.samples,
            "neurons": self.neurons,
            "domain": self.domain,
            "grid": list(self.grid),
            "total": self.total,
            "blocks": [[block.index, block.multiplicity, block.directions] for block in self.blocks],
            "with_loadings": self.with_loadings,
            **({} if self.orthonormal else {"squares": self.squares, "epsilon": self.epsilon}),
            **({} if self.share == 1 else {"share": self.share}),
            **({"sums": list(self.sums)} if self.sums else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave.

        Raises
        ------
        KeyError, TypeError, ValueError
            Where they are not what `to_json` gives.
        """
        if not isinstance(values, dict) or not is_text(values["key"]):
            raise TypeError(f"not an entry: {values!r}")
        if values.get("problem"):
            if not is_text(values["problem"]):
                raise TypeError(f"the problem is {values['problem']!r}")
            return cls(values["key"], values["problem"])
        return cls(
            key=values["key"],
            samples=_count(values["samples"]),
            neurons=_count(values["neurons"]),
            domain=str(values["domain"]),
            grid=tuple(map(_count, values["grid"])),
            total=float(values["total"]),
            blocks=tuple(Block(*map(_count, block)) for block in values["blocks"]),
            with_loadings=bool(values["with_loadings"]),
            orthonormal="squares" not in values,
            squares=float(values.get("squares", 0.0)),
            epsilon=float(values.get("epsilon", 0.0)),
            share=float(values.get("share", 1.0)),
            sums=tuple(map(float, values.get("sums", ()))),
        )


def _count(value: object) -> int:
    if not is_whole(value):
        raise TypeError(f"{value!r} is not a number of something")
    return value


@dataclass(frozen=True, slots=True)
class SubspaceRecord:
    """One subspace in its pack.

    Attributes
    ----------
    pack : str
        Name of the pack.
    position : int
        Place in the index of the pack.
    entry : SubspaceEntry
    first : int
        Its first direction among those of the pack.
    mean_start, loadings_start : int
        Where its mean and its loadings begin in the arrays of the pack.
    """

    pack: str
    position: int
    entry: SubspaceEntry
    first: int
    mean_start: int
    loadings_start: int

    @property
    def wide(self) -> np.dtype[Any]:
        """Type of mean and loadings."""
        return np.dtype(np.complex128 if self.entry.grid else np.float64)


def subspace_key(digest: str, reading: str) -> str:
    """Key of a subspace.

    Parameters
    ----------
    digest : str
        Digest of the activations.
    reading : str
        Identity of the reading.

    Examples
    --------
    >>> subspace_key("9f3a", "Neurons(sizes=())")
    '9f3a Neurons(sizes=())'
    """
    return f"{digest} {reading}"


def relation_key(key: str, relation: str) -> str:
    """Key of what is stored of the samples of a representation among one another.

    Parameters
    ----------
    key : str
        That of the subspace of the same samples.
    relation : str
        Identity of what is stored.

    Examples
    --------
    >>> relation_key("9f3a Neurons(sizes=())", "10-nearest-by-cosine")
    '9f3a Neurons(sizes=()) 10-nearest-by-cosine'
    """
    return f"{key} {relation}"


def chunk_length(samples: int, most: int) -> int:
    """Samples in a chunk of scores: as even as can be, so that no product runs over padding.

    Examples
    --------
    >>> chunk_length(5_000, 4_096), chunk_length(100, 4_096)
    (2500, 100)
    """
    return -(-samples // -(-samples // most))
