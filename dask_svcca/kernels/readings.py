"""Readings: how an array of activations becomes samples, blocks and neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from dask_svcca.kernels.fourier import Grid, fold, half_plane, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray, IntArray

ReadingKind: TypeAlias = Literal["neurons", "mean", "flatten", "last", "positions", "dft"]


@dataclass(frozen=True, slots=True)
class Reading:
    """How one representation is read.

    Attributes
    ----------
    kind : str
        ``neurons``: as it is, (example, neuron). ``mean``: averaged over positions. ``flatten``: each position's
        neurons are neurons of their own. ``last``: the last position. ``positions``: each position of each example is
        a sample. ``dft``: one block a spatial frequency.
    sizes : tuple of int
        Of the axes between examples and neurons.
    grid : tuple of int
        Under ``dft``, the grid of the DFT: ``sizes``, or a coarser one that it is folded on. Empty otherwise.
    positions : str
        Under ``positions``: ``all``, ``regular N`` or ``random N``.
    resampled : tuple of int
        Under ``positions``, sizes that the layer is resampled to before; empty for none.
    mask : str
        Name of the mask that says which positions count; empty where all do.
    """

    kind: ReadingKind
    sizes: Grid = ()
    grid: Grid = ()
    positions: str = "all"
    resampled: Grid = ()
    mask: str = ""

    @property
    def domain(self) -> str:
        """What a sample is: only representations with equal domains have samples in common."""
        sizes = self.resampled or self.sizes
        if self.kind != "positions" or math.prod(sizes) == 1:
            return "examples"
        where = f" where {self.mask!r}" if self.mask else ""
        return f"{self.positions} positions of {'x'.join(map(str, sizes))}{where}"

    @property
    def multiplicity(self) -> IntArray:
        """How often each block counts."""
        return half_plane(self.grid).multiplicity

    def neurons(self, channels: int) -> int:
        """Neurons of a block."""
        if self.kind == "flatten":
            return math.prod(self.sizes) * channels
        return channels * (math.prod(self.sizes) // math.prod(self.grid) if self.grid else 1)

    def samples(self, examples: int) -> int:
        """Number of samples, without regard to masked positions."""
        if self.kind != "positions":
            return examples
        return examples * len(chosen_positions(self.positions, self.resampled or self.sizes))

    def directions(self, shape: Sequence[int]) -> int:
        """Most directions that activations of a shape can have, over all blocks."""
        return len(self.multiplicity) * min(self.neurons(shape[-1]), self.samples(shape[0]))

    def by_samples(self, shape: Sequence[int]) -> bool:
        """Whether directions are found by way of the samples: neurons outnumber them."""
        return len(self.multiplicity) == 1 and self.neurons(shape[-1]) > self.samples(shape[0])

    def __call__(self, activations: FloatArray, mask: BoolArray | None = None) -> InexactArray:
        """Read one chunk.

        Parameters
        ----------
        activations : (example, *sizes, neuron)
        mask : (example, position), optional
            Positions that count; padding is false.

        Returns
        -------
        (sample, block, neuron)
        """
        match self.kind:
            case "neurons":
                return activations[:, np.newaxis]
            case "flatten":
                return activations.reshape(len(activations), 1, -1)
            case "dft":
                folded = fold(activations, self.sizes, self.grid) if self.grid != self.sizes else activations
                return split(folded, self.grid)
            case "mean":
                return mean_over_positions(activations, mask)
            case "last":
                return last_position(activations, mask)
            case "positions":
                return self._positions(activations, mask)

    def _positions(self, activations: FloatArray, mask: BoolArray | None) -> FloatArray:
        if self.resampled:
            activations = resample(activations, self.resampled)
        rows = activations.reshape(len(activations), -1, activations.shape[-1])
        chosen = chosen_positions(self.positions, self.resampled or self.sizes)
        rows = rows[:, chosen]
        samples = rows.reshape(-1, rows.shape[-1]) if mask is None else rows[mask[:, chosen]]
        return samples[:, np.newaxis]


def mean_over_positions(activations: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Each example's mean over its positions.

    Parameters
    ----------
    activations : (example, ..., neuron)
    mask : (example, position), optional
        Positions that count.

    Returns
    -------
    (example, 1, neuron)
        In double precision.

    Examples
    --------
    >>> mean_over_positions(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[[3., 4.]]])
    >>> mean_over_positions(np.arange(4.0).reshape(1, 4, 1), np.array([[True, True, False, False]]))
    array([[[0.5]]])
    """
    flat = activations.reshape(len(activations), -1, activations.shape[-1])
    if mask is None:
        return np.asarray(flat.mean(axis=1, dtype=np.float64, keepdims=True))
    weights = mask / mask.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("ep,epn->en", weights, flat.astype(np.float64)))[:, np.newaxis]


def last_position(activations: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Each example's last position that counts.

    Parameters
    ----------
    activations : (example, position, neuron)
    mask : (example, position), optional

    Returns
    -------
    (example, 1, neuron)

    Examples
    --------
    >>> last_position(np.arange(3.0).reshape(1, 3, 1), np.array([[True, True, False]]))
    array([[[1.]]])
    """
    length = activations.shape[1]
    last = np.full(len(activations), length - 1) if mask is None else length - 1 - np.argmax(mask[:, ::-1], axis=1)
    return np.asarray(activations[np.arange(len(activations)), last])[:, np.newaxis]


def chosen_positions(choice: str, sizes: Grid) -> IntArray:
    """Positions that a subset takes, the same for all layers of these sizes.

    Parameters
    ----------
    choice : str
        ``all``, ``regular N`` (evenly spaced) or ``random N`` (drawn once, without repetition).
    sizes : tuple of int

    Examples
    --------
    >>> chosen_positions("regular 3", (3, 3))
    array([0, 4, 8])
    """
    total = math.prod(sizes)
    kind, *number = choice.split()
    count = min(total, int(number[0])) if number else total
    if kind == "random":
        return np.sort(np.random.default_rng(0).choice(total, size=count, replace=False))
    if kind == "regular":
        return np.unique(np.linspace(0, total - 1, count).round().astype(int))
    return np.arange(total)


def resample(activations: FloatArray, sizes: Grid) -> FloatArray:
    """Average over the cells of another grid, with the shares of positions that a cell covers in part.

    Parameters
    ----------
    activations : (example, *spatial, neuron)
    sizes : tuple of int

    Returns
    -------
    (example, *sizes, neuron)
        In double precision.

    Examples
    --------
    >>> resample(np.array([0.0, 1.0, 2.0]).reshape(1, 3, 1), (2,))[0, :, 0].round(3)
    array([0.333, 1.667])
    """
    result = np.asarray(activations, dtype=np.float64)
    for axis, size in enumerate(sizes, start=1):
        old = result.shape[axis]
        edges = np.arange(size + 1) * (old / size)
        cells = np.arange(old)
        overlap = np.clip(np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells), 0, None)
        shares = overlap / overlap.sum(axis=1, keepdims=True)
        result = np.moveaxis(np.tensordot(shares, result, axes=(1, axis)), 0, axis)
    return result
