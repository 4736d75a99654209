"""The layers that are nearest to one, among as many as there are sketches of."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import threadpoolctl
import xarray as xr
from zarr.storage import MemoryStore

from dask_svcca import machine
from dask_svcca.errors import (
    IncompatibleError,
    MismatchedExamplesError,
    ParametersChangedError,
    RepresentationNotFoundError,
    did_you_mean,
)
from dask_svcca.kernels.sketch import estimate, standard_error
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.run.arrays import open_source
from dask_svcca.sketches.exact import by_label, exact_cka, gram_norm, samples_of
from dask_svcca.sketches.family import digest_of, words_of
from dask_svcca.sketches.make import run_sketches
from dask_svcca.sketches.opened import numbers_of, opened, part_bytes
from dask_svcca.sketches.store import DIM, FEATURES, IDENTITY, SketchStore
from dask_svcca.stores import _io
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo

if TYPE_CHECKING:
    import numpy.typing as npt

    from dask_svcca.sketches.opened import Opened, SketchesLike
    from dask_svcca.stores._io import StoreLike

CANDIDATES: Final = 50
"""Layers of the highest estimates whose exact values are computed, at least."""

WHOLE_BYTES: Final = 64 * 2**20
"""Bytes of sketches below which all their numbers are read; beyond, first the coarser sketches that begin them."""

ROWS_BYTES: Final = 64 * 2**20
"""Bytes of rows that are read one by one, at most: where the coarser sketches leave more, all are looked at in turn."""

SURE: Final = 4.0
"""Standard errors of the coarser estimate within which a layer may still be among the nearest."""

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
    label, digest : str
        Name among the sketches, and digest of the activations there; empty where it is none of them.
    activations : (Zoo, str) or None
        Where its activations are, and under which label.
    """

    numbers: npt.NDArray[np.float32]
    spread: float
    trace: float
    domain: str
    samples: int
    label: str
    digest: str
    activations: tuple[Zoo, str] | None


def search(
    sketches: SketchesLike,
    query: Any,
    *,
    top: int = 10,
    exact: bool = True,
    zoo: Zoo | StoreLike | None = None,
) -> pd.DataFrame:
    """The layers that are most similar to one, by estimates of linear CKA from sketches, and then by exact values.

    Parameters
    ----------
    sketches : xarray.Dataset, path, zarr store, or URL
        From `sketch` or `open_sketches`, or where they are: those of a million layers are looked through without ever
        being in memory together.
    query : str, array, or Dataset
        The name of one of these, ``"model/checkpoint/layer"``; or activations, (example, ...), of the same examples,
        which are labelled, or in the order of the zoo; or one sketch, as ``sketch(...).isel(representation=[0])``,
        perhaps of another zoo of the same examples.
    top : int
        How many to list.
    exact : bool
        Where activations are at hand, rank the best 50 estimates, or five times ``top``, by exact values.
    zoo : Zoo, path, zarr store, or URL, optional
        The activations that the sketches were made of. Without, there are only estimates.

    Returns
    -------
    pandas.DataFrame
        The most similar first, without the query itself; indexed by ``representation``. ``cka`` is exact, and NaN where
        it was not computed; ``cka_estimate`` and ``cka_error`` are from the sketches; ``null_cka`` is what layers of
        these spectra have on average if their examples are shuffled, NaN under ``dft``. Without a zoo there are neither
        ``cka`` nor ``null_cka``.

    Raises
    ------
    RepresentationNotFoundError
        Where there is no sketch of that name.
    MismatchedExamplesError
        Where the query has other examples; or the zoo has, or has them in another order, or has other activations.
    ParametersChangedError
        Where a sketch has another size, seed, family or reading.
    ValueError
        Where ``top`` is not positive.

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
    if top < 1:
        raise ValueError(f"top is how many layers to list, at least 1; got {top!r}")
    source = opened(sketches)
    activations = None if zoo is None else zoo if isinstance(zoo, Zoo) else open_zoo(zoo)
    if activations is not None:
        _check_examples(source, activations)
    asked = _query(source, query, activations)
    count = max(CANDIDATES, 5 * top) if exact else top
    alike = _of_domain(source, asked.domain)
    rows, values, errors = nearest(source, asked.numbers, asked.spread, count + 1, top + 1, alike)
    labels = source.values(DIM, rows).astype(object)
    kept = labels != asked.label
    rows, values, errors, labels = rows[kept][:count], values[kept][:count], errors[kept][:count], labels[kept][:count]
    cka = np.full(len(rows), np.nan)
    if exact and activations is not None and asked.activations is not None and len(rows):
        cka = _exact(source, activations, asked, rows, labels)
    trace = source.values("trace", rows)
    null = np.full(len(rows), np.nan) if " frequencies" in asked.domain else asked.trace * trace / (asked.samples - 1)
    known = {name: source.values(name, rows) for name in ("model", "checkpoint", "layer", "step", "depth")}
    frame = pd.DataFrame(
        {**known, "cka": cka, "cka_estimate": values, "cka_error": errors, "null_cka": null},
        index=pd.Index(labels, name=DIM),
    )
    if activations is None:
        frame = frame.drop(columns=["cka", "null_cka"])
    # Those that could not be read stay behind the others, by their estimates.
    order = np.lexsort((-values, -np.nan_to_num(cka, nan=-1.0)))
    return frame.iloc[order[:top]]


def _of_domain(source: Opened, domain: str) -> npt.NDArray[np.bool_] | None:
    """Rows whose samples are of one kind; None for all, where there is no other kind."""
    domains = source.attributes["domains"]
    if list(domains) == [domain]:
        return None
    return np.asarray(source.column("domain") == (domains.index(domain) if domain in domains else -1), dtype=np.bool_)


def nearest(
    source: Opened,
    numbers: npt.NDArray[np.float32],
    spread: float,
    count: int,
    sure: int,
    among: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows of the highest estimates, and these with their errors, the highest first; ``among`` some rows, or all.

    Where there are many, a coarser sketch says which rows are looked at: all that may be among the first ``sure``, and
    those of the highest estimates by it.
    """
    parts = -(-source.family.size // FEATURES)
    is_small = source.rows * source.family.size * 4 <= WHOLE_BYTES
    if not is_small and parts > 1:
        coarse, own = _products(source, numbers, range(1), among)
        of_query = float(numbers[:FEATURES] @ numbers[:FEATURES])
        share = np.float32(source.family.size / FEATURES)
        with np.errstate(invalid="ignore"):
            values = estimate(coarse * share, own * share, np.array(of_query, dtype=np.float32) * share)
            errors = SURE * standard_error(values, np.ones(1, np.float32), np.array(spread, dtype=np.float32), FEATURES)
        # What is not there is never among them.
        low, high = np.nan_to_num(values - errors, nan=-9.0), np.nan_to_num(values + errors, nan=-9.0)
        least = np.partition(low, -sure)[-sure] if len(low) > sure else -9.0
        likely = np.nan_to_num(values, nan=-9.0)
        most = np.partition(likely, -4 * count)[-4 * count] if len(low) > 4 * count else -9.0
        rows = np.flatnonzero(((high >= least) | (likely >= most)) & np.isfinite(values))
        if len(rows) * parts < source.rows and len(rows) * source.family.size * 4 <= ROWS_BYTES:
            found = numbers_of(source, rows)
            own, coarse = np.einsum("rf,rf->r", found, found), found @ numbers
            return _best(source, rows, coarse, own, numbers, spread, count)
        more, more_own = _products(source, numbers, range(1, parts), among)
        products, own = coarse + more, own + more_own
    else:
        products, own = _products(source, numbers, range(parts), among)
    return _best(source, np.arange(source.rows), products, own, numbers, spread, count)


def _best(
    source: Opened,
    rows: npt.NDArray[np.intp],
    products: npt.NDArray[np.float32],
    own: npt.NDArray[np.float32],
    numbers: npt.NDArray[np.float32],
    spread: float,
    count: int,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    with np.errstate(invalid="ignore"):
        values = estimate(products, own, np.array(numbers @ numbers))
    there = np.flatnonzero(np.isfinite(values))
    best = there[np.argsort(-values[there], kind="stable")[:count]]
    spreads = source.values("concentration", rows[best]).astype(np.float32)
    errors = standard_error(values[best], spreads, np.array(spread, dtype=np.float32), len(numbers))
    return rows[best], values[best], errors


def _products(
    source: Opened, numbers: npt.NDArray[np.float32], parts: range, among: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Products of all rows with a query in some parts of their numbers, and sums of squares of these; NaN of others."""
    count = source.rows
    products, own = np.zeros((2, count), dtype=np.float32)
    local = threading.local()

    def work(chunk: int) -> None:
        if not hasattr(local, "buffer"):
            # One a thread, which stays in its cache.
            local.buffer = memoryview(bytearray(part_bytes(source)))
        rows = slice(chunk * source.chunk_rows, min(count, (chunk + 1) * source.chunk_rows))
        for part in parts:
            block = source.read_part(chunk, part, local.buffer)[: rows.stop - rows.start]
            products[rows] += block @ numbers[part * FEATURES : part * FEATURES + block.shape[1]]
            own[rows] += np.einsum("rf,rf->r", block, block)

    with _blas().limit(limits=1), ThreadPoolExecutor(machine.cores()) as threads:
        list(threads.map(work, range(-(-count // source.chunk_rows))))
    if among is not None:
        products[~among] = np.nan
    return products, own


@cache
def _blas() -> threadpoolctl.ThreadpoolController:
    """What limits the threads of BLAS; to find the libraries takes longer than a small search."""
    return threadpoolctl.ThreadpoolController()


def _query(source: Opened, query: Any, zoo: Zoo | None) -> _Query:
    if isinstance(query, str):
        row = source.find(query)
        if row is None:
            raise RepresentationNotFoundError(
                f"there is no sketch of {query!r} in {source.place!r}"
                f"{did_you_mean(query, source.column(DIM)) or '.'} A name is "
                f"model/checkpoint/layer; activations may be given in its place"
            )
        return _of_row(source, row, query, None if zoo is None else (zoo, query))
    if isinstance(query, xr.Dataset):
        other = opened(query)
        if other.rows != 1:
            raise IncompatibleError(
                f"a query is one sketch; this Dataset has {other.rows}. Choose one with isel(representation=[0])"
            )
        check_alike(source, other)
        return _of_row(other, 0, "", None)
    own = _as_zoo(query, zoo)
    place = MemoryStore()
    options = {name: source.attributes.get(name) for name in _READING}
    run_sketches(own, place, make_parameters("cka", **options), source.family)
    made = SketchStore.open(place)
    check_alike(source, made)
    (label,) = made.column(DIM).tolist()
    return _of_row(made, 0, "", (own, label))


def _of_row(of: Opened, row: int, label: str, activations: tuple[Zoo, str] | None) -> _Query:
    one = np.array([row])
    if problem := of.values("problem", one)[0]:
        raise IncompatibleError(f"{str(of.values(DIM, one)[0])!r} has no sketch: it {problem}")
    numbers = numbers_of(of, one)[0]
    if activations is not None and activations[1] not in activations[0]:
        activations = None
    spread, trace, domain, samples, digest = (
        of.values(name, one)[0] for name in ("concentration", "trace", "domain", "samples", "digest")
    )
    return _Query(
        numbers=numbers,
        spread=float(spread),
        trace=float(trace),
        domain=of.attributes["domains"][int(domain)],
        samples=int(samples),
        label=label,
        digest=str(digest) if label else "",
        activations=activations,
    )


def _as_zoo(query: Any, zoo: Zoo | None) -> Zoo:
    """Activations as a zoo of one representation, with the ids of the examples."""
    if zoo is None:
        return open_source({"query": query}, None)
    made = create_zoo(MemoryStore(), examples=zoo.examples, coords=zoo.coords)
    made.write("query", "query", "query", query)
    return made


def _exact(
    source: Opened, zoo: Zoo, asked: _Query, rows: npt.NDArray[np.intp], labels: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Exact values of those whose activations are there."""
    assert asked.activations is not None  # noqa: S101 - for the type checker
    options = make_parameters("cka", **{name: source.attributes.get(name) for name in _READING}).reading
    home, label = asked.activations
    known, norms = by_label(zoo), source.values("norm", rows)
    for one, digest in [(asked.label, asked.digest), *zip(labels, source.values("digest", rows), strict=True)]:
        if one in known and known[one].identity != digest:
            raise MismatchedExamplesError(
                f"{one!r} has other activations in the zoo {_io.describe(zoo.root.store_path)!r} (digest "
                f"{known[one].identity[:8]}) than its sketch in {source.place!r} was made of (digest {digest[:8]}): "
                f"the examples of the zoo are in another order, or it was captured anew. Give the zoo that they were "
                f"made of, make the sketches again, or leave out zoo= (--zoo)"
            )
    found = [
        (place, known[one], float(norm))
        for place, (one, norm) in enumerate(zip(labels, norms, strict=True))
        if one in known
    ]
    reading, samples = samples_of(home, (known if home is zoo else by_label(home))[label], options)
    values = np.full(len(rows), np.nan)
    exact = exact_cka(zoo, samples, gram_norm(reading, samples), [(item, norm) for _, item, norm in found], options)
    values[[place for place, _, _ in found]] = list(exact)
    return values


def _check_examples(source: Opened, zoo: Zoo) -> None:
    digest = digest_of(words_of(zoo.examples))
    if digest != source.attributes["examples_digest"]:
        raise MismatchedExamplesError(
            f"the sketches {source.place!r} are of {source.attributes['n_examples']} examples (digest "
            f"{source.attributes['examples_digest'][:8]}), the zoo {_io.describe(zoo.root.store_path)!r} has "
            f"{zoo.n_examples} (digest {digest[:8]}). Give the zoo that they were made of"
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
