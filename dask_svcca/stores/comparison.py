"""The comparison: the labelled matrix of results, and the only truth about progress."""

from __future__ import annotations

import itertools
import operator
import zlib
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dask_svcca.errors import StoreFormatError
from dask_svcca.stores import _io, _nodes
from dask_svcca.stores._blocks import AXES, BlockArray, block_arrays
from dask_svcca.stores._columns import read_columns, write_columns, write_in_order, write_values
from dask_svcca.stores._documents import resized
from dask_svcca.stores._emptied import invalidate
from dask_svcca.stores._failures import TriedAgain, read_failures
from dask_svcca.stores._rechunk import check_rechunked, finish_rechunking, is_rechunking, rechunk
from dask_svcca.stores._results import create_pairs, create_results
from dask_svcca.stores._sound import SoundStatus, count_pairs
from dask_svcca.stores._state import ComparisonState
from dask_svcca.stores._stored import check_stored, damaged, pair_names, stored
from dask_svcca.stores.backend import backend_of
from dask_svcca.variables import (
    DETAIL_VARIABLES,
    PAIR_STATUS,
    REPRESENTATION_VARIABLES,
    STATUS_ATTRIBUTES,
    VALUED,
    PairStatus,
    Variable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import zarr

    from dask_svcca.measures import Measure
    from dask_svcca.stores._blocks import Block
    from dask_svcca.stores._io import StoreLike

FORMAT_VERSION = 4
RUNS = 20
"""Largest number of runs whose records are stored."""


class ComparisonStore:
    """A comparison as the engine reads and writes it. Users open it with `open_comparison`.

    Attributes
    ----------
    root : zarr.Group
    sound : SoundStatus or None
        The status of pairs, once the state was read.
    """

    def __init__(self, root: zarr.Group) -> None:
        self.root = root
        self.sound: SoundStatus | None = None

    @classmethod
    def create(
        cls,
        root: zarr.Group,
        *,
        parameters: Mapping[str, Any],
        tile: int,
        zoo: str,
        examples_digest: str,
        n_examples: int,
        subspaces: str = "",
        columns: Mapping[str, npt.NDArray[Any]] | None = None,
        planned: Mapping[str, Any] | None = None,
        **results: Any,
    ) -> Self:
        """Make a comparison of an empty group, each file once; what it has later, `add_results` and others add.

        Parameters
        ----------
        root : zarr.Group
        parameters, tile, zoo, examples_digest, n_examples, subspaces
            See `ComparisonState`.
        columns : mapping of str to (representation,), optional
            All variables along the representations; by default there are none.
        planned : mapping, optional
            See `set_planned`.
        **results
            See `add_results`; by default there is no measure yet.
        """
        columns = columns or {}
        count = len(columns.get("representation", ()))
        status = {**PAIR_STATUS.attributes, **STATUS_ATTRIBUTES}
        create_pairs(root, PAIR_STATUS, (), status, count=count, tile=tile)
        # Which of them comes first does not matter: what was begun and not finished is begun anew.
        empty = np.zeros(0)
        write_columns(
            root, [(one, axis, columns.get(one.name, empty)) for one in REPRESENTATION_VARIABLES for axis in AXES]
        )
        coordinates = [v.name + axis[-2:] for v in REPRESENTATION_VARIABLES if v.coordinate for axis in AXES]
        attributes = {
            "format": "dask-svcca-comparison",
            "format_version": FORMAT_VERSION,
            "parameters": {**parameters, "measures": [], "keep": []},
            "versions": {},
            "settled": [],
            "growing": False,
            "zoo": zoo,
            "subspaces": subspaces,
            "examples_digest": examples_digest,
            "n_examples": n_examples,
            "tile": tile,
            "coordinates": " ".join(name for name in coordinates if not name.startswith("representation")),
            **({} if planned is None else {"planned": planned}),
        }
        if results:
            attributes |= create_results(root, attributes, count=count, **results)
        # Written last: without these attributes a store is not yet a comparison.
        _io.consolidate(root, attributes)
        return cls(root)

    @classmethod
    def open(cls, store: StoreLike, *, mode: str = "r") -> Self:
        """Open a comparison; see `open_comparison` for errors. Before one is written to, see `finish_rechunking`."""
        root = _io.open_root(store, mode=mode, kind="comparison", version=FORMAT_VERSION)
        if mode == "r":
            check_rechunked(root)
        return cls(root)

    def finish_rechunking(self) -> None:
        """Finish what a run was interrupted in that gave tiles another size; only who has the lease may."""
        if is_rechunking(self.root):
            finish_rechunking(self.root)

    @property
    def place(self) -> str:
        """Where the comparison is."""
        return str(self.root.store_path)

    @property
    def tile(self) -> int:
        """Representations along each axis of a tile."""
        return int(self.root.attrs["tile"])  # type: ignore[arg-type]

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters the comparison was made with."""
        return dict(self.root.attrs["parameters"])  # type: ignore[arg-type]

    @property
    def subspaces(self) -> str:
        """Where its subspaces are; empty if inside."""
        return str(self.root.attrs["subspaces"])

    @property
    def sizes(self) -> set[int]:
        """Rows of its matrices: several, or more than labels, where a run was stopped while it changed that."""
        return {array.shape[0] for array in block_arrays(self.root, self._pair_names()).values()}

    @property
    def block_rows(self) -> int:
        """Rows of blocks that its matrices have; as of the labels, where what says so of the matrices is damaged."""
        try:
            count = self.array(PAIR_STATUS.name).shape[0]
        except StoreFormatError:
            count = len(self.column("representation"))
        return -(-count // self.tile)

    def read_state(self) -> ComparisonState:
        """Read what the comparison has."""
        attributes: dict[str, Any] = dict(self.root.attrs)
        # A run that was stopped while it added representations may have left room for more of them in some variables.
        columns = self.columns("representation", "digest")
        labels = list(itertools.takewhile(bool, map(str, columns["representation"])))
        count = len(labels)
        versions, growing = attributes["versions"], bool(attributes["growing"])
        details = [DETAIL_VARIABLES[name].name for name in attributes["parameters"]["keep"]]
        # While it grows, pairs may be marked as done that lack what was added.
        self.sound = SoundStatus(self.root, () if growing else (*versions, *details))
        return ComparisonState(
            place=self.place,
            parameters=attributes["parameters"],
            versions=versions,
            details=self.details,
            settled=tuple(attributes["settled"]),
            growing=growing,
            tile=self.tile,
            examples_digest=str(attributes["examples_digest"]),
            n_examples=int(attributes["n_examples"]),
            labels=tuple(labels),
            digests=tuple(map(str, columns["digest"][:count])),
            status=TriedAgain(self.sound, failed) if (failed := read_failures(self.root)) else self.sound,
            subspaces=self.subspaces,
            workers=attributes.get("planned", {}).get("workers", 0),
            parts=attributes.get("planned", {}).get("parts", {}),
        )

    def forget_lost(self) -> None:
        """Mark the blocks as missing of which `read_state`, or whoever read that state, found something gone."""
        if self.sound is not None:
            self._forget(self.sound.lost)

    def _forget(self, blocks: Iterable[Block]) -> None:
        """Take away some blocks, and their mirror images: they are made together."""
        backend = backend_of(self.root)
        for row, column in sorted({*blocks, *(block[::-1] for block in blocks)}):
            for array in self._status_first():
                backend.remove(f"{array.basename}/c/{row}/{column}")

    def consolidate(self) -> None:
        """Write the metadata of all variables into one file, so that xarray opens the comparison at once."""
        _io.consolidate(self.root)

    def add_run(self, record: Mapping[str, Any]) -> None:
        """Store where the time of a run went; the latest twenty records are kept."""
        runs = [*self.root.attrs.get("runs", []), dict(record)]  # type: ignore[misc]
        self._update({"runs": runs[-RUNS:]})

    def set_planned(self, planned: Mapping[str, Any]) -> None:
        """Store for how many workers it is planned, and which activations are read in parts: see `ComparisonState`."""
        self._update({"planned": dict(planned)})

    def set_subspaces(self, place: str) -> None:
        """Store where the subspaces are."""
        self._update({"subspaces": place})

    def column(self, name: str) -> npt.NDArray[Any]:
        """One variable along the representations, in the order of the matrix."""
        return self.columns(name)[name]

    def columns(self, *names: str) -> dict[str, npt.NDArray[Any]]:
        """Some variables along the representations, in the order of the matrix; what one axis lost, the other has.

        Raises
        ------
        DamagedStoreError
            Where both have lost it.
        """
        return read_columns(self.root, names)

    def add_results(
        self,
        measures: Sequence[Measure],
        asked: Sequence[str],
        details: Mapping[str, tuple[int, ...]],
        settled: Sequence[str],
        *,
        sparse: bool = False,
    ) -> None:
        """Add variables for measures and details; variables that are there stay.

        Once their names are in the attributes, pairs that were done before count as partial, and those that failed as
        missing. If this is interrupted, the same call does what is left.

        Parameters
        ----------
        measures : sequence of Measure
            All measures of the comparison, companions included.
        asked : sequence of str
            Names of the measures that were asked for.
        details : mapping of str to tuple of int
            All details, and the sizes of their dims after those of the pair.
        settled : sequence of str
            Measures and details that partial pairs have.
        sparse : bool
            Whether most pairs will have no value: the matrices that are added are compressed.
        """
        attributes: dict[str, Any] = dict(self.root.attrs)
        count = self.array(PAIR_STATUS.name).shape[0]
        changed = create_results(
            self.root,
            attributes,
            count=count,
            measures=measures,
            asked=asked,
            details=details,
            settled=settled,
            sparse=sparse,
        )
        if changed:
            self._update({**changed, "growing": bool(attributes["versions"])})
        if self.root.attrs["growing"]:
            array = self.array(PAIR_STATUS.name)
            status = SoundStatus(self.root, ())
            for start in range(0, count, self.tile):
                block = status[start : start + self.tile, 0:count]
                block[np.isin(block, VALUED)] = PairStatus.PARTIAL
                # What one measure cannot take another may.
                block[block == PairStatus.FAILED] = PairStatus.MISSING
                array[start : start + self.tile] = block
            self._update({"growing": False})

    def _update(self, attributes: Mapping[str, Any]) -> None:
        _io.set_attributes(self.root, {**self.root.attrs, **attributes})

    def write_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write variables along the representations, for both axes."""
        write_in_order(self.root, _of_both_axes(columns))

    def update_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write other values of variables along the representations that are there, of as many representations.

        What the first axis says of a column is read: whoever finds there what it would write, as after an interruption,
        leaves the column as it is. So the second axis has all of it by then.
        """
        for axis in reversed(AXES):
            write_values(self.root, [one for one in _of_both_axes(columns) if one[1] == axis])

    def rechunk(self, tile: int) -> bool:
        """Give tiles another size; what is there stays. Returns whether pairs are missing that could not be read."""
        return rechunk(self.root, [array.basename for array in self._pair_arrays()], tile)

    def resize(self, count: int) -> None:
        """Make room for ``count`` representations; what is there stays."""
        for array in self._pair_arrays():
            self._resize(array, (count, count, *array.shape[2:]))

    def _resize(self, array: zarr.Array[Any], shape: tuple[int, ...]) -> None:
        """Change the shape of an array; chunks that lie outside go."""
        backend, name = backend_of(self.root), array.basename
        found = stored(backend.read(f"{name}/zarr.json"), name, self.root)
        if found is None:
            raise damaged(self.root, f"{name}/zarr.json")
        document = resized(found, shape)
        ends = [-(-size // chunk) for size, chunk in zip(shape, array.chunks, strict=True)]
        keys, gone = {}, []
        for key, size in backend.sizes(f"{name}/c").items():
            place = key.split("/")
            outside = all(map(str.isdecimal, place)) and any(map(operator.ge, map(int, place), ends))
            if outside:
                gone.append(f"{name}/c/{key}")
            else:
                keys[key] = size
        fewer = shape[0] < array.shape[0]
        # First, what is to go: behind the end of a smaller array it would wait for the array to grow again.
        if fewer:
            for key in sorted(gone):
                backend.remove(key)
            before = BlockArray(self.root, name, backend.read(f"{name}/zarr.json"))
            backend.write_many(before.narrowing(shape[0], keys))
        # What is there of a block must be all of it.
        backend.write_many(BlockArray(self.root, name, document).widening(keys))
        backend.write(f"{name}/zarr.json", document)
        # Of fewer components no pair has a value in those that go, and a block without them would not be whole before.
        if not fewer:
            for key in sorted(gone):
                backend.remove(key)

    @property
    def details(self) -> dict[str, tuple[int, ...]]:
        """Details that are stored of every pair, and the sizes of their dims after those of the pair."""
        return {name: self.array(DETAIL_VARIABLES[name].name).shape[2:] for name in self.parameters["keep"]}

    def resize_components(self, count: int) -> None:
        """Set the number of canonical correlations stored of each pair, where they are stored."""
        if "correlations" in self.details:
            array = self.array(DETAIL_VARIABLES["correlations"].name)
            if array.shape[2] != max(1, count):
                self._resize(array, (*array.shape[:2], max(1, count)))
                self.consolidate()

    def invalidate(self, positions: Sequence[int]) -> bool:
        """Forget the pairs of the representations at some positions, whose activations have changed.

        Returns whether other pairs are missing, too: all of a block that could not be read.
        """
        return invalidate(self.root, [array.basename for array in self._status_first()], positions, self._forget)

    def drop(self, positions: Sequence[int]) -> bool:
        """Remove the representations at some positions, and their pairs.

        Those behind them move up. Their pairs have no status while they do: if this is interrupted, they are computed
        again. Labels are written before all else that moves with them: as long as there are fewer labels than rows of
        the matrix, the next run writes everything anew that is known of the representations.

        Returns whether pairs are missing that could not be read.
        """
        count = len(self.column("representation"))
        kept = np.setdiff1d(np.arange(count), positions)
        first = min(positions)
        lost: set[Block] = set()
        # It waits until the values have moved; for very many representations, it would fill the memory as it is.
        known = [zlib.compress(block.tobytes(), 1) for block in self._stripes(PAIR_STATUS.name, kept, lost)]
        status = self.array(PAIR_STATUS.name)
        status[first:] = PairStatus.MISSING
        status[:, first:] = PairStatus.MISSING
        for array in self._pair_arrays():
            if array.basename != PAIR_STATUS.name:
                self._move_up(array, kept, lost)
        columns = {variable.name: self.column(variable.name)[kept] for variable in REPRESENTATION_VARIABLES}
        self.write_columns({"representation": columns.pop("representation")})
        self.write_columns(columns)
        self.resize(len(kept))
        status = self.array(PAIR_STATUS.name)
        before, gone = kept // self.tile, np.zeros((-(-count // self.tile),) * 2, dtype=np.bool_)
        for row, column in lost:
            gone[row, column] = gone[column, row] = True
        # From below: what is above the diagonal says whether a pair is there, and is written after its mirror image.
        for number in reversed(range(len(known))):
            block = np.frombuffer(zlib.decompress(known[number]), dtype=np.uint8).reshape(-1, len(kept))
            rows = slice(number * self.tile, number * self.tile + len(block))
            status[rows] = np.where(gone[np.ix_(before[rows], before)], PairStatus.MISSING, block)
        self.consolidate()
        return bool(lost)

    def _stripes(self, name: str, kept: npt.NDArray[np.int64], lost: set[Block]) -> Iterator[npt.NDArray[Any]]:
        """Values of the pairs of some representations, (representation_a, representation_b, ...), tile by tile.

        Blocks that cannot be read are taken away, and ``lost`` takes them; none of their pairs is done.
        """
        (array,), backend = block_arrays(self.root, [name]).values(), backend_of(self.root)
        for start in range(0, len(kept), self.tile):
            rows = kept[start : start + self.tile]
            damage: set[Block] = set()
            values = array.read_sound((slice(int(rows[0]), int(rows[-1]) + 1), slice(0, array.shape[1])), damage)
            for block in damage:
                # Otherwise zarr would read it where it writes a part of it. Its mirror image may have moved already.
                status = PAIR_STATUS.name
                for one, (row, column) in ((status, block), (status, block[::-1]), (name, block)):
                    backend.remove(f"{one}/c/{row}/{column}")
            lost |= damage
            yield values[rows - rows[0]][:, kept]

    def _move_up(self, array: zarr.Array[Any], kept: npt.NDArray[np.int64], lost: set[Block]) -> None:
        """Values of the representations that are kept, side by side: rows that are read are not yet overwritten."""
        for number, values in enumerate(self._stripes(array.basename, kept, lost)):
            array[number * self.tile : number * self.tile + len(values), : len(kept)] = values

    def set_left(self, labels: Sequence[str]) -> None:
        """Store which representations have left the zoo; nothing is written where that is known."""
        if tuple(self.root.attrs.get("left_zoo", ())) == tuple(labels):  # type: ignore[arg-type]
            return
        attributes = {name: value for name, value in self.root.attrs.items() if name != "left_zoo"}
        _io.set_attributes(self.root, {**attributes, **({"left_zoo": list(labels)} if labels else {})})

    def _status_first(self) -> list[zarr.Array[Any]]:
        """All arrays of pairs, in the order in which they forget: a pair without a value must not look done."""
        return sorted(self._pair_arrays(), key=lambda array: array.basename != PAIR_STATUS.name)

    def _pair_names(self) -> list[str]:
        # Some may be there that the attributes do not name yet.
        there = [name for name, document in _io.arrays_of(self.root).items() if len(document["shape"]) > 1]
        return sorted({*there, *pair_names(self.root)})

    def _pair_arrays(self) -> list[zarr.Array[Any]]:
        return [self.array(name) for name in self._pair_names()]

    def array(self, name: str) -> zarr.Array[Any]:
        """The zarr array of a variable.

        Raises
        ------
        DamagedStoreError
            Where it cannot be read, or is not stored as this package stores it.
        """
        try:
            array = _nodes.open_array(self.root, name, mode="r" if self.root.read_only else "r+")
        except StoreFormatError as error:
            if error.__cause__ is None:
                # It can be read, and is a group.
                raise
            raise damaged(self.root, f"{name}/zarr.json") from error
        check_stored(array.metadata.to_dict(), name, self.root)
        # Chunks of nothing but fill values are stored too: where one is missing, it has been lost.
        return array.with_config({"write_empty_chunks": True})

    def count_pairs(self) -> dict[PairStatus, int]:
        """Number of pairs of each status, each pair once and a representation with itself included."""
        return count_pairs(SoundStatus(self.root, ()), self.tile)


def _of_both_axes(columns: Mapping[str, npt.NDArray[Any]]) -> list[tuple[Variable, str, npt.NDArray[Any]]]:
    return [
        (variable, axis, columns[variable.name])
        for variable in REPRESENTATION_VARIABLES
        if variable.name in columns
        for axis in AXES
    ]
