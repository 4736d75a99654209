"""Measures: records that say how one similarity number follows from couplings and spectra.

A measure is a sum over the blocks of a pair, each weighted by its multiplicity, and a last step that turns the sum
into the value. So it is the same record for a dense layer (one block) and a convolutional one (a block a frequency).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dask_svcca.errors import UnknownMeasureError
from dask_svcca.variables import Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack


@dataclass(frozen=True, slots=True)
class Totals:
    """What a measure may divide by: per representation, over all blocks with multiplicities.

    Arrays broadcast: those of a are (pair, 1), those of b (1, pair).

    Attributes
    ----------
    rank
        Number of directions.
    """

    rank: FloatArray


Sums: TypeAlias = "Callable[[PairStack], FloatArray]"
Value: TypeAlias = "Callable[[FloatArray, Totals, Totals], FloatArray]"


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of similarity.

    Attributes
    ----------
    name : str
        Name of the variable in a comparison.
    description : str
    sums : callable
        From a `PairStack`, one number a pair, (pair,); added up over blocks.
    value : callable
        From the sums and the `Totals` of a and b, the value.
    directions : {"kept", "all"}
        Whether it looks at the directions kept by the variance threshold, or at the full numerical rank.
    valid_range : (float, float)
    invariances : tuple of str
    reference : str
    symmetric : bool
    sense : {"similarity", "distance"}
    """

    name: str
    description: str
    sums: Sums
    value: Value
    directions: Literal["kept", "all"]
    valid_range: tuple[float, float]
    invariances: tuple[str, ...]
    reference: str
    symmetric: bool = True
    sense: Literal["similarity", "distance"] = "similarity"

    @property
    def variable(self) -> Variable:
        """Declaration of the variable that holds it."""
        return Variable(self.name, "pair", "float64", np.nan, self.description, "1")

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes stored with the variable."""
        return {
            **self.variable.attributes,
            "valid_range": list(self.valid_range),
            "symmetric": self.symmetric,
            "sense": self.sense,
            "invariant_to": list(self.invariances),
            "reference": self.reference,
        }


def _sum_of_correlations(pairs: PairStack) -> FloatArray:
    return np.asarray(pairs.correlations.sum(axis=-1))


def _over_smaller_rank(sums: FloatArray, a: Totals, b: Totals) -> FloatArray:
    # Cropped layers may keep nothing at the frequencies they share: nothing in common, and not zero by zero.
    return sums / np.maximum(np.minimum(a.rank, b.rank), 1)


SVCCA = Measure(
    name="svcca",
    description="mean canonical correlation of the directions that explain most variance",
    sums=_sum_of_correlations,
    value=_over_smaller_rank,
    directions="kept",
    valid_range=(0.0, 1.0),
    invariances=("translation", "isotropic scaling", "orthogonal transformation"),
    reference="Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS",
)

_REGISTRY: dict[str, Measure] = {measure.name: measure for measure in (SVCCA,)}


def find_measures(names: str | Iterable[str]) -> tuple[Measure, ...]:
    """Measures by name.

    Parameters
    ----------
    names : str or iterable of str

    Raises
    ------
    UnknownMeasureError
        Naming what there is.

    Examples
    --------
    >>> [measure.name for measure in find_measures("svcca")]
    ['svcca']
    """
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in _REGISTRY]
    if unknown:
        raise UnknownMeasureError(f"no measure {unknown[0]!r}; there are {', '.join(sorted(_REGISTRY))}")
    if not wanted:
        raise UnknownMeasureError("no measure asked for; the usual one is 'svcca'")
    return tuple(_REGISTRY[name] for name in dict.fromkeys(wanted))
