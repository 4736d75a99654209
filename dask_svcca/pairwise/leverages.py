"""Which samples are extreme in both arrays: sums of products of leverages, from one more pass over the examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from dask_svcca.kernels.pairs import squared_magnitudes
from dask_svcca.pairwise.arrays import as_floating, chunked_by_example, examples_at_a_time
from dask_svcca.pairwise.layout import frequency_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.kernels._types import FloatArray, InexactArray
    from dask_svcca.pairwise.layout import Member
    from dask_svcca.pairwise.principals import DecomposedArray, Decomposition
    from dask_svcca.readings import Reading


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """From activations of an array to its whitened scores, at some of its frequencies.

    Attributes
    ----------
    reading : Reading
    mean : (neuron,)
    weights : tuple of (Member, (neuron, direction))
    """

    reading: Reading
    mean: FloatArray
    weights: tuple[tuple[Member, InexactArray], ...]

    def leverages(self, activations: npt.NDArray[Any]) -> FloatArray:
        """Squared norms of the scores, (frequency, sample)."""
        samples = self.reading(as_floating(activations))
        found = np.empty((len(self.weights), len(samples)))
        for place, (member, weights) in enumerate(self.weights):
            part = frequency_of(samples, self.reading, member)
            part = part - self.mean if member.frequency == 0 else part
            found[place] = squared_magnitudes(part @ weights).sum(axis=1)
        return found


def leverage_overlaps(decomposition: Decomposition) -> Any:
    """Sum over the samples of the products of both leverages, at each pair of frequencies.

    Parameters
    ----------
    decomposition : Decomposition
        Of two arrays.

    Returns
    -------
    (pairing,)
        Delayed where one of the arrays is a Dask array, which was read once before.
    """
    a, b = decomposition.arrays
    pairings = decomposition.layout.pairings
    both = _scores(a, [one.a for one in pairings]), _scores(b, [one.b for one in pairings])
    inputs = a.source, b.source
    lazy = next((source.values for source in inputs if source.lazy), None)
    if lazy is None:
        size = examples_at_a_time(inputs)
        parts = (slice(start, start + size) for start in range(0, a.source.examples, size))
        return np.sum([_overlaps(*both, *(source.values[part] for source in inputs)) for part in parts], axis=0)
    chunks = lazy.chunks[0]
    blocks = [chunked_by_example(source.values, chunks).to_delayed().ravel() for source in inputs]
    # A delayed value stands in the graph once, not once a chunk.
    left, right = map(dask.delayed, both)
    return dask.delayed(sum)([dask.delayed(_overlaps)(left, right, *each) for each in zip(*blocks, strict=True)])


def _scores(array: DecomposedArray, members: list[Member]) -> _Scores:
    principals = [(member, array.principals[member]) for member in members]
    weights = tuple((member, one.loadings / one.singular) for member, one in principals)
    return _Scores(array.source.reading, array.mean, weights)


def _overlaps(a: _Scores, b: _Scores, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> FloatArray:
    return np.asarray(np.einsum("fs,fs->f", a.leverages(x), b.leverages(y)))
