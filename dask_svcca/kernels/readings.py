"""Readings: how an array of activations becomes samples, blocks and neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray


def mean_over_positions(activations: FloatArray) -> FloatArray:
    """Each example's mean over all positions.

    Parameters
    ----------
    activations : (example, ..., neuron)
        Any number of axes between: spatial axes, tokens, or none.

    Returns
    -------
    (example, 1, neuron)
        One block. In double precision where there was anything to average.

    Examples
    --------
    >>> mean_over_positions(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[[3., 4.]]])
    """
    if activations.ndim == 2:
        return activations[:, np.newaxis]
    positions = tuple(range(1, activations.ndim - 1))
    return np.asarray(activations.mean(axis=positions, dtype=np.float64))[:, np.newaxis]
