"""The samples of a representation, chunk by chunk."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.errors import InvalidActivationsError, UnreadableActivationsError
from dask_svcca.kernels.noise import precision_of_means
from dask_svcca.kernels.positions import chosen_positions
from dask_svcca.readings import Fourier, Positions
from dask_svcca.stores._access import UNREADABLE
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores._metadata import said
from dask_svcca.stores.zoo import chunk_digest, combined_digest
from dask_svcca.stores.zoo.examples import read_coord
from dask_svcca.tasks.ahead import Ahead, Coming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    import numpy.typing as npt

    from dask_svcca.devices.interface import Array
    from dask_svcca.kernels._types import BoolArray
    from dask_svcca.kernels.subspace import Eigenbasis
    from dask_svcca.plan.tasks import SubspaceTask
    from dask_svcca.tasks.ahead import Wait
    from dask_svcca.tasks.worker import Context

LARGEST = 1e140
"""Sum of squares about the mean up to which its square, and one over that, are numbers in double precision."""


class Samples:
    """The samples of a representation, as often as they are iterated over; held in memory as far as the task may.

    As a context it leaves no thread behind that reads ahead.

    Attributes
    ----------
    array : ChunkReader
    digests : dict of int to bytes
        Digests of the chunks read so far.
    read : int
        Bytes of activations read so far.
    epsilon : float
        Relative precision of the samples.
    neurons : int
        Number of neurons of a block.
    mask : (example, token) bool, or None
        Which tokens count, for a sequence under a mask.

    Raises
    ------
    UnreadableActivationsError
    InvalidActivationsError
        Where a mask does not fit.
    """

    def __init__(self, context: Context, task: SubspaceTask, *, held: int = 0) -> None:
        self._context, self._task = context, task
        try:
            self.array = ChunkReader(context.worker.zoo, f"{task.path}/activations")
        except UNREADABLE as error:
            raise _unreadable(error) from error
        if self.array.shape != task.shape or self.array.rows != task.chunk_examples:
            raise UnreadableActivationsError(
                f"cannot be read: its array has the shape {self.array.shape} in chunks of {self.array.rows} examples, "
                f"and its attributes say {task.shape} in chunks of {task.chunk_examples}"
            )
        self.mask = _mask(context, task)
        # Those of a DFT are held where they were transformed.
        free = context.device.memory()
        self._budget = held if free is None else min(held, free // 2)
        self._held: dict[int, Array] = {}
        self.digests: dict[int, bytes] = {}
        self.read = 0
        # Under a mask, that of the example with the fewest positions holds for all.
        averaged = task.reading.averaged
        if self.mask is not None and averaged > 1:
            averaged = int(self.mask.sum(axis=1).min())
        self.epsilon = precision_of_means(task.epsilon, averaged)
        self.neurons = task.reading.neurons(self.array.shape[-1])
        self._ahead = Ahead(context.device, allowed=task.memory.ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ahead.__exit__(kind, error, traceback)

    def __iter__(self) -> Iterator[Array]:
        yield from self.of_chunks(0, self.array.chunks)
        verify(self.digests, self._task.digest)

    def of_chunks(self, first: int, stop: int) -> Iterator[Array]:
        """Samples of some chunks, (sample, block, neuron) each; those of a DFT are on the device."""
        for (samples,) in self._ahead(map(partial(self._coming, stop), range(first, stop))):
            # A mask may leave no chosen position in a whole chunk.
            if len(samples):
                yield samples
            # Otherwise it would be held while the next chunk is read; callers delete theirs too.
            del samples

    def _coming(self, stop: int, chunk: int) -> Sequence[Array | Coming]:
        if chunk in self._held:
            return [self._held[chunk]]
        following = chunk + 1 < stop and chunk + 1 not in self._held
        return [Coming(partial(self._read_digested, chunk, following), partial(self._take, chunk))]

    def _read_digested(self, chunk: int, following: bool, _: Wait) -> tuple[npt.NDArray[Any], bytes]:
        with self._context.timed("read"):
            activations = self._read(chunk, ahead=following)
            return activations, chunk_digest(activations)

    def _take(self, chunk: int, read: tuple[npt.NDArray[Any], bytes]) -> Array:
        activations, self.digests[chunk] = read
        self.read += activations.nbytes
        start = chunk * self.array.rows
        mask = None if self.mask is None else self.mask[start : start + len(activations)]
        with self._context.timed("transform"):
            samples = self._read_as(activations, mask)
        self._budget -= samples.nbytes
        if self._budget >= 0:
            self._held[chunk] = samples
        return samples

    def _read_as(self, activations: npt.NDArray[Any], mask: BoolArray | None) -> Array:
        reading = self._task.reading
        if isinstance(reading, Fourier):
            return self._context.device.split(reading.fold(activations), reading.cells)
        return reading(activations, mask)

    def _read(self, chunk: int, *, ahead: bool = False) -> npt.NDArray[Any]:
        try:
            return self.array.read(chunk, ahead=ahead)
        except UNREADABLE as error:
            raise _unreadable(error) from error

    def describe_not_finite(self) -> str:
        """How many values are not finite, and where the first is."""
        count, first = 0, ""
        for chunk in range(self.array.chunks):
            bad = np.argwhere(~np.isfinite(self._read(chunk)))
            if len(bad) and not first:
                index = (chunk * self.array.rows + int(bad[0][0]), *map(int, bad[0][1:]))
                first = f"the first at index {index}"
            count += len(bad)
        if not count:
            return "has values so large that their squares overflow"
        return f"has {count} of {math.prod(self.array.shape)} values that are NaN or infinite, {first}"


def check(samples: Samples, count: int, *, finite: bool) -> None:
    """Refuse samples that are too few, or whose moments are not finite."""
    if not finite:
        raise InvalidActivationsError(samples.describe_not_finite())
    if count < 2:
        raise InvalidActivationsError(f"has {count} sample; at least two are needed")


def not_constant(basis: Eigenbasis, count: int) -> Eigenbasis:
    """Refuse a basis without directions, or of such a scale that no measure can be trusted."""
    if not len(basis.spectrum):
        raise constant(count)
    check_scale(basis.total)
    return basis


def check_scale(squares: float) -> None:
    """Refuse samples whose sum of squares about the mean is so large, or so small, that its square is no number."""
    if not 1 / LARGEST < squares < LARGEST:
        size = "large" if squares > 1 else "small"
        raise InvalidActivationsError(
            f"has values so {size} that squares of its variance leave the range of double precision: their squares "
            f"about the mean have the sum {squares:.0e}. Multiply it by a constant, which changes hardly any measure"
        )


def constant(count: int) -> InvalidActivationsError:
    """What is said of samples without directions."""
    return InvalidActivationsError(
        f"is constant: none of its neurons varies over {count} samples by more than rounding"
    )


def verify(digests: Mapping[int, bytes], digest: str) -> None:
    """Raise where the store does not hold what was written: a lost chunk would read as zeros."""
    if combined_digest(digests[chunk] for chunk in sorted(digests)) != digest:
        raise UnreadableActivationsError(
            "cannot be read: the activations in the store are not those that were written; a chunk is missing or "
            "damaged, or they were written again meanwhile: then compare again"
        )


def _unreadable(error: BaseException) -> UnreadableActivationsError:
    return UnreadableActivationsError(f"cannot be read: {said(error)}")


def _mask(context: Context, task: SubspaceTask) -> BoolArray | None:
    """Which tokens count, for a sequence under a mask."""
    name = task.reading.mask
    if not name:
        return None
    mask = np.asarray(read_coord(context.worker.zoo, name), dtype=np.bool_)
    if mask.shape[1:] != task.reading.sizes:
        sizes, tokens = (" x ".join(map(str, shape)) for shape in (task.reading.sizes, mask.shape[1:]))
        raise InvalidActivationsError(
            f"has {sizes} tokens, and the mask {name!r} has {tokens}. Compare it without that mask, mask=None "
            f"(--no-mask), or keep it in a zoo with a mask of its own"
        )
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise InvalidActivationsError(f"has no token of example {int(empty[0])} that counts under the mask {name!r}")
    if isinstance(task.reading, Positions):
        choice = task.reading.choice
        if not mask[:, chosen_positions(choice, mask.shape[1:])].any():
            raise InvalidActivationsError(f"has no token among {choice} positions that counts under the mask {name!r}")
    return mask
