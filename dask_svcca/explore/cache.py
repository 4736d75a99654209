"""Overviews that were computed, in a folder beside a comparison; never inside it."""

from __future__ import annotations

import os
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from dask_svcca.stores._io import folder_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import zarr
    from zarr.storage import StorePath

    from dask_svcca.explore.passes import Pass

MOST_FILES: Final = 64
"""Files that a cache has, at most; the oldest go."""


def fingerprint(root: zarr.Group, names: Sequence[str]) -> str:
    """Text that changes with what is stored of some variables: sizes and times of files, or the runs of the comparison.

    Parameters
    ----------
    root : zarr.Group
        The comparison.
    names : sequence of str
        Variables; an empty name stands for none.
    """
    digest = xxhash.xxh3_128(repr((root.attrs.get("runs"), root.attrs.get("parameters"))).encode())
    folder = folder_of(root.store_path)
    if folder is not None:
        for name in filter(None, names):
            for path, size, time in sorted(_files(folder / name)):
                digest.update(f"{path} {size} {time}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from _files(Path(entry.path))
                else:
                    found = entry.stat()
                    yield entry.path, found.st_size, found.st_mtime_ns
    except FileNotFoundError:
        # A run may be at work there.
        return


@dataclass(frozen=True, slots=True)
class Cache:
    """Results of passes, by what was asked for.

    Attributes
    ----------
    folder : Path or None
        None where nothing is kept.
    """

    folder: Path | None

    @classmethod
    def beside(cls, place: StorePath | None) -> Cache:
        """That of a comparison; none where it is not in a folder, or its folder cannot be written to."""
        folder = None if place is None else folder_of(place)
        if folder is None or not os.access(folder.parent, os.W_OK):
            return cls(None)
        return cls(folder.with_name(f"{folder.name}.explore"))

    def load(self, key: tuple[Any, ...], digest: str, one_pass: Pass) -> bool:
        """Fill in a pass that was written before, of the same values; false where there is none."""
        if self.folder is None:
            return False
        try:
            with np.load(self._file(key), allow_pickle=False) as found:
                if str(found["digest"]) != digest:
                    return False
                read = [(found[f"sums{number}"], found[f"counts{number}"]) for number in range(len(one_pass.targets))]
                low, high = found["limits"].tolist()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # Whatever a file there is, what it should hold can be computed again.
            return False
        shapes = [(target.sums.shape, target.counts.shape) for target in one_pass.targets]
        if [(sums.shape, counts.shape) for sums, counts in read] != shapes:
            return False
        for target, (sums, counts) in zip(one_pass.targets, read, strict=True):
            target.sums, target.counts = sums, counts
        one_pass.finish(low, high)
        return True

    def write(self, key: tuple[Any, ...], digest: str, one_pass: Pass) -> None:
        """Keep a pass; where the disk refuses, it is computed again the next time."""
        if self.folder is None:
            return
        arrays = {"digest": np.array(digest), "limits": np.array([one_pass.low, one_pass.high])}
        for number, target in enumerate(one_pass.targets):
            arrays |= {f"sums{number}": target.sums, f"counts{number}": target.counts}
        with suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                np.savez(file, allow_pickle=False, **arrays)
            Path(file.name).replace(self._file(key))
            files = sorted(self.folder.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
            for old in files[:-MOST_FILES]:
                old.unlink()

    def _file(self, key: tuple[Any, ...]) -> Path:
        if self.folder is None:
            raise AssertionError
        return self.folder / f"{xxhash.xxh3_64_hexdigest(repr(key).encode())}.npz"
