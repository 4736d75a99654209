"""The layers that are nearest to one, among as many as there are sketches of."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from zarr.storage import MemoryStore

from dask_svcca.errors import (
    IncompatibleError,
    MismatchedExamplesError,
    ParametersChangedError,
    RepresentationNotFoundError,
    did_you_mean,
)
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.run.arrays import open_source
from dask_svcca.run.compare import run_comparison
from dask_svcca.sketches.exact import OfActivations, OfSubspaces, Sketched
from dask_svcca.sketches.family import digest_of, words_of
from dask_svcca.sketches.identity import IDENTITY, mask_digest
from dask_svcca.sketches.index import found_by_index
from dask_svcca.sketches.kept import Kept
from dask_svcca.sketches.make import run_sketches
from dask_svcca.sketches.nearest import nearest, ranked
from dask_svcca.sketches.opened import numbers_of, opened
from dask_svcca.sketches.store import DIM, SketchStore
from dask_svcca.stores import _io
from dask_svcca.stores._names import RepresentationName, label_of
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.sketches.exact import Source
    from dask_svcca.sketches.opened import Opened, SketchesLike
    from dask_svcca.stores._io import StoreLike

CANDIDATES: Final = 50
"""Layers of the highest estimates whose exact values are computed, at least."""

COMPARED: Final = 10_000
"""Names that a name is compared with, at most, where there is none of it."""

_READING: Final = ("conv", "sequence", "positions", "spatial_size", "mask")


@dataclass(frozen=True, eq=False)
class _Query:
    """What is looked for.

    Attributes
    ----------
    numbers : (size,)
    spread, trace : float
        Its ``concentration`` and ``trace``.
    domain : str
    samples : int
    row : str
        Its label, if it is one of the sketches that are searched; empty otherwise.
    sketched : Sketched
    home : Source or None
        Where it is itself, if it is in no place that the others are in.
    """

    numbers: npt.NDArray[np.float32]
    spread: float
    trace: float
    domain: str
    samples: int
    row: str
    sketched: Sketched
    home: Source | None


def search(
    sketches: SketchesLike,
    query: Any,
    *,
    top: int = 10,
    exact: bool = True,
    zoo: Zoo | StoreLike | None = None,
    subspaces: StoreLike | None = None,
    index: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """The layers that are most similar to one, by estimates from sketches, and then by exact values.

    Parameters
    ----------
    sketches : xarray.Dataset, path, zarr store, or URL
        From `sketch` or `open_sketches`, or where they are: those of a million layers are looked through without ever
        being in memory together.
    query : str, tuple of str, array, or Dataset
        The name of one of these, ``"model/checkpoint/layer"``, or all three as a tuple; or activations, (example, ...),
        of the same examples, which are labelled, or in the order of the zoo; or one sketch, as
        ``sketch(...).isel(representation=[0])``, perhaps of another zoo of the same examples.
    top : int
        How many to list.
    exact : bool
        Where activations or subspaces are given, rank the best 50 estimates, or five times ``top``, by exact values.
    zoo : Zoo, path, zarr store, or URL, optional
        The activations that the sketches were made of.
    subspaces : path, zarr store, or URL, optional
        A comparison of these layers, or its shared subspaces: exact values are from these, and no activations are read.
        Without both, there are only estimates.
    index : path, optional
        From `index_sketches`: by it the nearest of ten million are found without looking at all; a few may be missed.
    storage_options : mapping, optional
        For URLs: see `create_zoo`.

    Returns
    -------
    pandas.DataFrame
        The most similar first, without the query itself; indexed by ``representation``. ``cka`` is exact, and NaN
        where it was not computed, since that layer is not in the zoo; ``cka_estimate`` and ``cka_error`` are from the
        sketches; ``null_cka`` is what layers of these spectra have on average if their examples are shuffled, NaN
        under ``dft``. Of sketches of overlaps the columns have that name. Without a zoo and without subspaces there
        is no exact column.

    Raises
    ------
    RepresentationNotFoundError
        Where there is no sketch of that name, or it is not a name; or the query is not in the zoo, or none of the
        nearest is.
    MismatchedExamplesError
        Where the query has other examples; or the zoo has, or has them in another order, or has other activations.
    ParametersChangedError
        Where a sketch has another measure, size, seed, family or reading; or the zoo or the subspaces another mask.
    ValueError
        Where ``top`` is not a whole number of at least 1.

    Examples
    --------
    >>> import dask_svcca
    >>> x, y = np.random.default_rng(0).normal(size=(2, 300, 8))
    >>> zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(300))
    >>> for share in range(4):
    ...     zoo.write("net", "end", f"fc{share}", x + share * y)
    >>> found = search(dask_svcca.sketch(zoo, size=1024), "net/end/fc0", top=2, zoo=zoo)
    >>> found.cka.round(2).to_dict()
    {'net/end/fc1': 0.52, 'net/end/fc2': 0.23}
    """
    top = _count(top)
    if isinstance(query, tuple | list) and any(isinstance(part, str) for part in query):
        query = RepresentationName.of(query).label
    source = opened(with_options(sketches, storage_options))
    activations = None if zoo is None else zoo if isinstance(zoo, Zoo) else open_zoo(with_options(zoo, storage_options))
    if activations is not None:
        _check_examples(source, activations)
    kept = None
    if subspaces is not None:
        kept = Kept.open(
            with_options(subspaces, storage_options), source.attributes["measure"], source.attributes.get("variance")
        )
        kept.check(_parameters(source).reading, activations)
    measure = str(source.attributes["measure"])
    at: Source | None = None
    if kept is not None:
        at = OfSubspaces(kept, source.place)
    elif activations is not None and measure == "cka":
        at = OfActivations(activations, _parameters(source).reading, source.place)
    elif activations is not None and exact and isinstance(query, str):
        raise IncompatibleError(
            "exact overlaps are from subspaces, and zoo= has activations. Give subspaces= (--subspaces), a comparison "
            "of these layers; or leave out zoo= (--zoo), for estimates"
        )
    asked = _query(source, query, activations, kept)
    count = max(CANDIDATES, 5 * top) if exact and at is not None else top
    alike = _of_domain(source, asked.domain)
    if index is None:
        rows, values, errors = nearest(source, asked.numbers, asked.spread, count + 1, top + 1, alike)
    else:
        likely = found_by_index(source, index, asked.numbers, count + 1)
        likely = likely if alike is None else likely[alike[likely]]
        rows, values, errors = ranked(source, likely, asked.numbers, asked.spread, count + 1)
    labels = source.values(DIM, rows).astype(object)
    others = labels != asked.row
    rows, values, errors, labels = (some[others][:count] for some in (rows, values, errors, labels))
    trace = source.values("trace", rows)
    null = np.full(len(rows), np.nan) if " frequencies" in asked.domain else asked.trace * trace / (asked.samples - 1)
    known = {name: source.values(name, rows) for name in ("model", "checkpoint", "layer", "step", "depth")}
    found = np.full(len(rows), np.nan)
    if exact and at is not None and len(rows):
        found = _exact(source, at, asked, rows, labels)
    estimates = {f"{measure}_estimate": values, f"{measure}_error": errors, f"null_{measure}": null}
    shown = {measure: found, **estimates} if exact and at is not None else estimates
    # Those that are not in the zoo stay behind the others, by their estimates.
    order = np.lexsort((-values, -np.nan_to_num(found, nan=-1.0)))
    return pd.DataFrame({**known, **shown}, index=pd.Index(labels, name=DIM)).iloc[order[:top]]


def _count(top: Any) -> int:
    try:
        number = 0 if isinstance(top, bool) else operator.index(top)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"top is how many layers to list, at least 1; got {top!r}")
    return number


def _parameters(source: Opened) -> Parameters:
    """How the sketches were read."""
    options = {name: source.attributes.get(name) for name in _READING}
    return make_parameters("cka", variance=source.attributes.get("variance"), **options)


def _of_domain(source: Opened, domain: str) -> npt.NDArray[np.bool_] | None:
    """Rows whose samples are of one kind; None for all, where there is no other kind."""
    domains = source.attributes["domains"]
    if list(domains) == [domain]:
        return None
    return np.asarray(source.column("domain") == (domains.index(domain) if domain in domains else -1), dtype=np.bool_)


def _query(source: Opened, query: Any, zoo: Zoo | None, kept: Kept | None) -> _Query:
    if isinstance(query, str):
        label, row = query, source.find(query)
        if row is None:
            label = label_of(query)
            row = source.find(label)
        if row is None:
            if zoo is not None and query in zoo:
                raise RepresentationNotFoundError(
                    f"{query!r} is in the zoo {_io.describe(zoo.root.store_path)!r}, and has no sketch in "
                    f"{source.place!r} yet. Make the sketches again: what is there is not made twice"
                )
            raise RepresentationNotFoundError(
                f"there is no sketch of {query!r} in {source.place!r}"
                f"{_like(query, source.column(DIM).astype(object).tolist()) or '.'} A name is "
                f"model/checkpoint/layer; activations may be given in its place"
            )
        return _of_row(source, row, label)
    if isinstance(query, xr.Dataset):
        other = opened(query)
        if other.rows != 1:
            raise IncompatibleError(
                f"a query is one sketch; this Dataset has {other.rows}. Choose one with isel(representation=[0])"
            )
        check_alike(source, other)
        return _of_row(other, 0)
    own = _as_zoo(query, zoo)
    if kept is not None:
        kept.check(_parameters(source).reading, own)
    return _of_zoo(source, own)


def _like(query: str, labels: Sequence[str]) -> str:
    """Question after a name that there is not, with one that is like it; empty where none is."""
    first, *more = query.split("/")
    layer = f"/{more[-1] if more else first}"
    alike = [label for label in labels if label.endswith(layer) or (more and label.startswith(f"{first}/"))]
    if alike and not more:
        others = f", or one of {len(alike) - 1} others of that name" if len(alike) > 1 else ""
        return f". Did you mean {alike[0]!r}{others}?"
    # To look for the most similar takes a tenth of a millisecond for each.
    return did_you_mean(query, labels if len(labels) <= COMPARED else alike[:COMPARED])


def _of_zoo(source: Opened, own: Zoo) -> _Query:
    """The only layer of a zoo in memory."""
    place, parameters = MemoryStore(), _parameters(source)
    kept = None
    if source.attributes["measure"] == "overlap":
        # Directions of its own, as a comparison would make them.
        subspaces = MemoryStore()
        run_comparison(own, MemoryStore(), _directions(parameters), subspaces=subspaces)
        kept = Kept.open(subspaces, "overlap", parameters.variance)
    run_sketches(own, place, parameters, source.family, kept)
    made = SketchStore.open(place)
    check_alike(source, made)
    home = OfActivations(own, parameters.reading, "the query") if kept is None else OfSubspaces(kept, "the query")
    return _of_row(made, 0, home=home)


def _directions(parameters: Parameters) -> Parameters:
    """Parameters of a comparison that stores directions."""
    return make_parameters(
        "cca", variance=parameters.variance, **{name: getattr(parameters, name) for name in _READING}
    )


def _of_row(of: Opened, row: int, label: str = "", home: Source | None = None) -> _Query:
    one = np.array([row])
    problem, digest, own = (str(of.values(name, one)[0]) for name in ("problem", "digest", DIM))
    what = repr(own) if home is None else "the query"
    if problem:
        raise IncompatibleError(f"{what} has no sketch: it {problem}")
    if not digest:
        raise IncompatibleError(
            f"the sketch of {what} in {of.place!r} is not made yet: a run is at work, or was interrupted. Make the "
            f"sketches again; what is finished is kept"
        )
    numbers = numbers_of(of, one)[0]
    spread, trace, norm, domain, samples, subspace = (
        of.values(name, one)[0] for name in ("concentration", "trace", "norm", "domain", "samples", "subspace")
    )
    return _Query(
        numbers=numbers,
        spread=float(spread),
        trace=float(trace),
        domain=of.attributes["domains"][int(domain)],
        samples=int(samples),
        row=label,
        sketched=Sketched(own, digest, str(subspace), float(norm)),
        home=home,
    )


def _as_zoo(query: Any, zoo: Zoo | None) -> Zoo:
    """Activations as a zoo of one representation, with the ids of the examples."""
    if zoo is None:
        return open_source({"query": query}, None)
    made = create_zoo(MemoryStore(), examples=zoo.examples, coords=zoo.coords)
    made.write("query", "query", "query", query)
    return made


def _exact(
    source: Opened, at: Source, asked: _Query, rows: npt.NDArray[np.intp], labels: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Exact values of those that are there."""
    home = asked.home or at
    if not home.has(asked.sketched):
        raise RepresentationNotFoundError(
            f"{asked.sketched.label!r} is not in {at.place!r}, and exact values need it beside the others. Give "
            f"activations for a query, or the place that has it; or leave that place out, for estimates"
        )
    columns = [source.values(name, rows) for name in ("digest", "subspace", "norm")]
    others = [
        Sketched(str(label), str(digest), str(subspace), float(norm))
        for label, digest, subspace, norm in zip(labels, *columns, strict=True)
    ]
    there = [place for place, one in enumerate(others) if at.has(one)]
    if not there:
        raise RepresentationNotFoundError(
            f"none of the {len(others)} layers of the highest estimates is in {at.place!r}, such as "
            f"{others[0].label!r}. Give the place that the sketches were made of, or leave it out, for estimates"
        )
    root = home.root(asked.sketched)
    values = np.full(len(rows), np.nan)
    for place in there:
        values[place] = root.value(at.parts(others[place]), others[place].norm)
    return values


def _check_examples(source: Opened, zoo: Zoo) -> None:
    digest = digest_of(words_of(zoo.examples))
    if digest != source.attributes["examples_digest"]:
        raise MismatchedExamplesError(
            f"the sketches {source.place!r} are of {source.attributes['n_examples']} examples (digest "
            f"{source.attributes['examples_digest'][:8]}), the zoo {_io.describe(zoo.root.store_path)!r} has "
            f"{zoo.n_examples} (digest {digest[:8]}). Give the zoo that they were made of"
        )
    mask = source.attributes.get("mask")
    if mask is not None:
        has = mask in zoo.coords
        own = mask_digest(zoo, mask) if has else "none"
        if own != source.attributes["mask_digest"]:
            raise ParametersChangedError(
                f"the sketches {source.place!r} were made under the mask {mask!r} (digest "
                f"{str(source.attributes['mask_digest'])[:8]}), and the zoo {_io.describe(zoo.root.store_path)!r} has "
                f"{f'another (digest {own[:8]})' if has else 'none of that name'}. Give the zoo that they were made of"
            )


def check_alike(one: Opened, other: Opened) -> None:
    """Raise where sketches cannot be compared: other examples, another seed, size or reading.

    Raises
    ------
    MismatchedExamplesError, ParametersChangedError
    """
    a, b = one.attributes, other.attributes
    if a["examples_digest"] != b["examples_digest"]:
        raise MismatchedExamplesError(
            f"sketches of different examples cannot be compared: {one.place!r} has {a['n_examples']} (digest "
            f"{a['examples_digest'][:8]}), {other.place!r} has {b['n_examples']} (digest {b['examples_digest'][:8]}). "
            f"Activations whose examples have ids say them: a DataArray with the coordinate 'example', or zoo="
        )
    for name in IDENTITY:
        if a.get(name) != b.get(name):
            raise ParametersChangedError(
                f"sketches of different {name} cannot be compared: {one.place!r} has {a.get(name)!r}, {other.place!r} "
                f"has {b.get(name)!r}. Make both with the same"
            )
