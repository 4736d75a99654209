"""Activations from files that hold arrays: npy and npz."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dask_svcca import machine
from dask_svcca.capture._common import listing
from dask_svcca.errors import CaptureError, MemoryLimitError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays, of which only the headers are read.

    Attributes
    ----------
    path : str
    headers : mapping of str to (tuple of int, numpy.dtype)
        Shape and type of each array. The one array of an npy file is called ``""``.
    """

    path: str
    headers: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]

    def choose(self, name: str | None) -> list[str]:
        """Names of all arrays, or the given name alone.

        Raises
        ------
        CaptureError
            Where no array has that name; the message lists the names.
        """
        if name is None:
            return list(self.headers)
        if name not in self.headers or not name:
            raise CaptureError(
                f"{self.path!r} has no array {name!r}; it has {listing(filter(None, self.headers))}"
                f"{did_you_mean(name, self.headers)}"
            )
        return [name]

    def load(self, name: str) -> npt.NDArray[Any]:
        """One array; that of an npy file stays on disk until it is used."""
        with reading_arrays(self.path):
            loaded = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            shape, dtype = self.headers[name]
            size, most = math.prod(shape) * dtype.itemsize, machine.available_memory()
            if size > most:
                raise MemoryLimitError(
                    f"the array {name!r} of {self.path!r} takes {size:,} bytes of memory, and there are {most:,}. Save "
                    f"it as npy, which stays on disk"
                )
            with loaded:
                return np.asarray(loaded[name])


def open_arrays(path: str | os.PathLike[str]) -> ArrayFile:
    """Look into an npy or npz file.

    Parameters
    ----------
    path : path

    Returns
    -------
    ArrayFile

    Raises
    ------
    CaptureError
        Where the file cannot be read, or holds Python objects.

    Examples
    --------
    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/layers.npz"
    >>> np.savez(file, conv1=np.zeros((5, 8, 8, 3), "float32"), fc=np.ones((5, 10), "float32"))
    >>> arrays = open_arrays(file)
    >>> arrays.headers["conv1"]
    ((5, 8, 8, 3), dtype('float32'))
    >>> arrays.load("fc").sum()
    np.float32(50.0)
    """
    with reading_arrays(path):
        headers = _headers(str(path))
    pickled = [name for name, (_, dtype) in headers.items() if dtype.hasobject]
    if pickled:
        which = f"array {pickled[0]!r}" if pickled[0] else "the array"
        raise CaptureError(
            f"{which} of {str(path)!r} holds Python objects, which are never loaded, since they could run code. "
            f"Save numbers, for example array.astype('float32')"
        )
    if not headers:
        raise CaptureError(f"{str(path)!r} holds no array")
    return ArrayFile(str(path), headers)


@contextmanager
def reading_arrays(path: object) -> Iterator[None]:
    """Raise `CaptureError` for a file that is damaged, or is not of arrays.

    NumPy evaluates a header as Python's literals, and zip archives may be encrypted or compressed in ways that Python
    does not know: each of them fails in its own way.
    """
    try:
        yield
    except (CaptureError, MemoryLimitError):
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        TypeError,
        LookupError,
        MemoryError,
        OverflowError,
        RuntimeError,
        SyntaxError,
        struct.error,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise CaptureError(
            f"cannot read {str(path)!r}: {said[:300]}. It must be npy, or npz with arrays of numbers or text (no "
            f"Python objects)"
        ) from error


def _headers(path: str) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:  # noqa: PTH123 - beside the members of an archive
            return {"": _header(file, os.fstat(file.fileno()).st_size)}
    with zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.infolist():
            with archive.open(member) as file:
                headers[member.filename.removesuffix(".npy")] = _header(file, member.file_size)
        return headers


def _header(file: BinaryIO | Any, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or (not dtype.hasobject and needed > size - file.tell()):
        raise ValueError(f"its header says {shape} of {dtype}, {needed:,} bytes, and {size - file.tell():,} follow")
    return shape, dtype
