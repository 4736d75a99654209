"""The store of sketches: one labelled array, and what is known of each of its rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dask_svcca.errors import DamagedStoreError, ParametersChangedError
from dask_svcca.sketches.family import Family
from dask_svcca.sketches.identity import FORMAT_VERSION, LEAST_ROWS, MOST_ROWS, check_identity
from dask_svcca.stores import _create, _io, _nodes
from dask_svcca.stores._access import accessing
from dask_svcca.stores._columns import chunks_with, values_at, write_columns
from dask_svcca.stores._documents import CRC_BYTES, array_document, crc, is_whole, unsealed
from dask_svcca.stores._ranges import ShortFileError
from dask_svcca.stores._stored import COLUMN_CHUNK
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.choice import as_slice
from dask_svcca.variables import COARSE, SKETCH, Variable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.stores._io import StoreLike

KIND: Final = "sketches"
DIM: Final = "representation"

ROWS: Final = 64
"""Rows in a chunk of numbers: few, since a chunk is stored whole."""

FEATURES: Final = 4096
"""Numbers of a row in a chunk, at most: of few rows, as few files as can be are opened."""

COARSE_FEATURES: Final = 256
"""The first numbers of a sketch, which are a coarser one, and are there once more in a byte each."""

STEPS: Final = 16
"""Steps of a coarser sketch in the root of the mean square of a number. Bytes end at eight times that; of layers of one
direction, whose numbers are spread the most, one in 80,000 is beyond."""

COLUMNS: Final = (
    Variable("representation", "axis", "string", "", "label: model/checkpoint/layer", coordinate=True),
    Variable("model", "axis", "string", "", "model", coordinate=True),
    Variable("checkpoint", "axis", "string", "", "checkpoint", coordinate=True),
    Variable("layer", "axis", "string", "", "layer", coordinate=True),
    Variable("step", "axis", "float64", np.nan, "training step of the checkpoint", coordinate=True),
    Variable("depth", "axis", "float64", np.nan, "position of the layer in the network", coordinate=True),
    Variable("neurons", "axis", "int64", -1, "number of neurons, or of channels of a conv layer"),
    Variable("samples", "axis", "int64", -1, "number of samples"),
    Variable(
        "domain", "axis", "int64", 0, "what a sample is, a place in the attribute domains; equal ones are compared"
    ),
    Variable(
        "norm",
        "axis",
        "float64",
        np.nan,
        "Frobenius norm of the Gram matrix of the centred samples; of an overlap, the square root of the rank",
    ),
    Variable("trace", "axis", "float64", np.nan, "trace of that matrix, over its norm"),
    Variable("concentration", "axis", "float64", np.nan, "share of the Gram matrix in few directions, 0 to 1", "1"),
    Variable("problem", "axis", "string", "", "why there is no sketch; empty if there is one"),
    Variable(
        "subspace", "axis", "string", "", "digest of the key of its subspace: the activations, and how they are read"
    ),
    Variable(
        "digest",
        "axis",
        "string",
        "",
        "digest of the activations and the order of their examples; empty where the sketch is not made",
    ),
)
"""All that is known of a row, the digest last: it says that the row is there."""


class SketchStore:
    """Sketches as this package reads and writes them.

    Attributes
    ----------
    root : zarr.Group
    family : Family
    chunk_rows, coarse_rows : int
        Rows in a chunk of numbers, and of coarser sketches.
    """

    chunk_rows = ROWS

    def __init__(self, root: zarr.Group) -> None:
        self.root = root
        attributes: dict[str, Any] = dict(root.attrs)
        check_identity(attributes, str(root.store_path))
        self.family = Family(attributes["size"], int(attributes["seed"]))
        self.coarse_rows = int(attributes["coarse_rows"])

    @classmethod
    def open(cls, store: StoreLike, *, mode: str = "r") -> Self:
        """Open sketches that are there.

        Raises
        ------
        StoreFormatError
            Where there are none, or of another version or family.
        """
        return cls(_io.open_root(store, mode=mode, kind=KIND, version=FORMAT_VERSION))

    @classmethod
    def create(cls, store: StoreLike, identity: Mapping[str, Any], expected: int) -> Self:
        """Make a store without rows, or open the one that another run has just made.

        Parameters
        ----------
        store : path, zarr store, or URL
        identity : mapping
            From `identity_of`.
        expected : int
            How many representations there will be, about.
        """
        rows = min(MOST_ROWS, max(LEAST_ROWS, 1 << max(0, expected - 1).bit_length()))
        attributes = {
            "format": f"dask-svcca-{KIND}",
            "format_version": FORMAT_VERSION,
            **identity,
            "coarse_rows": rows,
            "domains": [],
        }

        def fill(root: zarr.Group) -> None:
            _io.set_attributes(root, attributes)
            made = cls(root)
            made.write_columns({variable.name: np.empty(0, _dtype(variable)) for variable in COLUMNS})

        root = _create.create_whole(store, KIND, {}, fill)
        return cls.open(store, mode="r+") if root is None else cls(root)

    @property
    def place(self) -> str:
        """Where it is."""
        return str(self.root.store_path)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes, without the seal."""
        return unsealed(dict(self.root.attrs))

    def check(self, asked: Mapping[str, Any]) -> None:
        """Raise `ParametersChangedError` where these sketches are not the ones that are asked for.

        Parameters
        ----------
        asked : mapping
            From `identity_of`.
        """
        have = self.attributes
        if have["examples_digest"] != asked["examples_digest"]:
            raise ParametersChangedError(
                f"the sketches {self.place!r} are of {have['n_examples']} examples (digest "
                f"{have['examples_digest'][:8]}), the zoo has {asked['n_examples']} (digest "
                f"{asked['examples_digest'][:8]}): they are not the same. Make other sketches in another store"
            )
        for name, value in asked.items():
            if name != "n_examples" and have.get(name) != value:
                raise ParametersChangedError(
                    f"the sketches {self.place!r} were made with {name}={have.get(name)!r}, now {name}={value!r} is "
                    f"asked for. Ask for the same, or make other sketches in another store"
                )

    def domain(self, what: str) -> int:
        """Number of a kind of sample, which is added where it is new."""
        known = list(self.attributes["domains"])
        if what not in known:
            known.append(what)
            _io.set_attributes(self.root, {**self.root.attrs, "domains": known})
        return known.index(what)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One of the columns."""
        # Rows that are being added have no digest yet, and do not count.
        return _nodes.read_whole(self.root, name)[: self.rows]

    def values(self, name: str, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Some values of a column; no more of it is read than the chunks that they are in."""
        try:
            return values_at(self.root, _column(name), rows)
        except DamagedStoreError as error:
            raise self._damaged(error.key) from error

    def find(self, label: str) -> int | None:
        """Row of a representation; None where there is none."""
        rows = self.rows
        try:
            for chunk in chunks_with(self.root, DIM, label, rows):
                inside = np.arange(chunk * COLUMN_CHUNK, min(rows, (chunk + 1) * COLUMN_CHUNK))
                places = np.flatnonzero(values_at(self.root, _column(DIM), inside) == label)
                if len(places):
                    return int(inside[places[0]])
        except DamagedStoreError as error:
            raise self._damaged(error.key) from error
        return None

    @property
    def column_chunks(self) -> int:
        """Chunks that each column is in."""
        return -(-self.rows // COLUMN_CHUNK)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(_nodes.open_array(self.root, "digest").shape[0])

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All that is known of the rows, by name."""
        found = {variable.name: _nodes.read_whole(self.root, variable.name) for variable in COLUMNS}
        if not {one.name for one in COLUMNS if len(found[one.name]) < len(found["digest"])}:
            return {name: values[: len(found["digest"])] for name, values in found.items()}
        raise DamagedStoreError(
            f"the sketches {self.place!r} have columns of unequal lengths {sorted({*map(len, found.values())})}: a "
            f"part of them is missing. Make them anew in another place"
        )

    def whole_rows(self, count: int) -> npt.NDArray[np.bool_]:
        """Which of the rows have all their files, whatever is in them."""
        sizes, coarse = map(backend_of(self.root).sizes, (SKETCH, COARSE))
        prefix = len(SKETCH) + 1
        numbers = [all(key[prefix:] in sizes for key in self._keys(chunk)) for chunk in range(-(-count // ROWS))]
        rounded = [f"c/{chunk}/0" in coarse for chunk in range(-(-count // self.coarse_rows))]
        return _of_rows(numbers, ROWS, count) & _of_rows(rounded, self.coarse_rows, count)

    def write_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write all columns, and the sizes of the arrays of numbers with them; digests last."""
        rows = len(columns[DIM])
        backend = backend_of(self.root)
        document = array_document(
            shape=(rows, self.family.size),
            chunk_shape=(ROWS, self.wide),
            dtype="float32",
            fill=np.nan,
            dims=(DIM, "feature"),
            attributes={"long_name": "coordinates of the Gram matrix over its norm, real and imaginary parts in turns"},
        )
        backend.write(f"{SKETCH}/zarr.json", document)
        document = array_document(
            shape=(rows, self.coarse_features),
            chunk_shape=(self.coarse_rows, self.coarse_features),
            dtype="int8",
            fill=0,
            dims=(DIM, "coarse_feature"),
            attributes={
                "long_name": "the first coordinates, rounded; zeros where there is no sketch",
                "scale_factor": self.coarse_step,
            },
        )
        backend.write(f"{COARSE}/zarr.json", document)
        write_columns(self.root, [(variable, DIM, columns[variable.name]) for variable in COLUMNS[:-1]])
        self.write_digests(columns["digest"])
        _io.consolidate(self.root)

    def write_digests(self, digests: npt.NDArray[Any]) -> None:
        """Write which rows are there."""
        write_columns(self.root, [(COLUMNS[-1], DIM, digests)])

    def write_rows(self, rows: Mapping[int, npt.NDArray[np.float32]]) -> None:
        """Write the numbers of some rows; the others of their chunks stay."""
        for chunk, inside in _by_chunk(rows, ROWS).items():
            parts = [{row: one[start : start + self.wide] for row, one in inside.items()} for start in self._starts]
            self._write_chunks(self._keys(chunk), (ROWS, self.wide), "<f4", np.nan, parts)
        for chunk, inside in _by_chunk(rows, self.coarse_rows).items():
            coarse = {row: self.coarse(one[: self.coarse_features]) for row, one in inside.items()}
            shape = self.coarse_rows, self.coarse_features
            self._write_chunks([self._coarse_key(chunk)], shape, "i1", 0, [coarse])

    def _write_chunks(
        self,
        keys: Sequence[str],
        shape: tuple[int, int],
        dtype: str,
        fill: float,
        rows: Sequence[Mapping[int, npt.NDArray[Any]]],
    ) -> None:
        """Write some rows of chunks beside each other, each given its own numbers of them."""
        backend = backend_of(self.root)
        found = backend.read_many(keys) if len(rows[0]) < shape[0] else [None] * len(keys)
        blocks = []
        for stored, given in zip(found, rows, strict=True):
            block = np.full(shape, fill, dtype=dtype)
            if stored is not None and is_whole(stored) and len(stored) == block.nbytes + CRC_BYTES:
                block[:] = np.frombuffer(stored, dtype, block.size).reshape(shape)
            for row, numbers in given.items():
                block[row, : len(numbers)] = numbers
            blocks.append(block.data.cast("B"))
        backend.write_many((key, (block, crc(block))) for key, block in zip(keys, blocks, strict=True))

    def coarse(self, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
        """The first numbers of sketches, in a byte each."""
        rounded: npt.NDArray[np.float32] = np.rint(numbers / np.float32(self.coarse_step))
        return np.clip(rounded, -127, 127).astype(np.int8)

    @property
    def coarse_step(self) -> float:
        """What a step of a byte of `read_coarse` is."""
        # All numbers of a sketch together have a norm of one, but for the error of the sketch.
        return 1 / (STEPS * math.sqrt(self.family.size))

    def read_coarse(self, chunk: int, buffer: memoryview) -> npt.NDArray[np.int8]:
        """The first numbers of a chunk of sketches, rounded, into a buffer of `buffer_bytes`; zeros where none are."""
        numbers = np.frombuffer(self._read_chunk(self._coarse_key(chunk), buffer[: self._coarse_bytes]), np.int8)
        return numbers.reshape(self.coarse_rows, self.coarse_features)

    def read_part(self, chunk: int, part: int, buffer: memoryview) -> npt.NDArray[np.float32]:
        """One chunk of the numbers, into a buffer of `buffer_bytes`: all its rows, some of the features."""
        numbers = np.frombuffer(self._read_chunk(self._keys(chunk)[part], buffer[: self._part_bytes]), "<f4")
        return numbers.reshape(ROWS, self.wide)[:, : self.family.size - part * self.wide]

    def _read_chunk(self, key: str, buffer: memoryview) -> memoryview:
        """A chunk, read into a buffer of its size, without its checksum."""
        self._fill({key: [(0, buffer)]})
        if not is_whole(buffer):  # type: ignore[arg-type]
            raise self._damaged(key)
        return buffer[:-CRC_BYTES]

    @property
    def wide(self) -> int:
        """Numbers of a row in a chunk."""
        return min(FEATURES, self.family.size)

    @property
    def coarse_features(self) -> int:
        """Numbers of a coarser sketch."""
        return min(COARSE_FEATURES, self.family.size)

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the largest chunk, with its checksum."""
        return max(self._part_bytes, self._coarse_bytes)

    @property
    def _part_bytes(self) -> int:
        return ROWS * self.wide * 4 + CRC_BYTES

    @property
    def _coarse_bytes(self) -> int:
        return self.coarse_rows * self.coarse_features + CRC_BYTES

    @property
    def _starts(self) -> range:
        """Where the chunks begin that the numbers of a row are in."""
        return range(0, self.family.size, self.wide)

    def read_rows(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Numbers of some rows, (row, size)."""
        made = np.empty((len(rows), len(self._starts) * self.wide), dtype="<f4")
        chunks = rows // ROWS
        buffer = memoryview(bytearray(self.buffer_bytes))
        for chunk in np.unique(chunks).tolist():
            places = np.flatnonzero(chunks == chunk)
            inside = rows[places] - chunk * ROWS
            if len(places) > ROWS // 8:
                # Rows in their order, as nearly always, are copied without being picked one by one.
                here, there = as_slice(places), as_slice(inside)
                for part, start in enumerate(self._starts):
                    numbers = self.read_part(chunk, part, buffer)
                    made[here, start : start + numbers.shape[1]] = numbers[there]
            else:
                self._read_ranges(chunk, inside, made, places)
        return made[:, : self.family.size]

    def _read_ranges(
        self, chunk: int, inside: npt.NDArray[np.intp], made: npt.NDArray[np.float32], places: npt.NDArray[np.intp]
    ) -> None:
        """Few rows of a chunk, without its checksums."""
        order = np.argsort(inside).tolist()
        wanted = {
            key: [
                (
                    int(inside[one]) * self.wide * 4,
                    made[places[one], start : start + self.wide].data.cast("B"),
                )
                for one in order
            ]
            for start, key in zip(self._starts, self._keys(chunk), strict=True)
        }
        self._fill(wanted)

    def _fill(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """Read ranges of files into buffers; an error names the file that is gone, or too short."""
        backend = backend_of(self.root)
        with accessing(self.place):
            try:
                backend.read_ranges(wanted)
            except (FileNotFoundError, ShortFileError) as error:
                wholes = {SKETCH: self._part_bytes, COARSE: self._coarse_bytes}
                sizes = {
                    f"{name}/{key}": size == whole
                    for name, whole in wholes.items()
                    for key, size in backend.sizes(name).items()
                }
                raise self._damaged(next((key for key in wanted if not sizes.get(key)), next(iter(wanted)))) from error

    def _damaged(self, key: str) -> DamagedStoreError:
        place = self.place.removeprefix("file://")
        return DamagedStoreError(
            f"the file {key!r} of the sketches {place!r} is missing, or is not what was written. Mark what is "
            f"damaged as missing with dask-svcca verify {place} --repair, and make the sketches again: it is made anew",
            key,
        )

    def _keys(self, chunk: int) -> list[str]:
        return [f"{SKETCH}/c/{chunk}/{part}" for part in range(len(self._starts))]

    @staticmethod
    def _coarse_key(chunk: int) -> str:
        return f"{COARSE}/c/{chunk}/0"


def _of_rows(chunks: Sequence[bool], high: int, count: int) -> npt.NDArray[np.bool_]:
    """What is said of chunks of so many rows, for each row."""
    return np.repeat(np.array(chunks, dtype=np.bool_), high)[:count]


def _by_chunk(rows: Mapping[int, npt.NDArray[np.float32]], high: int) -> dict[int, dict[int, npt.NDArray[np.float32]]]:
    """By chunk of so many rows, what is given of the rows in it."""
    found: dict[int, dict[int, npt.NDArray[np.float32]]] = {}
    for row in sorted(rows):
        found.setdefault(row // high, {})[row % high] = rows[row]
    return found


def _column(name: str) -> Variable:
    return next(one for one in COLUMNS if one.name == name)


def _dtype(variable: Variable) -> Any:
    return object if variable.dtype == "string" else variable.dtype
