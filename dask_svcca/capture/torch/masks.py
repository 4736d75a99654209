"""The mask of the tokens that batches carry, as a coordinate of the zoo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.errors import CaptureError, MismatchedExamplesError
from dask_svcca.stores import _io
from dask_svcca.stores.zoo.examples import add_coord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_svcca.stores.zoo import Zoo

MASK = "mask"
"""Name of the coordinate: true for tokens, false for padding."""


def keep_mask(zoo: Zoo, masks: Sequence[npt.NDArray[np.bool_] | None], label: str) -> None:
    """Write the mask to a zoo that has none; one that it has must be the same.

    Parameters
    ----------
    zoo : Zoo
    masks : sequence of (example, token) array of bool, or None
        One for each batch.
    label : str
        Name for messages.

    Raises
    ------
    CaptureError
        Where some batches have a mask and others none.
    MismatchedExamplesError
        Where the zoo has another mask.
    """
    found = [mask for mask in masks if mask is not None]
    if not found:
        return
    if len(found) < len(masks):
        raise CaptureError(
            f"{len(found)} of the {len(masks)} batches for {label!r} have a mask of tokens: give it to all"
        )
    if len({mask.shape[1] for mask in found}) > 1:
        # Layers along tokens are refused where they are written; the others have no use for a mask.
        return
    mask = np.concatenate(found)
    there = {name: values for name, values in zoo.coords.items() if values.ndim == 2}
    if any(values.shape == mask.shape and np.array_equal(values.astype(bool), mask) for values in there.values()):
        return
    other = there.get(MASK, next(iter(there.values()), None))
    if other is not None and (MASK in there or other.shape != mask.shape):
        where = f"it has {mask.shape[1]} tokens an example, the zoo's {other.shape[1]}"
        if other.shape == mask.shape:
            first = int(np.argmax((other.astype(bool) != mask).any(axis=1)))
            where = f"the first example to differ is {zoo.examples.tolist()[first]!r}"
        raise MismatchedExamplesError(
            f"the mask of the tokens of {label!r} is not the zoo's: {where}. Feed the same tokens, keep one vector an "
            f"example with pool='mean', 'last' or 'first', or capture into a zoo of its own"
        )
    if mask.all():
        return
    if _io.read_attributes(zoo.root, MASK) is not None:
        raise CaptureError(
            f"the mask of the tokens of {label!r} cannot be stored: a model of the zoo is called {MASK!r}, as the mask "
            f"would be. Give the zoo the mask when it is created, under another name"
        )
    add_coord(zoo.root, MASK, mask)
