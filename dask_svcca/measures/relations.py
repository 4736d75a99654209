"""What is made once of the examples of a representation among one another, for measures that compare that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.errors import InvalidActivationsError
from dask_svcca.kernels.cosines import chosen_count
from dask_svcca.kernels.distances import PAIR_NUMBERS, Form, Metric, value_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray

CHUNK_NUMBERS = 2**20
"""Numbers of neighbours in a chunk."""

MOST_INDICES = 2**24
"""Whole numbers up to which single precision has all."""

CHUNK_VALUES = 2**15
"""Values of distances in a chunk: few enough that a tile holds those of many layers."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest neighbours of each example, by cosine of the activations as they are: indices, nearest first.

    Attributes
    ----------
    count : int
        How many of each example.
    """

    count: int

    @property
    def identity(self) -> str:
        """Text that tells it from any other."""
        return f"{self.count}-nearest-by-cosine"

    def width(self, _samples: int) -> int:
        """Numbers that are stored in each row."""
        return self.count

    def rows(self, samples: int) -> int:
        """Rows that are stored."""
        return samples

    def chunk_rows(self, _samples: int) -> int:
        """Most rows in a chunk."""
        return max(1, CHUNK_NUMBERS // self.count)

    @property
    def held_bytes(self) -> int:
        """Bytes that a tile holds of a number that is stored."""
        return 4

    @property
    def pair_numbers(self) -> int:
        """Numbers that a pair has of it: of examples, by how many neighbours are shared."""
        return self.count + 1

    def dtype(self, _precision: str) -> np.dtype[Any]:
        """Type of the numbers that are stored."""
        return np.dtype(np.int32)

    def check(self, name: str, samples: int) -> None:
        """Raise where there are too few samples for it; see `check_neighbours`."""
        check_neighbours(self.count, name, samples)


@dataclass(frozen=True, slots=True)
class Cosines:
    """The nearest neighbours, by cosine, of all examples or a sample of them, and their distances to all examples.

    Attributes
    ----------
    count : int
        Neighbours of each example.
    """

    count: int

    @property
    def identity(self) -> str:
        """Text that tells it from any other."""
        return f"cosines-and-draws-with-{self.count}-nearest"

    def width(self, samples: int) -> int:
        """Numbers that are stored in each row: one of each chosen example."""
        return chosen_count(samples)

    def rows(self, samples: int) -> int:
        """Rows that are stored: distances, and then neighbours."""
        return samples + self.count

    def chunk_rows(self, samples: int) -> int:
        """Most rows in a chunk: all, since neighbours may be anywhere."""
        return self.rows(samples)

    @property
    def pair_numbers(self) -> int:
        """Numbers that a pair has of it: see `dask_svcca.kernels.cosines.second_order`."""
        return 2

    @property
    def held_bytes(self) -> int:
        """Bytes that a tile holds of a number that is stored, in either precision."""
        return 8

    def dtype(self, precision: str) -> np.dtype[Any]:
        """Type of the numbers that are stored."""
        return np.dtype(precision)

    def check(self, name: str, samples: int) -> None:
        """Raise where there are too few samples for it, or so many that single precision cannot tell them apart."""
        check_neighbours(self.count, name, samples)
        if samples >= MOST_INDICES:
            raise InvalidActivationsError(
                f"{name} takes fewer than {MOST_INDICES:,} samples; there are {samples:,}. Compare fewer positions"
            )


def check_neighbours(count: int, name: str, samples: int) -> None:
    """Raise where there are too few samples for a number of neighbours.

    Examples
    --------
    >>> check_neighbours(10, "mutual_knn", 8)
    Traceback (most recent call last):
    dask_svcca.errors.InvalidActivationsError: mutual_knn compares the 10 nearest of the other examples, and of 8
    examples each has 7 others: with fewer than 12 its value would not depend on the activations. Capture more examples,
    or ask for fewer neighbours, such as mutual_knn(k=3)
    """
    if samples < count + 2:
        less = f", or ask for fewer neighbours, such as {name.split('(', maxsplit=1)[0]}(k={samples // 2 - 1})"
        raise InvalidActivationsError(
            f"{name} compares the {count} nearest of the other examples, and of {samples} examples each has "
            f"{samples - 1} others: with fewer than {count + 2} its value would not depend on the activations. Capture "
            f"more examples{less if samples >= 4 else ''}"
        )


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances of all pairs of examples, or of a sample of pairs that is the same for all layers.

    Attributes
    ----------
    metric : {"correlation", "euclidean"}
    form : {"plain", "ranks", "centred"}
        See `dask_svcca.kernels.distances.PairDistances.found`.
    """

    metric: Metric
    form: Form

    @property
    def identity(self) -> str:
        """Text that tells it from any other."""
        return f"{self.form}-{self.metric}-distances-and-triples"

    def width(self, _samples: int) -> int:
        """Numbers that are stored in each row."""
        return 1

    def rows(self, samples: int) -> int:
        """Rows that are stored."""
        return value_count(samples, self.form)

    def chunk_rows(self, _samples: int) -> int:
        """Most rows in a chunk."""
        return CHUNK_VALUES

    @property
    def held_bytes(self) -> int:
        """Bytes that a tile holds of a number: as it is stored, in double precision, its square, that times it."""
        return 32

    @property
    def pair_numbers(self) -> int:
        """Numbers that a pair has of it: see `dask_svcca.kernels.distances.compare_values`."""
        return PAIR_NUMBERS

    def dtype(self, precision: str) -> np.dtype[Any]:
        """Type of the numbers that are stored."""
        return np.dtype(precision)

    def check(self, name: str, samples: int) -> None:
        """Raise where there are too few samples for it.

        Examples
        --------
        >>> Distances("euclidean", "plain").check("rsa", 3)
        Traceback (most recent call last):
        dask_svcca.errors.InvalidActivationsError: rsa compares the distances of pairs of examples, and needs at least 4
        examples; there are 3. Capture more
        """
        if samples < LEAST_EXAMPLES:
            raise InvalidActivationsError(
                f"{name} compares the distances of pairs of examples, and needs at least {LEAST_EXAMPLES} examples; "
                f"there are {samples}. Capture more"
            )


LEAST_EXAMPLES = 4
"""With three examples there are three distances, of which hardly any order would be a finding."""

Relation: TypeAlias = Neighbours | Cosines | Distances


@dataclass(frozen=True, slots=True)
class RelatedSums:
    """What a measure of the examples among one another is made of.

    Attributes
    ----------
    pairs : (a, b, number)
        Numbers that pairs have of a relation.
    a, b : (number, a, 1), (number, 1, b)
        Numbers of the layers themselves: of neighbours those of `dask_svcca.kernels.neighbours.neighbour_sums` and the
        share of ties, of cosines that share and `dask_svcca.kernels.cosines.sums_of_draws`, of distances those of
        `dask_svcca.kernels.distances.Found`, and then the length of the mean of the samples.
    samples : int
    of_examples : bool
        Whether samples are whole examples.
    """

    pairs: FloatArray
    a: FloatArray
    b: FloatArray
    samples: int
    of_examples: bool


@dataclass(frozen=True, slots=True)
class Related:
    """How a measure follows from what is made of the examples among one another.

    Attributes
    ----------
    relation : Neighbours, Cosines or Distances
    value : callable
        Takes `RelatedSums`, and gives the value, (a, b).
    """

    relation: Relation
    value: Callable[[RelatedSums], FloatArray]
