"""Scores that stay on a device from tile to tile: where all of them fit, they are read once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from dask_svcca.devices.interface import Array


class Held:
    """Arrays on a device, as many as there is room for; the one that was not used for longest goes first.

    A device whose memory is the processor's holds none: they would be there twice.

    Parameters
    ----------
    room : int
        Bytes that they may take: see `dask_svcca.plan.tasks.Job`.
    """

    def __init__(self, room: int) -> None:
        self._lock = threading.Lock()
        self._arrays: OrderedDict[Hashable, Array] = OrderedDict()
        self._room = room

    def get(self, key: Hashable) -> Array | None:
        """An array, if it is there."""
        with self._lock:
            if key not in self._arrays:
                return None
            self._arrays.move_to_end(key)
            return self._arrays[key]

    def add(self, key: Hashable, array: Array) -> None:
        """Hold an array, unless it takes more than there is in all."""
        with self._lock:
            if array.nbytes > self._room:
                return
            held = sum(one.nbytes for one in self._arrays.values())
            while self._arrays and held + array.nbytes > self._room:
                held -= self._arrays.popitem(last=False)[1].nbytes
            self._arrays[key] = array

    def clear(self) -> None:
        """Let go of all arrays."""
        with self._lock:
            self._arrays.clear()
