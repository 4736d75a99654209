"""The largest share of what could be held at a time that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

STEPS: Final = 20


def largest(tried: Callable[[float], T], fits: Callable[[T], bool]) -> T:
    """What the largest share that fits gives: all of it, or found to a millionth; that of none where none fits.

    Parameters
    ----------
    tried : callable
        What a share between 0 and 1 gives.
    fits : callable
        Whether that fits.

    Examples
    --------
    >>> [round(largest(lambda share: 100 * share, lambda size: size <= room), 2) for room in (200, 30, -1)]
    [100.0, 30.0, 0.0]
    """
    best = tried(1.0)
    if fits(best):
        return best
    low, high, best = 0.0, 1.0, tried(0.0)
    for _ in range(STEPS):
        share = (low + high) / 2
        attempt = tried(share)
        if fits(attempt):
            low, best = share, attempt
        else:
            high = share
    return best
