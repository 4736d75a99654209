"""What people hand in as an array, as NumPy or Dask has it: converted exactly, or refused in a sentence.

PyTorch, JAX and others are recognised by the names of their modules, so that none of them is imported here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca.dims import DEFAULT_DIMS, EXAMPLE, KNOWN, TOKEN, example_axis
from dask_svcca.errors import InvalidActivationsError
from dask_svcca.precision import EPSILON, coarsest, seen_in

if TYPE_CHECKING:
    import numpy.typing as npt

ON_DISK = frozenset({"h5py", "zarr", "netCDF4", "tensorstore"})
"""Packages whose arrays stay on disk, and are read in slices."""


IDS = (EXAMPLE, "example_id", "id", "ids")
"""Coordinates along the examples that are their ids, where the axis has no index; the first that is there."""

_OF_EXAMPLES = frozenset({"examples", "image", "presentation", "sample", "samples", "stimulus", "trial"})
_OF_NEURONS = frozenset({"cell", "feature", "features", "hidden", "neurons", "neuroid", "unit", "units", "voxel"})

NATIVE = frozenset({"float16", "float32", "float64"})
"""Floating types of NumPy's own, in which activations are stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """An array that was handed in.

    Attributes
    ----------
    data : numpy.ndarray or dask.array.Array
    names : tuple of str, or None
        Names of its axes, where it has some.
    ids : pandas.Index or None
        Ids along the examples, where it has some.
    source_dtype : str or None
        Floating type in which it was computed, where it says that this is another than it has here.
    masks : dict of str to (example, token)
        Coordinates along examples and tokens that say of each token whether it counts.
    labels : dict of str to pandas.Index
        Coordinates along the examples, the index too, that have another value for each.
    """

    data: Any
    names: tuple[str, ...] | None = None
    ids: pd.Index[Any] | None = None
    source_dtype: str | None = None
    masks: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    labels: dict[str, pd.Index[Any]] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        """Whether the ids are 0, 1, 2 ... as pandas counts rows that nobody named."""
        return counts(self.ids)

    @property
    def lazy(self) -> bool:
        """Whether it is a Dask array."""
        return not isinstance(self.data, np.ndarray)


def as_given(array: Any, what: str, dims: Sequence[str] | None = None) -> Given:
    """An array of any library as NumPy or Dask has it, with the names and ids that it carries.

    Parameters
    ----------
    array : array
        NumPy, Dask, xarray, pandas, PyTorch, JAX, h5py, nested lists of numbers, a list of equal arrays, one an example
        (stacked), or what NumPy makes an array of. Types that NumPy lacks, such as bfloat16, become float32, which has
        all their values.
    what : str
        What it is, in errors.
    dims : sequence of str, optional
        Names that were given for its axes: they say which axis has the ids of the examples.

    Returns
    -------
    Given
        Its ``source_dtype`` is what the array says, or what is seen in its values: see `seen_in`.

    Raises
    ------
    InvalidActivationsError
        For what cannot be taken without changing or losing something: masked, sparse and quantised arrays, missing
        values, and what is not one array, or could be batches.

    Examples
    --------
    >>> as_given(pd.DataFrame([[1.5, 2.5]], index=["a"]), "x").ids
    Index(['a'], dtype='str')
    """
    if isinstance(array, Given):
        return array
    found = _taken(array, what, dims)
    if found.lazy or found.source_dtype is not None:
        return found
    # Single precision is what half becomes on its way to NumPy, and double what single does.
    return replace(found, source_dtype=seen_in(found.data))


def _taken(array: Any, what: str, dims: Sequence[str] | None) -> Given:
    """The same, of the precision that the array itself says."""
    labelled: dict[Any, Any] = {pd.DataFrame | pd.Series: _from_pandas, xr.DataArray | xr.Variable: _from_xarray}
    for kinds, take in labelled.items():
        if isinstance(array, kinds):
            return take(array, what, dims)  # type: ignore[no-any-return]
    if isinstance(array, np.ndarray):
        return _from_numpy(array, what)
    packages = packages_of(array)
    for package, convert in _BY_PACKAGE.items():
        if package in packages:
            return convert(array, what)
    _check_array(array, what)
    if isinstance(array, list | tuple) and any(map(is_array, array)):
        _check_not_batches(array, what, dims)
        return stacked(array, what)
    try:
        values = np.asarray(array)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        remedy = "give equally long rows, or arrays" if isinstance(array, list | tuple) else "make it a NumPy array"
        raise _refused(what, _kind(array), f"{remedy} first ({error})") from error
    if values.ndim == 0 and values.dtype.kind == "O":
        raise _refused(what, _kind(array), "it is not an array")
    return _from_numpy(values, what)


def counts(ids: pd.Index[Any] | None) -> bool:
    """Whether ids are 0, 1, 2 ... as pandas counts rows that nobody named.

    Examples
    --------
    >>> counts(pd.DataFrame([1.5, 2.5]).index), counts(pd.Index([0, 1]))
    (True, False)
    """
    return isinstance(ids, pd.RangeIndex) and (ids.start, ids.step) == (0, 1)


def packages_of(array: Any) -> frozenset[str]:
    """Top-level packages that an object's class and its bases come from.

    Examples
    --------
    >>> sorted(packages_of(np.zeros(3).view(np.matrix)))
    ['builtins', 'numpy']
    """
    return frozenset(base.__module__.partition(".")[0] for base in type(array).__mro__)


def is_array(value: Any) -> bool:
    """Whether a value is an array, and not a number, text, or a list.

    Examples
    --------
    >>> is_array(np.zeros(3)), is_array([1.0, 2.0]), is_array(np.float32(1))
    (True, False, False)
    """
    if "torch" in packages_of(value):
        # Asked for its shape, a nested tensor raises.
        return hasattr(value, "detach")
    return hasattr(value, "shape") and not isinstance(value, np.generic)


def is_series(value: Any) -> bool:
    """Whether a value is several batches, one after the other: an iterator, or a loader.

    Examples
    --------
    >>> is_series(iter([np.zeros(3)])), is_series([np.zeros(3)]), is_series(np.zeros(3))
    (True, False, False)
    """
    if isinstance(value, Iterator):
        return True
    return (
        isinstance(value, Iterable)
        and not isinstance(value, (Sequence, Mapping, AbstractSet, memoryview))
        and not is_array(value)
        and not hasattr(value, "__array__")
    )


def check_unshuffled(batches: Any, what: str) -> None:
    """Refuse a loader that says that it draws its examples at random.

    Raises
    ------
    InvalidActivationsError
    """
    for owner in (batches, getattr(batches, "batch_sampler", None)):
        sampler = getattr(owner, "sampler", None)
        kind = type(sampler).__name__
        if "Random" in kind or getattr(sampler, "shuffle", False) is True:
            raise _refused(what, f"a loader with a {kind}", "it shuffles the examples; load them with shuffle=False")


def _from_xarray(array: xr.DataArray | xr.Variable, what: str, dims: Sequence[str] | None) -> Given:
    inner = as_given(array.data, what)
    names = tuple(map(str, array.dims))
    known = names if EXAMPLE in names else _said(dims, len(names)) or DEFAULT_DIMS.get(len(names), (EXAMPLE,))
    ids, masks, labels = None, {}, {}
    if isinstance(array, xr.DataArray) and names:
        along = array.dims[example_axis(known)]
        beside = {str(name): pd.Index(one.to_numpy()) for name, one in array.coords.items() if one.dims == (along,)}
        labels = {name: values for name, values in beside.items() if values.is_unique}
        if EXAMPLE not in names and _said(dims, len(names)) is None:
            _check_first_axis(array, what, labelled=bool(beside))
        ids = array.indexes.get(along, next((beside[name] for name in IDS if name in beside), None))
        if along == EXAMPLE and isinstance(ids, pd.RangeIndex):
            # Somebody named these examples.
            ids = pd.Index(ids.to_numpy())
        meant = dict(zip(array.dims, known, strict=False))
        for name, values in array.coords.items():
            axes = [meant.get(dim) for dim in values.dims]
            if sorted(map(str, axes)) == [EXAMPLE, TOKEN] and is_mask(values.to_numpy()):
                masks[str(name)] = np.moveaxis(values.to_numpy(), axes.index(EXAMPLE), 0)
    # Names that xarray made up say nothing.
    named = None if all(name == f"dim_{axis}" for axis, name in enumerate(names)) else names
    source = array.attrs.get("source_dtype")
    coarse = source if source in EPSILON else None
    return Given(inner.data, named, ids, _coarser(coarse, inner.source_dtype), masks, labels)


def _check_first_axis(array: xr.DataArray, what: str, *, labelled: bool) -> None:
    """Refuse axes of which the first, which is taken as that of the examples, may not be it.

    Parameters
    ----------
    array : DataArray
        Without an axis ``example``.
    what : str
    labelled : bool
        Whether there are coordinates along the first axis.
    """
    first, *others = map(str, array.dims)
    if first in KNOWN:
        # In the place of the examples it is refused anyway.
        return
    after = [other for other in others if other not in KNOWN]
    indexed = [] if labelled else [other for other in after if other in array.indexes]
    if meant := [other for other in after if other in _OF_EXAMPLES] or indexed:
        why = f"{meant[0]!r} has {'labels' if meant == indexed else 'the name of examples'}, and"
    elif others and first in _OF_NEURONS:
        meant, why = others, "its name is that of neurons, and"
    else:
        return
    raise InvalidActivationsError(
        f"the axes of {what} are {(first, *others)!r}, of which {first!r} would be taken as the examples: {why} "
        f"nothing says which axis is theirs. Call it 'example' and that of the neurons 'neuron', for example with "
        f"x.rename({meant[0]}='example', {first}='neuron'), or name all axes with dims="
    )


def is_mask(values: npt.NDArray[Any]) -> bool:
    """Whether values say yes or no: booleans, or nothing but 0 and 1.

    Examples
    --------
    >>> is_mask(np.array([[1, 0]])), is_mask(np.array([[1, 2]]))
    (True, False)
    """
    return values.dtype.kind == "b" or (values.dtype.kind in "iuf" and bool(np.isin(values, (0, 1)).all()))


def _said(dims: Sequence[str] | None, axes: int) -> tuple[str, ...] | None:
    """Names that were given, where they are of an array with so many axes."""
    return None if dims is None or len(dims) != axes else tuple(map(str, dims))


def _from_pandas(array: pd.DataFrame | pd.Series[Any], what: str, dims: Sequence[str] | None) -> Given:
    frame = array.to_frame() if isinstance(array, pd.Series) else array
    for position, dtype in enumerate(frame.dtypes):
        nullable = isinstance(dtype, pd.api.extensions.ExtensionDtype) and not isinstance(dtype, pd.SparseDtype)
        if nullable and frame.iloc[:, position].isna().any():
            raise _refused(
                what,
                f"a column {frame.columns[position]!r} with missing values (NA)",
                "fill them, x.fillna(0), or drop such examples from all layers",
            )
    types = [getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype)) for dtype in frame.dtypes]
    if types and all(isinstance(dtype, np.dtype) and dtype.kind in "fiub" for dtype in types):
        values = array.to_numpy(dtype=np.result_type(*types))
        floating = [dtype.name for dtype in types if dtype.name in EPSILON]
        source = coarsest(*floating) if floating else None
    else:
        values, source = np.asarray(array), None
    ids = array.axes[example_axis(_said(dims, array.ndim))]
    labels = {str(ids.name): ids} if ids.name is not None and ids.is_unique else {}
    return Given(values, None, ids, source if source != values.dtype.name else None, labels=labels)


def _from_torch(tensor: Any, what: str) -> Given:
    if not hasattr(tensor, "detach"):
        raise _refused(what, _kind(tensor), "give a tensor, or an iterator of them")
    if tensor.is_quantized:
        raise _refused(what, "a quantised tensor", "pass x.dequantize(), or the layer's output before it is quantised")
    if tensor.is_nested:
        raise _refused(what, "a nested tensor", "pad it to one length first, x.to_padded_tensor(0)")
    if tensor.is_mkldnn:
        raise _refused(what, "a tensor in the layout of MKL-DNN", "pass x.to_dense()")
    if str(tensor.layout) != "torch.strided":
        raise _refused(what, f"a sparse tensor ({tensor.layout})", "pass x.to_dense()")
    if tensor.device.type == "meta":
        raise _refused(what, "a tensor on the device 'meta'", "it has no values")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    source = str(tensor.dtype).removeprefix("torch.")
    if source in EPSILON and source not in NATIVE:
        plain = plain.float()
    values = plain.numpy()
    return Given(values, source_dtype=source if source in EPSILON and source != values.dtype.name else None)


def _from_dask(array: Any, what: str) -> Given:
    if type(array).__name__ != "Array":
        raise _refused(
            what,
            f"a dask {type(array).__name__}",
            "pass a dask array: x.to_dask_array(lengths=True) of a dataframe, dask.array.from_delayed of a delayed "
            "value",
        )
    meta = getattr(array, "_meta", None)
    if isinstance(meta, np.ma.MaskedArray):
        raise _refused(
            what,
            "a dask array of masked arrays",
            "fill them first, dask.array.ma.filled(x, 0), or leave such examples out",
        )
    if meta is not None and not isinstance(meta, np.ndarray):
        raise _refused(
            what, f"a dask array of {type(meta).__name__}", "make its blocks NumPy arrays first, with x.map_blocks"
        )
    if any(math.isnan(size) for size in array.shape):
        raise InvalidActivationsError(f"{what} has chunks of unknown sizes; call its compute_chunk_sizes() first")
    if array.dtype.name in EPSILON and array.dtype.name not in NATIVE:
        return Given(array.astype("float32"), source_dtype=array.dtype.name)
    return Given(array)


def _check_not_batches(arrays: Sequence[Any], what: str, dims: Sequence[str] | None) -> None:
    """Refuse a list of arrays that have an axis of examples, or could have one."""
    shapes = {np.shape(array) if not is_array(array) else tuple(array.shape) for array in arrays}
    axes = {len(shape) for shape in shapes}
    if len(shapes) == 1 and max(axes) >= 2 and (dims is None or len(dims) != max(axes) + 1):
        raise _refused(
            what,
            f"a list of {len(arrays)} arrays of shape {shapes.pop()}",
            "they may be batches, or an example each; put batches together with numpy.concatenate, and examples with "
            "numpy.stack",
        )


def stacked(arrays: Sequence[Any], what: str) -> Given:
    """Equal arrays, one an example, as one.

    Raises
    ------
    InvalidActivationsError
        Where their shapes differ, or they have labels.

    Examples
    --------
    >>> stacked([np.zeros((4, 3)), np.ones((4, 3))], "x").data.shape
    (2, 4, 3)
    """
    entries = [as_given(array, what) for array in arrays]
    if any(entry.names is not None or entry.ids is not None for entry in entries):
        raise _refused(what, "a list of labelled arrays", "put them together first, for example with xarray.concat")
    shapes = {entry.data.shape for entry in entries}
    if len(shapes) > 1:
        raise _refused(
            what,
            f"a list of arrays of unequal shapes, {' and '.join(map(str, sorted(shapes)[:2]))}",
            "put them together first, for example with numpy.concatenate",
        )
    source = None
    for entry in entries:
        source = _coarser(source, entry.source_dtype)
    return Given(np.stack([np.asarray(entry.data) for entry in entries]), source_dtype=source)


def _check_array(array: Any, what: str) -> None:
    """Refuse what NumPy would take for something else than it is."""
    if hasattr(array, "todense") or hasattr(array, "toarray"):
        raise _refused(what, "a sparse array", "make it dense first, for example x.toarray() or x.todense()")
    if isinstance(array, str | bytes | os.PathLike):
        raise _refused(what, f"the text {str(array)!r}", "load the array first, for example with numpy.load")
    if array is None:
        raise _refused(what, "None", "give an array")
    if isinstance(array, (Mapping, AbstractSet)):
        raise _refused(what, f"a {type(array).__name__}", "give one array")


def _from_numpy(array: npt.NDArray[Any], what: str) -> Given:
    """Values in native byte order, and in a type that NumPy knows."""
    if isinstance(array, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(array).sum())
        if masked:
            raise _refused(
                what,
                "a masked array",
                f"{masked} of {array.size} values are masked; fill them, x.filled(0), or leave such examples out of "
                f"all layers",
            )
        array = array.data
    array = np.asarray(array)
    name = array.dtype.name
    if name in EPSILON and name not in NATIVE:
        return Given(array.astype(np.float32), source_dtype=name)
    return Given(array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.kind in "fiuc" else array)


def _coarser(one: str | None, other: str | None) -> str | None:
    return coarsest(one, other) if one is not None or other is not None else None


def _kind(value: Any) -> str:
    return f"an object of type {type(value).__name__!r}" if not isinstance(value, list | tuple) else "a ragged list"


def _refused(what: str, kind: str, remedy: str) -> InvalidActivationsError:
    return InvalidActivationsError(f"cannot take {what} from {kind}: {remedy}")


_Conversion: TypeAlias = Callable[[Any, str], Given]

_BY_PACKAGE: dict[str, _Conversion] = {"torch": _from_torch, "dask": _from_dask}
