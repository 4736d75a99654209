"""What is made once of the examples of a representation among one another, for measures that compare that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import InvalidActivationsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray


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

    @property
    def components(self) -> int:
        """Numbers that a pair has of it: examples by how many neighbours are shared, and two sums of each side."""
        return self.count + 5

    def columns(self, _samples: int) -> int:
        """Numbers that are stored of each sample."""
        return self.count

    def dtype(self, _precision: str) -> np.dtype[Any]:
        """Type of the numbers that are stored."""
        return np.dtype(np.int32)

    def check(self, name: str, samples: int) -> None:
        """Raise where there are too few samples for it.

        Examples
        --------
        >>> Neighbours(10).check("mutual_knn", 8)
        Traceback (most recent call last):
        dask_svcca.errors.InvalidActivationsError: mutual_knn compares the 10 nearest of the other examples, and of 8
        examples each has 7 others: with fewer than 12 its value would not depend on the activations. Capture more
        examples, or ask for fewer neighbours, such as mutual_knn(k=3)
        """
        if samples < self.count + 2:
            less = f", or ask for fewer neighbours, such as {name.split('(', maxsplit=1)[0]}(k={samples // 2 - 1})"
            raise InvalidActivationsError(
                f"{name} compares the {self.count} nearest of the other examples, and of {samples} examples each has "
                f"{samples - 1} others: with fewer than {self.count + 2} its value would not depend on the "
                f"activations. Capture more examples{less if samples >= 4 else ''}"
            )


@dataclass(frozen=True, slots=True)
class Related:
    """How a measure follows from what is made of the examples among one another.

    Attributes
    ----------
    relation : Neighbours
    value : callable
        Takes the numbers that pairs have of it, (a, b, components), the number of samples, and whether samples are
        whole examples; gives the value, (a, b).
    """

    relation: Neighbours
    value: Callable[[FloatArray, int, bool], FloatArray]
