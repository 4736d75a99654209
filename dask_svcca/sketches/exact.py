"""Exact CKA of one layer with some others, from activations: what a search ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import UnreadableActivationsError
from dask_svcca.readings import choose_reading
from dask_svcca.stores._access import UNREADABLE
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores._metadata import said
from dask_svcca.stores.zoo.examples import read_coord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    from dask_svcca.kernels._types import InexactArray
    from dask_svcca.readings import Reading, ReadingOptions
    from dask_svcca.stores.zoo import Representation, Zoo


def samples_of(zoo: Zoo, item: Representation, options: ReadingOptions) -> tuple[Reading, InexactArray]:
    """Reading and samples of a representation, (sample, block, neuron), centred, in double precision."""
    reading = choose_reading(item.dims, item.shape, options)
    whole = np.concatenate([chunk.astype(np.result_type(chunk, np.float64)) for chunk in _chunks(zoo, item, reading)])
    whole[:, 0] -= whole[:, 0].mean(axis=0)
    return reading, whole


def exact_cka(
    zoo: Zoo,
    query: InexactArray,
    query_norm: float,
    items: Iterable[tuple[Representation, float]],
    options: ReadingOptions,
) -> Iterator[float]:
    """CKA of centred samples with representations of a zoo.

    Parameters
    ----------
    zoo : Zoo
    query : (sample, block, neuron)
        From `samples_of`.
    query_norm : float
        Frobenius norm of its Gram matrix.
    items : iterable of (Representation, float)
        Representations, and the norms of their Gram matrices.
    options : ReadingOptions
    """
    for item, norm in items:
        reading = choose_reading(item.dims, item.shape, options)
        blocks = query.shape[1]
        products: list[Any] = [0.0] * blocks
        start = 0
        for chunk in _chunks(zoo, item, reading):
            part = query[start : start + len(chunk)]
            for block in range(blocks):
                # One that is centred is enough.
                products[block] = products[block] + part[:, block].conj().T @ chunk[:, block]
            start += len(chunk)
        squares = [float(np.vdot(one, one).real) for one in products]
        yield float(np.dot(reading.multiplicity, squares)) / query_norm / norm


def gram_norm(reading: Reading, samples: InexactArray) -> float:
    """Frobenius norm of the Gram matrix of centred samples, (sample, block, neuron)."""
    total = 0.0
    for block, times in enumerate(reading.multiplicity.tolist()):
        x = samples[:, block]
        small = x.conj().T @ x if x.shape[1] <= len(x) else x @ x.conj().T
        total += times * float(np.vdot(small, small).real)
    return float(np.sqrt(total))


def by_label(zoo: Zoo) -> Mapping[str, Representation]:
    """Representations of a zoo by their labels."""
    return {item.label: item for item in zoo.entries()}


def _chunks(zoo: Zoo, item: Representation, reading: Reading) -> Iterator[InexactArray]:
    mask: npt.NDArray[np.bool_] | None = None
    if reading.mask:
        mask = np.asarray(read_coord(zoo.root, reading.mask), dtype=np.bool_)
    try:
        array = ChunkReader(zoo.root, f"{item.place}/activations")
        for chunk in range(array.chunks):
            activations = array.read(chunk, check=True)
            rows = slice(chunk * array.rows, chunk * array.rows + len(activations))
            yield reading(activations, None if mask is None else mask[rows])
    except UNREADABLE as error:
        raise UnreadableActivationsError(f"{item.label!r} cannot be read: {said(error)}") from error
