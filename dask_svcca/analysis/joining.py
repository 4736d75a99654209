"""Several comparisons of one zoo as one Dataset, by the labels of the representations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from dask_svcca.analysis.measured import SENSES, as_dataset
from dask_svcca.analysis.selection import SIDES, column
from dask_svcca.errors import IncompatibleError, InvalidQuestionError, MismatchedExamplesError
from dask_svcca.stores.dataset import parameters_of
from dask_svcca.stores.side_index import COORDINATES, SideIndex
from dask_svcca.variables import PAIR_STATUS, PENDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca.analysis.selection import Side
    from dask_svcca.stores._io import StoreLike

OWN = frozenset({"measures", "keep"})
"""Parameters that say what a comparison has, and not how it is computed."""

LABELS = (*COORDINATES, "parent")
"""Coordinates of a side beside the label of its representations."""

KEPT = ("examples_digest", "n_examples", "zoo")


def join(*results: xr.Dataset | StoreLike) -> xr.Dataset:
    """Several comparisons of one zoo as one Dataset, by the labels of the representations.

    Comparisons that were made with the same parameters complete each other: a pair has the value of the first that has
    one. A variable that two comparisons have with other parameters is told apart by these, as ``svcca_conv_dft`` and
    ``svcca_conv_mean``; so is what belongs to it, such as its null, and ``pair_status``.

    Parameters
    ----------
    *results : Dataset, path, zarr store, or URL
        From `compare` or `open_comparison`, or where they are; at least two.

    Returns
    -------
    xarray.Dataset
        As from `open_comparison`, over all representations: those of the first, then those that the others add. Values
        that no comparison has are NaN, and empty as text; ``pair_status`` is then 0. Measures have an attribute
        ``parameters``, JSON, and the Dataset ``comparisons``, JSON: where they were. Values are read when they are used
        where all comparisons have the same representations in the same order, and no variable in common; else now.

    Raises
    ------
    MismatchedExamplesError
        Where they are of other examples.
    IncompatibleError
        Where a representation had other activations in one of them than in another.
    InvalidQuestionError
        For fewer than two.

    Examples
    --------
    >>> import dask_svcca, zarr
    >>> rng = np.random.default_rng(0)
    >>> with dask_svcca.create_zoo(zarr.storage.MemoryStore(), examples=range(99)) as zoo:
    ...     for layer in ("fc1", "fc2"):
    ...         zoo.write("net", "end", layer, rng.normal(size=(99, 4)))
    >>> whole, half = (dask_svcca.compare(zoo, variance=variance) for variance in (None, 0.5))
    >>> joined = join(whole, half, dask_svcca.compare(zoo, measures="cka"))
    >>> json.loads(joined.attrs["parameters"])["measures"]
    ['svcca_variance_none', 'svcca_variance_0.5', 'cka']
    """
    if len(results) < 2:
        raise InvalidQuestionError(f"join takes two comparisons or more; got {len(results)}")
    datasets = [as_dataset(result) for result in results]
    _check_examples(datasets)
    keys = [_key(dataset) for dataset in datasets]
    coords = {side: _coordinates(datasets, side) for side in SIDES}
    whole = [_over(dataset, coords) for dataset in datasets]
    _check_digests(datasets, whole)
    names = list(dict.fromkeys(str(name) for dataset in whole for name in dataset.data_vars))
    called = _told_apart(names, whole, keys)
    variables: dict[str, xr.DataArray] = {}
    for place, dataset in enumerate(whole):
        for name in map(str, dataset.data_vars):
            array = _described(dataset[name], place, called, keys[place])
            known = variables.get(called[name, place])
            variables[called[name, place]] = array if known is None else _completed(known, array)
    joined = xr.Dataset(
        _as_long(variables), coords={key: value for one in coords.values() for key, value in one.items()}
    )
    for side in SIDES:
        joined = joined.set_xindex([f"{name}_{side}" for name in COORDINATES], SideIndex)
    return joined.assign_attrs(_attributes(datasets, keys, called))


def _key(dataset: xr.Dataset) -> dict[str, Any]:
    """Parameters that a comparison is computed with."""
    return {name: value for name, value in parameters_of(dataset).items() if name not in OWN}


def _place(dataset: xr.Dataset) -> str:
    return str(dataset.encoding.get("source", "a Dataset"))


def _check_examples(datasets: Sequence[xr.Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        one, two = (str(dataset.attrs.get("examples_digest", "")) for dataset in (first, other))
        if one != two:
            raise MismatchedExamplesError(
                f"the comparisons {_place(first)!r} and {_place(other)!r} are of other examples "
                f"({first.attrs.get('n_examples')} examples, digest {one[:8]}; {other.attrs.get('n_examples')} "
                f"examples, digest {two[:8]}): only comparisons of the same examples are joined"
            )


def _check_digests(datasets: Sequence[xr.Dataset], whole: Sequence[xr.Dataset]) -> None:
    """Refuse representations that have been replaced between two comparisons."""
    for side in SIDES:
        known: pd.Series[str] | None = None
        for number, dataset in enumerate(whole):
            name = f"digest_{side}"
            if name not in dataset:
                continue
            digests = pd.Series(
                dataset[name].to_numpy().astype(str), index=dataset[f"representation_{side}"].to_numpy()
            )
            if known is None:
                known, first = digests, number
                continue
            both = (known != "") & (digests != "")
            differs = known.index[both & (known != digests)]
            if len(differs):
                raise IncompatibleError(
                    f"{differs[0]!r} had other activations in the comparison {_place(datasets[first])!r} (digest "
                    f"{known[differs[0]][:8]}) than in {_place(datasets[number])!r} (digest "
                    f"{digests[differs[0]][:8]}). Compare again where they are out of date"
                )
            known = known.where(known != "", digests)


def _coordinates(datasets: Sequence[xr.Dataset], side: Side) -> dict[str, xr.DataArray]:
    """Coordinates of the representations of all, those of the first before those that others add."""
    dim = f"representation_{side}"
    names = ("representation", *LABELS)
    frames = [pd.DataFrame({name: column(dataset, name, side) for name in names}) for dataset in datasets]
    frame = pd.concat(frames, ignore_index=True).drop_duplicates("representation")
    coords = {}
    for name in names:
        values = frame[name].to_numpy()
        if name not in {"step", "depth"}:
            values = np.array(values.tolist(), dtype=np.str_)
        full = f"{name}_{side}"
        coords[full] = xr.DataArray(values, dims=dim, attrs=dict(datasets[0][full].attrs))
    return coords


def _over(dataset: xr.Dataset, coords: dict[Side, dict[str, xr.DataArray]]) -> xr.Dataset:
    """A comparison over the representations of all, without coordinates but the labels."""
    labels = {f"representation_{side}": coords[side][f"representation_{side}"].to_numpy() for side in SIDES}
    indexed, every = ([f"{name}_{side}" for name in names for side in SIDES] for names in (COORDINATES, LABELS))
    # One that xarray alone opened has no index of ours.
    alone = dataset.drop_indexes(indexed, errors="ignore").drop_vars(every)
    if all(np.array_equal(alone[dim].to_numpy(), wanted) for dim, wanted in labels.items()):
        return alone
    fills = {name: "" for name, array in alone.data_vars.items() if array.dtype.kind == "U"}
    return alone.reindex(labels, fill_value={**dict.fromkeys(alone.data_vars, np.nan), **fills, "pair_status": 0})


def _told_apart(
    names: Sequence[str], whole: Sequence[xr.Dataset], keys: Sequence[dict[str, Any]]
) -> dict[tuple[str, int], str]:
    """Name of each variable of each comparison."""
    called = {}
    for name in names:
        places = [place for place, dataset in enumerate(whole) if name in dataset]
        versions = [_version(whole[place], name) for place in places]
        described = [{**keys[place], "version": version} for place, version in zip(places, versions, strict=True)]
        differing = [key for key in described[0] if len({json.dumps(one.get(key)) for one in described}) > 1]
        sides = [dim for dim in whole[places[0]][name].dims if str(dim).startswith("representation_")]
        if len(sides) == 1 and all(_agree(whole[places[0]][name], whole[place][name]) for place in places[1:]):
            # A side has as many neurons however it is read.
            differing = []
        for place, one in zip(places, described, strict=True):
            called[name, place] = "_".join([name, *(f"{key}_{_text(one.get(key))}" for key in differing)])
    return called


def _version(dataset: xr.Dataset, name: str) -> str:
    versions = dataset.attrs.get("versions", {})
    found = json.loads(versions) if isinstance(versions, str) else versions
    return str(found.get(name, ""))


def _text(value: Any) -> str:
    """A parameter as a part of a name."""
    if isinstance(value, list):
        return "x".join(map(str, value))
    return "none" if value is None else str(value).replace(" ", "_")


def _agree(one: xr.DataArray, other: xr.DataArray) -> bool:
    both = _present(one).to_numpy() & _present(other).to_numpy()
    return bool(np.array_equal(one.to_numpy()[both], other.to_numpy()[both]))


def _present(array: xr.DataArray) -> xr.DataArray:
    """Where there is a value."""
    if array.dtype.kind == "U":
        return array != ""
    return ~array.isin(list(PENDING)) if array.name == PAIR_STATUS.name else array.notnull()  # noqa: PD004 - xarray's


def _completed(known: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Values of the first, and those of the other where it has none."""
    longest = {dim: max(known.sizes[dim], other.sizes[dim]) for dim in known.dims}
    known, other = (
        one.pad({dim: (0, size - one.sizes[dim]) for dim, size in longest.items() if size > one.sizes[dim]})
        for one in (known, other)
    )
    return known.where(_present(known), other).assign_attrs(known.attrs)


def _as_long(variables: dict[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """The same, each as long as the longest in dims that are not sides."""
    sizes: dict[Any, int] = {}
    for array in variables.values():
        for dim, size in array.sizes.items():
            sizes[dim] = max(sizes.get(dim, 0), size)
    return {
        name: array.pad({dim: (0, sizes[dim] - size) for dim, size in array.sizes.items() if sizes[dim] > size})
        if any(sizes[dim] > size for dim, size in array.sizes.items())
        else array
        for name, array in variables.items()
    }


def _described(
    array: xr.DataArray, place: int, called: dict[tuple[str, int], str], key: dict[str, Any]
) -> xr.DataArray:
    """A variable with the new names of what belongs to it, and its parameters."""
    attributes = dict(array.attrs)
    for reference in ("null", "null_sd", "p_value", "calibrated"):
        if name := attributes.get(reference):
            attributes[reference] = called.get((name, place), name)
    for references in ("companions", "derived_from"):
        if references in attributes:
            names = json.loads(attributes[references])
            attributes[references] = json.dumps([called.get((name, place), name) for name in names])
    if attributes.get("sense") in {*SENSES, "reference"}:
        attributes["parameters"] = json.dumps(key)
    # Chunks and compression are those of the store that it came from.
    return array.drop_encoding().assign_attrs(attributes)


def _attributes(
    datasets: Sequence[xr.Dataset], keys: Sequence[dict[str, Any]], called: dict[tuple[str, int], str]
) -> dict[str, Any]:
    common = {name: value for name, value in keys[0].items() if all(name in key and key[name] == value for key in keys)}
    measures = dict.fromkeys(
        called[name, place]
        for place, dataset in enumerate(datasets)
        for name in parameters_of(dataset).get("measures", ())
        if (name, place) in called
    )
    return {
        **{name: datasets[0].attrs[name] for name in KEPT if name in datasets[0].attrs},
        "parameters": json.dumps({"measures": list(measures), **common}),
        "comparisons": json.dumps([_place(dataset) for dataset in datasets]),
    }
