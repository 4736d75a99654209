"""The store of sketches: one labelled array, and what is known of each of its rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import xxhash

from dask_svcca.errors import DamagedStoreError, ParametersChangedError
from dask_svcca.sketches.family import FAMILY, MEASURES, Family, digest_of, mask_digest_of, order_of, words_of
from dask_svcca.stores import _create, _io, _nodes
from dask_svcca.stores._access import accessing
from dask_svcca.stores._columns import chunks_with, values_at, write_columns
from dask_svcca.stores._documents import CRC_BYTES, array_document, crc, is_whole, unsealed
from dask_svcca.stores._metadata import are_texts, is_text
from dask_svcca.stores._metadata import is_whole as is_count
from dask_svcca.stores._ranges import ShortFileError
from dask_svcca.stores._stored import COLUMN_CHUNK
from dask_svcca.stores.backend import backend_of
from dask_svcca.stores.choice import as_slice
from dask_svcca.variables import COARSE, SKETCH, Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Representation, Zoo

KIND: Final = "sketches"
FORMAT_VERSION: Final = 2
DIM: Final = "representation"

FEATURES: Final = 256
"""Numbers of a sketch in a chunk: the first ones are a coarser sketch, which is there once more in a byte each."""

STEPS: Final = 16
"""Steps of a coarser sketch in the root of the mean square of a number. Bytes end at eight times that; of layers of one
direction, whose numbers are spread the most, one in 80,000 is beyond."""

LEAST_ROWS, MOST_ROWS = 64, 1024
"""Rows in a chunk: few for a small zoo, since chunks are stored whole, and few files for a large one."""

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
    """

    def __init__(self, root: zarr.Group) -> None:
        self.root = root
        attributes: dict[str, Any] = dict(root.attrs)
        check_identity(attributes, str(root.store_path))
        self.family = Family(attributes["size"], int(attributes["seed"]))
        self.chunk_rows = int(attributes["chunk_rows"])

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
            "chunk_rows": rows,
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
        chunks = range(-(-count // self.chunk_rows))
        whole = [f"c/{i}/0" in coarse and all(key[prefix:] in sizes for key in self._keys(i)) for i in chunks]
        return np.repeat(np.array(whole, dtype=np.bool_), self.chunk_rows)[:count]

    def write_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write all columns, and the sizes of the arrays of numbers with them; digests last."""
        rows = len(columns[DIM])
        backend = backend_of(self.root)
        document = array_document(
            shape=(rows, self.family.size),
            chunk_shape=(self.chunk_rows, FEATURES),
            dtype="float32",
            fill=np.nan,
            dims=(DIM, "feature"),
            attributes={"long_name": "coordinates of the Gram matrix over its norm, real and imaginary parts in turns"},
        )
        backend.write(f"{SKETCH}/zarr.json", document)
        document = array_document(
            shape=(rows, min(FEATURES, self.family.size)),
            chunk_shape=(self.chunk_rows, FEATURES),
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
        backend = backend_of(self.root)
        for chunk in sorted({row // self.chunk_rows for row in rows}):
            first = chunk * self.chunk_rows
            inside = {row - first: numbers for row, numbers in rows.items() if row // self.chunk_rows == chunk}
            keys = self._keys(chunk)
            found = backend.read_many(keys) if len(inside) < self.chunk_rows else [None] * len(keys)
            parts = []
            for number, stored in enumerate(found):
                part = np.full((self.chunk_rows, FEATURES), np.nan, dtype="<f4")
                if stored is not None and is_whole(stored) and len(stored) == part.nbytes + CRC_BYTES:
                    part[:] = np.frombuffer(stored, "<f4", part.size).reshape(part.shape)
                span = slice(number * FEATURES, (number + 1) * FEATURES)
                for row, numbers in inside.items():
                    part[row, : len(numbers[span])] = numbers[span]
                parts.append(part)
            stored_parts = [*zip(keys, parts, strict=True), (self._coarse_key(chunk), self.coarse(parts[0]))]
            backend.write_many((key, (part.data.cast("B"), crc(part.data.cast("B")))) for key, part in stored_parts)

    def coarse(self, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
        """The first numbers of a chunk of sketches, in a byte each."""
        there = np.where(np.isnan(numbers), np.float32(0), numbers)
        return np.clip(np.rint(there / np.float32(self.coarse_step)), -127, 127).astype(np.int8)

    @property
    def coarse_step(self) -> float:
        """What a step of a byte of `read_coarse` is."""
        # All numbers of a sketch together have a norm of one, but for the error of the sketch.
        return 1 / (STEPS * math.sqrt(self.family.size))

    def read_coarse(self, chunk: int, buffer: memoryview) -> npt.NDArray[np.int8]:
        """The first numbers of a chunk of sketches, rounded, into a buffer of `part_bytes`; zeros where none are."""
        whole = buffer[: self.chunk_rows * FEATURES + CRC_BYTES]
        numbers = np.frombuffer(self._read_chunk(self._coarse_key(chunk), whole), np.int8)
        return numbers.reshape(self.chunk_rows, FEATURES)

    def read_part(self, chunk: int, part: int, buffer: memoryview) -> npt.NDArray[np.float32]:
        """One chunk of the numbers, into a buffer of `part_bytes`: all its rows, some of the features."""
        numbers = np.frombuffer(self._read_chunk(self._keys(chunk)[part], buffer), "<f4")
        return numbers.reshape(self.chunk_rows, FEATURES)[:, : self.family.size - part * FEATURES]

    def _read_chunk(self, key: str, buffer: memoryview) -> memoryview:
        """A chunk, read into a buffer of its size, without its checksum."""
        self._fill({key: [(0, buffer)]})
        if not is_whole(buffer):  # type: ignore[arg-type]
            raise self._damaged(key)
        return buffer[:-CRC_BYTES]

    @property
    def part_bytes(self) -> int:
        """Bytes of a chunk of the numbers, with its checksum."""
        return self.chunk_rows * FEATURES * 4 + CRC_BYTES

    @property
    def parts(self) -> int:
        """Chunks that the numbers of a row are in."""
        return -(-self.family.size // FEATURES)

    def read_rows(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Numbers of some rows, (row, size)."""
        made = np.empty((len(rows), self.parts * FEATURES), dtype="<f4")
        chunks = rows // self.chunk_rows
        buffer = memoryview(bytearray(self.part_bytes))
        for chunk in np.unique(chunks).tolist():
            places = np.flatnonzero(chunks == chunk)
            inside = rows[places] - chunk * self.chunk_rows
            if len(places) > self.chunk_rows // 8:
                # Rows in their order, as nearly always, are copied without being picked one by one.
                here, there = as_slice(places), as_slice(inside)
                for part in range(self.parts):
                    numbers = self.read_part(chunk, part, buffer)
                    made[here, part * FEATURES : part * FEATURES + numbers.shape[1]] = numbers[there]
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
                    int(inside[one]) * FEATURES * 4,
                    made[places[one], part * FEATURES : (part + 1) * FEATURES].data.cast("B"),
                )
                for one in order
            ]
            for part, key in enumerate(self._keys(chunk))
        }
        self._fill(wanted)

    def _fill(self, wanted: Mapping[str, Sequence[tuple[int, memoryview]]]) -> None:
        """Read ranges of files into buffers; an error names the file that is gone, or too short."""
        backend = backend_of(self.root)
        with accessing(self.place):
            try:
                backend.read_ranges(wanted)
            except (FileNotFoundError, ShortFileError) as error:
                coarse = self.chunk_rows * FEATURES + CRC_BYTES
                sizes = {f"{SKETCH}/{key}": size == self.part_bytes for key, size in backend.sizes(SKETCH).items()}
                sizes |= {f"{COARSE}/{key}": size == coarse for key, size in backend.sizes(COARSE).items()}
                raise self._damaged(next((key for key in wanted if not sizes.get(key)), next(iter(wanted)))) from error

    def _damaged(self, key: str) -> DamagedStoreError:
        place = self.place.removeprefix("file://")
        return DamagedStoreError(
            f"the file {key!r} of the sketches {place!r} is missing, or is not what was written. Mark what is "
            f"damaged as missing with dask-svcca verify {place} --repair, and make the sketches again: it is made anew",
            key,
        )

    def _keys(self, chunk: int) -> list[str]:
        return [f"{SKETCH}/c/{chunk}/{part}" for part in range(self.parts)]

    @staticmethod
    def _coarse_key(chunk: int) -> str:
        return f"{COARSE}/c/{chunk}/0"


IDENTITY: Final = (
    "measure",
    "family",
    "size",
    "seed",
    "examples_digest",
    "conv",
    "sequence",
    "positions",
    "spatial_size",
    "mask",
    "mask_digest",
    "variance",
)
"""Attributes that must be the same for sketches to be compared."""


def identity_of(zoo: Zoo, parameters: Parameters, family: Family, measure: str = "cka") -> dict[str, Any]:
    """What decides the numbers of sketches, as it is stored: two stores with equal ones can be compared."""
    words = words_of(zoo.examples)
    return {
        "measure": measure,
        "family": FAMILY,
        "size": family.size,
        # As text: JSON numbers are not exact beyond 2**53 everywhere.
        "seed": str(family.seed),
        "examples_digest": digest_of(words),
        "n_examples": zoo.n_examples,
        **parameters.reading.to_dict(),
        "mask_digest": None if parameters.mask is None else mask_digest(zoo, parameters.mask),
        "variance": parameters.variance if measure == "overlap" else None,
    }


def mask_digest(zoo: Zoo, name: str) -> str:
    """Digest of a mask of a zoo, as sketches know it."""
    return mask_digest_of(words_of(zoo.examples), zoo.coords[name].astype(np.bool_))


def digests_of(zoo: Zoo, items: Sequence[Representation]) -> list[str]:
    """Digests of representations of a zoo, as sketches know them: of their values, and of the order of examples."""
    order = order_of(words_of(zoo.examples))
    return [xxhash.xxh3_128_hexdigest(f"{order} {item.identity}".encode()) for item in items]


def subspace_digest(key: str) -> str:
    """Digest of the key of a subspace, as sketches know it: keys are long, and rows many."""
    return xxhash.xxh3_128_hexdigest(key.encode())


_RULES: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "format_version": (f"{FORMAT_VERSION}, which this version reads", lambda value: value == FORMAT_VERSION),
    "measure": (f"one of {', '.join(map(repr, MEASURES))}", lambda value: value in MEASURES),
    "family": (f"the family {FAMILY!r}, which this version reads", lambda value: value == FAMILY),
    "size": ("an even number from 64 on", lambda value: is_count(value, 64) and value % 2 == 0 and value <= 2**24),
    "seed": ("a whole number, as text", lambda value: is_text(value) and value.isdecimal() and int(value) < 2**64),
    "examples_digest": ("a digest", lambda value: is_text(value) and len(value) == 32),
    "n_examples": ("a whole number from 2 on", lambda value: is_count(value, 2)),
    "chunk_rows": ("a whole number", lambda value: is_count(value, LEAST_ROWS) and value <= MOST_ROWS),
    "domains": ("a list of texts", are_texts),
}


def check_identity(attributes: Mapping[str, Any], place: str) -> None:
    """Raise `DamagedStoreError` where attributes are not those of sketches, or of another family."""
    for name, (what, valid) in _RULES.items():
        if not valid(attributes.get(name)):
            raise DamagedStoreError(
                f"the attribute {name!r} of the sketches {place!r} is not {what}: {str(attributes.get(name))[:80]!r}. "
                f"Another version made them, or the store is damaged: make the sketches anew"
            )


def _column(name: str) -> Variable:
    return next(one for one in COLUMNS if one.name == name)


def _dtype(variable: Variable) -> Any:
    return object if variable.dtype == "string" else variable.dtype
