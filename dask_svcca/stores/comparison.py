"""The comparison: the labelled matrix of results, and the only truth about progress."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
import zarr
import zarr.codecs

from dask_svcca.errors import ParametersChangedError, StoreFormatError
from dask_svcca.stores import _io
from dask_svcca.variables import (
    FREQUENCY_AXES,
    KEPT_VARIABLES,
    PAIR_STATUS,
    REPRESENTATION_VARIABLES,
    STATUS_ATTRIBUTES,
    Variable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.measures import Measure
    from dask_svcca.stores._io import StoreLike

FORMAT_VERSION = 1
AXES = ("representation_a", "representation_b")


class ComparisonStore:
    """A comparison open for the engine: tiles in, progress out. People use `open_comparison`."""

    def __init__(self, root: zarr.Group) -> None:
        self.root = root

    @classmethod
    def create(
        cls,
        store: StoreLike,
        *,
        parameters: Mapping[str, Any],
        measures: Sequence[Measure],
        tile: int,
        rows: int,
        zoo: str,
        examples_digest: str,
        n_examples: int,
        kept: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    ) -> Self:
        """Create a comparison without any representation yet; `resize` makes room for some.

        ``kept`` says what is kept of every pair beside its measures, and the sizes of its dims behind those of the
        pair: see `dask_svcca.plan.keep.kept_sizes`.
        """
        root = _io.create_root(store, {})
        for variable, sizes, attributes in (
            *((measure.variable, (), measure.attributes) for measure in measures),
            *((KEPT_VARIABLES[name], sizes, KEPT_VARIABLES[name].attributes) for name, sizes in kept.items()),
            (PAIR_STATUS, (), {**PAIR_STATUS.attributes, **STATUS_ATTRIBUTES}),
        ):
            root.create_array(
                variable.name,
                shape=(0, 0, *sizes),
                chunks=(tile, tile, *sizes),
                dtype=variable.dtype,
                fill_value=variable.fill,
                compressors=zarr.codecs.ZstdCodec(level=1, checksum=True),
                dimension_names=(*AXES, *variable.dims),
                attributes=attributes,
            )
        if "frequencies" in kept:
            for variable, size in zip(FREQUENCY_AXES, kept["frequencies"], strict=True):
                _write_column(root, variable, variable.name, np.arange(size) - size // 2)
        for variable in REPRESENTATION_VARIABLES:
            for axis in AXES:
                _write_column(root, variable, axis, np.zeros(0))
        coordinates = [v.name + axis[-2:] for v in REPRESENTATION_VARIABLES if v.coordinate for axis in AXES]
        root.create_group("subspaces")
        # Written last: a store without them is not yet a comparison.
        root.update_attributes(
            {
                "format": "dask-svcca-comparison",
                "format_version": FORMAT_VERSION,
                "parameters": dict(parameters),
                "zoo": zoo,
                "examples_digest": examples_digest,
                "n_examples": n_examples,
                "tile": tile,
                "rows": rows,
                "coordinates": " ".join(name for name in coordinates if not name.startswith("representation")),
            }
        )
        return cls(root)

    @classmethod
    def open(cls, store: StoreLike, *, mode: str = "r") -> Self:
        """Open a comparison; see `open_comparison` for errors."""
        return cls(_io.open_root(store, mode=mode, kind="comparison", version=FORMAT_VERSION))

    @property
    def tile(self) -> int:
        """Representations along the side of a tile."""
        return int(self.root.attrs["tile"])  # type: ignore[arg-type]

    @property
    def rows(self) -> int:
        """Samples in a chunk of scores."""
        return int(self.root.attrs["rows"])  # type: ignore[arg-type]

    def consolidate(self) -> None:
        """Write the metadata of all variables into one file, so that xarray opens the comparison at once."""
        _io.consolidate(self.root)

    def add_run(self, record: Mapping[str, Any]) -> None:
        """Remember where the time of a run went; of the latest twenty."""
        runs = [*self.root.attrs.get("runs", []), dict(record)]  # type: ignore[misc]
        self.root.update_attributes({"runs": runs[-20:]})
        self.consolidate()

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters the comparison was made with."""
        return dict(self.root.attrs["parameters"])  # type: ignore[arg-type]

    def column(self, name: str) -> npt.NDArray[Any]:
        """One variable along the representations, in the order of the matrix."""
        return np.asarray(self.root[f"{name}_a"][...])  # type: ignore[index]

    def check(self, parameters: Mapping[str, Any], examples_digest: str, n_examples: int) -> None:
        """Raise `ParametersChangedError` where this comparison is not the one asked for."""
        place = str(self.root.store_path)
        remedy = "Ask for the same, or compare into another store"
        for name, asked in parameters.items():
            found = self.parameters.get(name)
            if found != asked:
                raise ParametersChangedError(
                    f"the comparison {place!r} was made with {name}={found!r}, now {name}={asked!r} is asked for. "
                    f"{remedy}"
                )
        found = str(self.root.attrs["examples_digest"])
        if found != examples_digest:
            raise ParametersChangedError(
                f"the comparison {place!r} is of {self.root.attrs['n_examples']} examples (digest {found[:8]}), the "
                f"zoo has {n_examples} (digest {examples_digest[:8]}): not the same ones. {remedy}"
            )

    def write_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write variables along the representations, for both axes."""
        # The labels of the first axis last: as many as there are, so many representations are known.
        for variable in reversed(REPRESENTATION_VARIABLES):
            if variable.name in columns:
                for axis in reversed(AXES):
                    _write_column(self.root, variable, axis, columns[variable.name])

    def resize(self, count: int) -> None:
        """Make room for ``count`` representations; what is there stays."""
        for array in self._pair_arrays():
            array.resize((count, count, *array.shape[2:]))

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """What is kept of every pair beside its measures, and the sizes of its dims behind those of the pair."""
        return {
            name: self.array(variable.name).shape[2:]
            for name, variable in KEPT_VARIABLES.items()
            if variable.name in self.root
        }

    def resize_components(self, count: int) -> None:
        """Make room for so many canonical correlations of a pair, or leave no more; where they are kept."""
        if "correlations" in self.kept:
            array = self.array(KEPT_VARIABLES["correlations"].name)
            array.resize((*array.shape[:2], max(1, count)))

    def invalidate(self, rows: npt.NDArray[np.integer[Any]]) -> None:
        """Forget the pairs of some representations, whose activations have changed."""
        # The status first: a pair without a value must not say that it has one.
        for array in sorted(self._pair_arrays(), key=lambda array: array.basename != PAIR_STATUS.name):
            for index in rows:
                array[index, :] = array.fill_value
                array[:, index] = array.fill_value

    def _pair_arrays(self) -> list[zarr.Array[Any]]:
        return [array for _, array in self.root.arrays() if array.ndim >= 2]

    def array(self, name: str) -> zarr.Array[Any]:
        """The zarr array of a variable."""
        found = self.root[name]
        if not isinstance(found, zarr.Array):
            raise StoreFormatError(f"{name!r} in {str(self.root.store_path)!r} is a group, not an array")
        return found

    def status(self) -> npt.NDArray[np.uint8]:
        """What became of each pair: `PairStatus` values, (representation_a, representation_b)."""
        return np.asarray(self.array(PAIR_STATUS.name)[...], dtype=np.uint8)


def open_comparison(store: StoreLike) -> xr.Dataset:
    """Open a comparison as a lazy, labelled Dataset.

    Parameters
    ----------
    store : path, zarr store, or URL

    Returns
    -------
    xarray.Dataset
        Dims ``representation_a``, ``representation_b``; one variable a measure, ``pair_status``, and coordinates
        ``model_a``, ``checkpoint_a``, ``layer_a``, ``step_a``, ``depth_a`` and the same for b. Values are read when
        they are looked at.

    Raises
    ------
    StoreFormatError
        Where there is no comparison, or one of a newer version.
    """
    root = _io.open_root(store, mode="r", kind="comparison", version=FORMAT_VERSION)
    return xr.open_dataset(
        root.store,  # type: ignore[arg-type]
        group=root.path or None,
        engine="zarr",
        chunks=None,
        consolidated=False,
    )


def _write_column(root: zarr.Group, variable: Variable, axis: str, values: npt.NDArray[Any]) -> None:
    array = root.create_array(
        variable.name + (axis[-2:] if variable.kind == "representation" else ""),
        shape=(len(values),),
        chunks=(max(1, len(values)),),
        dtype=variable.dtype,
        fill_value=variable.fill,
        dimension_names=(axis,),
        attributes=variable.attributes,
        overwrite=True,
    )
    if len(values):
        array[...] = values.astype(object) if variable.dtype == "string" else values.astype(variable.dtype)
