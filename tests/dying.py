"""A store that stops answering: as a machine that goes down in the middle of its work."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from zarr.storage import MemoryStore

from dask_svcca.stores import lease

if TYPE_CHECKING:
    from collections.abc import Iterator


class PowerCut(Exception):
    """The machine went down."""


class Power:
    """What some stores run on: so many changes happen, and then nothing is answered until it is back.

    Attributes
    ----------
    used : int
        Changes so far.
    """

    def __init__(self) -> None:
        self.used = 0
        self._left: int | None = None

    @contextmanager
    def cut_after(self, changes: int) -> Iterator[None]:
        """Inside, the power goes after some changes; it is back at the end, and what happened inside has ended."""
        with pytest.MonkeyPatch.context() as patch:
            # Another thread renews leases, and on a busy machine it would meet the cut in place of the run.
            patch.setattr(lease._Renewals, "_renewed", staticmethod(lambda _: None))
            self._left = changes
            try:
                yield
            except PowerCut:
                pass
            finally:
                self._left = None

    def ask(self) -> None:
        """Read something."""
        if self._left is not None and self._left < 0:
            raise PowerCut

    def use(self) -> None:
        """Change something."""
        self.used += 1
        if self._left is not None:
            self._left -= 1
            self.ask()


class DyingStore(MemoryStore):
    """A store in memory that runs on a power."""

    def __init__(self, power: Power, content: dict[str, Any] | None = None, *, read_only: bool = False) -> None:
        super().__init__(content, read_only=read_only)
        self.power = power

    def with_read_only(self, read_only: bool = False) -> DyingStore:
        return DyingStore(self.power, self._store_dict, read_only=read_only)

    async def get(self, *arguments: Any, **options: Any) -> Any:
        self.power.ask()
        return await super().get(*arguments, **options)

    async def set(self, *arguments: Any, **options: Any) -> None:
        self.power.use()
        await super().set(*arguments, **options)

    async def set_if_not_exists(self, *arguments: Any, **options: Any) -> None:
        self.power.use()
        await super().set_if_not_exists(*arguments, **options)

    async def delete(self, *arguments: Any, **options: Any) -> None:
        self.power.use()
        await super().delete(*arguments, **options)
