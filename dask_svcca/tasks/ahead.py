"""Reading ahead: while the device computes with one step, threads read what the next one takes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self, TypeAlias

    from dask_svcca.devices.interface import Array, Device

    Wait: TypeAlias = "Callable[[], None]"
    """Returns when the device has done with all steps but the one that it is at: buffers of those may be filled."""


@dataclass(frozen=True, slots=True)
class Coming:
    """What is still to be read.

    Attributes
    ----------
    read : callable
        Given a `Wait`, reads it, in a thread or not.
    take : callable
        Makes of it what the step takes, in the thread of the task: sends it to the device.
    """

    read: Callable[[Wait], Any]
    take: Callable[[Any], Array]


class Ahead:
    """Gives the arrays of one step after another, those of the next read by threads while the device computes.

    A device that computes only while it is asked to leaves nothing to do beside it: there, each is read when its step
    comes. What is computed, and in which order, does not hang on threads; none is left behind the block.

    Parameters
    ----------
    device : Device
    threads : int
        How many arrays of a step are read at a time.
    allowed : bool
        Whether there is memory to read ahead.

    Examples
    --------
    >>> from dask_svcca.devices import HOST
    >>> with Ahead(HOST) as ahead:
    ...     [step for step in ahead([[1], [Coming(lambda wait: 2, str), 3]])]
    [[1], ['2', 3]]
    """

    def __init__(self, device: Device, threads: int = 1, *, allowed: bool = True) -> None:
        self._device = device
        self._threads: ThreadPoolExecutor | None = None
        if allowed and device.turns > 1:
            self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __call__(self, steps: Iterable[Sequence[Array | Coming]]) -> Iterator[list[Array]]:
        """The arrays of each step. Whoever takes them lets go of them before the next step.

        Parameters
        ----------
        steps : iterable of sequences of Array or Coming
            Asked for one by one, as late as it can be; what is there already is given as it is.
        """
        if self._threads is None:
            for step in steps:
                yield [one.take(one.read(self._device.mark())) if isinstance(one, Coming) else one for one in step]
            return
        remaining = iter(steps)
        coming = self._begun(self._threads, next(remaining, None), self._device.mark())
        while coming is not None:
            # All that was computed with the step before this one: the next is read to where that one was.
            before = self._device.mark()
            found = [_taken(one) for one in coming]
            # Otherwise what was read would stay beside what was made of it while the next is read.
            coming.clear()
            coming = self._begun(self._threads, next(remaining, None), before)
            yield found
            del found

    @staticmethod
    def _begun(
        threads: ThreadPoolExecutor, step: Sequence[Array | Coming] | None, wait: Wait
    ) -> list[tuple[Array | Future[Any], Callable[[Any], Array] | None]] | None:
        if step is None:
            return None
        return [(threads.submit(one.read, wait), one.take) if isinstance(one, Coming) else (one, None) for one in step]


def _taken(one: tuple[Array | Future[Any], Callable[[Any], Array] | None]) -> Array:
    given, take = one
    return given if take is None else take(given.result())
