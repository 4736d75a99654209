"""Sketches as they are read: from a store, some numbers at a time, or from a Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
import xarray as xr

from dask_svcca.errors import DamagedStoreError, IncompatibleError, InvalidQuestionError, did_you_mean
from dask_svcca.sketches.family import Family
from dask_svcca.sketches.identity import check_identity
from dask_svcca.sketches.store import COARSE_FEATURES, COLUMNS, DIM, FEATURES, SketchStore
from dask_svcca.stores.choice import NAMES, NUMBERS, choose
from dask_svcca.variables import SKETCH

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.stores._io import StoreLike

SketchesLike: TypeAlias = "xr.Dataset | StoreLike"
"""What `sketch` or `open_sketches` returned, a part of it, or where sketches are."""

DATASET_ROWS: Final = 1024
"""Rows of a Dataset that are looked at together."""


class Opened(Protocol):
    """Some sketches: what is known of them, and their numbers."""

    @property
    def place(self) -> str:
        """Where they are."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What they were made of and by, and the kinds of samples."""
        ...

    @property
    def family(self) -> Family:
        """Which numbers they have."""
        ...

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def chunk_rows(self) -> int:
        """Rows that `read_part` reads."""
        ...

    @property
    def coarse_rows(self) -> int:
        """Rows that `read_coarse` reads."""
        ...

    def column(self, name: str) -> npt.NDArray[Any]:
        """One of the columns."""
        ...

    def values(self, name: str, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Some values of a column."""
        ...

    def find(self, label: str) -> int | None:
        """Row of a representation; None where there is none."""
        ...

    def read_part(self, chunk: int, part: int, buffer: memoryview) -> npt.NDArray[np.float32]:
        """Rows of a chunk, and `FEATURES` of their numbers; there may be more rows behind the last."""
        ...

    @property
    def coarse_step(self) -> float:
        """What the numbers of `read_coarse` are times."""
        ...

    def read_coarse(self, chunk: int, buffer: memoryview) -> npt.NDArray[np.int8] | npt.NDArray[np.float32]:
        """Rows of a chunk, and the first of their numbers; zeros or NaN where there are none."""
        ...

    def read_rows(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Numbers of some rows, (row, size)."""
        ...


class OfDataset:
    """Sketches of a Dataset; see `Opened`."""

    chunk_rows = coarse_rows = DATASET_ROWS
    coarse_step = 1.0

    def __init__(self, dataset: xr.Dataset) -> None:
        missing = [name for name in (SKETCH, *(one.name for one in COLUMNS)) if name not in dataset.variables]
        if missing or dataset[SKETCH].dims != (DIM, "feature"):
            raise IncompatibleError(
                f"this Dataset does not hold sketches: it lacks {', '.join(map(repr, missing)) or 'their dims'}. Pass "
                f"what sketch or open_sketches returned, or some of its rows, such as isel(representation=[0])"
            )
        self._dataset = dataset
        self.place = str(dataset.encoding.get("source", "a Dataset"))
        self.attributes: Mapping[str, Any] = dataset.attrs
        check_identity(self.attributes, self.place)
        self.family = Family(dataset.attrs["size"], int(dataset.attrs["seed"]))
        if dataset.sizes["feature"] != self.family.size:
            raise IncompatibleError(
                f"the sketches of this Dataset have {dataset.sizes['feature']} numbers of {self.family.size}; numbers "
                f"cannot be left out"
            )
        self.rows = dataset.sizes[DIM]

    @cached_property
    def _numbers(self) -> npt.NDArray[np.float32]:
        return np.asarray(self._dataset[SKETCH].to_numpy(), dtype=np.float32)

    def column(self, name: str) -> npt.NDArray[Any]:
        """See `Opened`."""
        return self._dataset[name].to_numpy()

    def values(self, name: str, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """See `Opened`."""
        return self._dataset[name].to_numpy()[rows]

    def find(self, label: str) -> int | None:
        """See `Opened`."""
        places = np.flatnonzero(self.column(DIM) == label)
        return int(places[0]) if len(places) else None

    def read_part(self, chunk: int, part: int, buffer: memoryview) -> npt.NDArray[np.float32]:  # noqa: ARG002
        """See `Opened`."""
        rows = slice(chunk * DATASET_ROWS, (chunk + 1) * DATASET_ROWS)
        return self._numbers[rows, part * FEATURES : (part + 1) * FEATURES]

    def read_coarse(self, chunk: int, buffer: memoryview) -> npt.NDArray[np.float32]:
        """See `Opened`."""
        return self.read_part(chunk, 0, buffer)[:, :COARSE_FEATURES]

    def read_rows(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """See `Opened`."""
        return self._numbers[rows]


def opened(sketches: SketchesLike | Opened) -> Opened:
    """Sketches, wherever they are.

    Raises
    ------
    StoreFormatError
        Where there are none, or of another version or family.
    IncompatibleError
        For a Dataset that is not of sketches.
    """
    if isinstance(sketches, xr.Dataset):
        return OfDataset(sketches)
    if isinstance(sketches, OfDataset | SketchStore):
        return sketches
    return SketchStore.open(sketches)  # type: ignore[arg-type]


def buffer_bytes(sketches: Opened) -> int:
    """Bytes of the buffer that `Opened.read_part` and `Opened.read_coarse` need."""
    return sketches.buffer_bytes if isinstance(sketches, SketchStore) else 0


def made(sketches: Opened, rows: npt.NDArray[np.intp] | None = None) -> npt.NDArray[np.bool_]:
    """Which rows have a sketch, of some or of all."""
    names = ("digest", "problem")
    digest, problem = (sketches.column(one) if rows is None else sketches.values(one, rows) for one in names)
    return np.asarray((digest != "") & (problem == ""), dtype=np.bool_)


def numbers_of(
    sketches: Opened, rows: npt.NDArray[np.intp], there: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float32]:
    """Numbers of some rows; NaN for those that have none: ``there`` says of all rows which have some, by default all.

    Raises
    ------
    DamagedStoreError
        Where numbers are gone of a row that has some.
    """
    wanted = np.arange(len(rows)) if there is None else np.flatnonzero(there[rows])
    read = sketches.read_rows(rows[wanted]) if len(wanted) else np.empty((0, sketches.family.size), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        lost = wanted[~np.isfinite(np.vecdot(read, read))]
    if len(lost):
        (label,) = sketches.values(DIM, rows[lost[:1]]).tolist()
        raise DamagedStoreError(
            f"the sketch of {label!r} in {sketches.place!r} is not what was written: it has NaN. Make the sketches anew"
        )
    if len(wanted) == len(rows):
        return read
    found = np.full((len(rows), sketches.family.size), np.nan, dtype=np.float32)
    found[wanted] = read
    return found


def places_of(sketches: Opened, where: Mapping[str, Any] | None, what: str) -> npt.NDArray[np.intp]:
    """Rows that a choice means, in their order.

    Parameters
    ----------
    sketches : Opened
    where : mapping or None
        As for `query`: names and patterns of ``representation``, ``model``, ``checkpoint`` and ``layer``, and numbers
        of ``step`` and ``depth``.
    what : str
        What is chosen, for messages.

    Raises
    ------
    RepresentationNotFoundError, InvalidQuestionError
    """
    if where is None:
        return np.arange(sketches.rows)
    keys = (*NAMES, *NUMBERS)
    if not isinstance(where, Mapping):
        raise InvalidQuestionError(
            f"representations of {what} are chosen by a mapping, such as dict(model='net'); got {where!r}"
        )
    for key in where:
        if key not in keys:
            raise InvalidQuestionError(
                f"{what} is chosen by {', '.join(map(repr, keys))}; got {key!r}{did_you_mean(key, keys)}"
            )
    columns = {key: sketches.column(key) for key in where}
    return np.flatnonzero(choose(columns, dict(where), sketches.rows, what))
