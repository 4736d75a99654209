"""Who may run: one comparison, and one store of subspaces, is for one run at a time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import zarr

    from dask_svcca.stores.backend import Backend
    from dask_svcca.stores.lease import Told

_KEYS = {"comparison": "representation_a/lease", "subspaces": ".lease", "sketches": "digest/lease"}
"""Where the leases are: beside the chunks of an array that is never made anew, or in a group that only this package
lists, since zarr warns of files that are none of its own."""


class Leases:
    """The leases of one run, given back when the context ends.

    Parameters
    ----------
    wait : bool
        Wait for other runs, in place of an error.
    told : callable, optional
        Called with a sentence that says for whom it waits.
    check : callable, optional
        Called while it waits; ends the waiting where it raises.
    """

    def __init__(self, *, wait: bool, told: Told | None, check: Callable[[], None] | None = None) -> None:
        self._wait, self._told, self._check = wait, told, check
        self._held: dict[str, Lease] = {}
        self._places: dict[str, Backend] = {}
        self._stack = ExitStack()
        self._inherited = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def take(self, root: zarr.Group, kind: str, place: str = "") -> None:
        """Take the lease of a store, unless this run has it, or the store can only be read.

        Parameters
        ----------
        root : zarr.Group
        kind : {"comparison", "subspaces", "sketches"}
        place : str, optional
            Where the store will be, if it is still made elsewhere.

        Raises
        ------
        StoreInUseError
            Where another run has it.
        """
        # Nobody changes what can only be read, and no lease could be left there.
        if kind in self._held or root.read_only:
            return
        noun = "store of subspaces" if kind == "subspaces" else kind
        self._places[kind] = backend_of(root)
        lease = Lease(
            self._places[kind],
            _KEYS[kind],
            f"the {noun} {(place or str(root.store_path))!r}",
            "Wait for that run with wait=True (--wait), or let it end",
        )
        self._stack.callback(lease.release)
        self._held[kind] = lease
        self._inherited |= lease.take(wait=self._wait, told=self._told, check=self._check)

    def follow(self, root: zarr.Group | None) -> None:
        """Follow a comparison that was made elsewhere to its place; None where another run was faster."""
        lease = self._held.get("comparison")
        if lease is None:
            return
        if root is None:
            self._held.pop("comparison").release()
        else:
            self._places["comparison"] = backend_of(root)
            lease.move(self._places["comparison"])

    def check(self) -> None:
        """Raise `StoreInUseError` where another run has taken one over, since it was not renewed in time."""
        for lease in self._held.values():
            lease.check()

    def sweep(self, *, used: bool) -> None:
        """Remove files that were left half written, where a process of this run may have died, or a run before did."""
        if used or self._inherited:
            for backend in self._places.values():
                backend.sweep("")
