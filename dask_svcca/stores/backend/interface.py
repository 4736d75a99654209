"""What the stores ask of the place where their bytes are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Backend(Protocol):
    """Bytes below a group.

    All methods raise `StoreAccessError` where the system or the service refuses or fails.
    """

    def read(self, key: str) -> bytes:
        """All bytes at a key.

        Raises
        ------
        FileNotFoundError
            Where there is nothing.
        """
        ...

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """All bytes at some keys, requested together; None where there is nothing."""
        ...

    def begin(self, key: str) -> Callable[[], bytes | None]:
        """Begin to read all bytes at a key, and return what waits for them; None where there is nothing."""
        ...

    def read_ranges(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """Read ranges of bytes into buffers, requested together.

        Parameters
        ----------
        wanted : mapping of str to sequence of (int, memoryview)
            By key: where a range begins, and the buffer that takes it. Adjacent ranges are one request.

        Raises
        ------
        FileNotFoundError
            Where there is nothing.
        OSError
            Where there are too few bytes.
        """
        ...

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        """Write bytes, one part behind the other, so that they are there whole or not at all."""
        ...

    def write_many(self, items: Iterable[tuple[str, Sequence[bytes | memoryview]]]) -> None:
        """Write keys and their parts, some at a time, in no order; items are made as they are needed."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write bytes where there is nothing; False where something is, or another process was faster."""
        ...

    def age(self, key: str) -> float | None:
        """Seconds since a key was written, by the clock of the store; None where it has none.

        Raises
        ------
        FileNotFoundError
            Where there is nothing.
        """
        ...

    def sweep(self, key: str) -> None:
        """Remove what is half written below a key, where nobody is writing, but for leases."""
        ...

    def children(self, key: str) -> list[str]:
        """Names of all that is directly below a key, in order, but for what is still being written."""
        ...

    def names(self, key: str) -> list[str]:
        """Names of what may be groups directly below a key, in order; none where there is nothing."""
        ...

    def names_many(self, keys: Sequence[str]) -> list[list[str]]:
        """The same below some keys, requested together."""
        ...

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of everything below a key, by the rest of its key."""
        ...

    def sizes_many(self, keys: Sequence[str]) -> list[dict[str, int]]:
        """The same below some keys, requested together."""
        ...

    def remove(self, key: str) -> None:
        """Remove what is at a key, and everything below it; nothing may be there."""
        ...

    def move(self, key: str, target: str) -> None:
        """Move all from below a key to below another, where nothing is but metadata; either metadata may stay."""
        ...

    def copy(self, key: str, target: str) -> None:
        """Copy everything below a key to below another, where nothing is; files may be shared until one is removed."""
        ...
