"""Positions of a layer: averaged, chosen, resampled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import BoolArray, FloatArray, IntArray
    from dask_svcca.kernels.fourier import Grid


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
    wide = flat.astype(np.float64)
    # Padding may be NaN, which no weight of zero takes away.
    wide[~mask] = 0
    weights = mask / mask.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("ep,epn->en", weights, wide))[:, np.newaxis]


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


def first_position(activations: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Each example's first position that counts, such as the token of a class.

    Parameters
    ----------
    activations : (example, position, neuron)
    mask : (example, position), optional

    Returns
    -------
    (example, 1, neuron)

    Examples
    --------
    >>> first_position(np.arange(3.0).reshape(1, 3, 1), np.array([[False, True, True]]))
    array([[[1.]]])
    """
    first = np.zeros(len(activations), dtype=np.int64) if mask is None else np.argmax(mask, axis=1)
    return np.asarray(activations[np.arange(len(activations)), first])[:, np.newaxis]


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
        # As one stack of matrices, which copies nothing.
        before, after = result.shape[:axis], result.shape[axis + 1 :]
        stack = result.reshape(math.prod(before), old, math.prod(after))
        result = np.matmul(shares, stack).reshape(*before, size, *after)
    return result
