"""How sure a value is: against shuffled examples, and without some of them; from scores, without activations."""

from __future__ import annotations

import itertools
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dask_svcca.analysis._options import check_count, is_whole
from dask_svcca.analysis._pairs import Pairs, RowNorms, Subspace, measure_pair
from dask_svcca.analysis._remainders import blocks_of_samples, coupling_without, remainders, remaining
from dask_svcca.errors import InvalidQuestionError
from dask_svcca.evaluate import STACK_BYTES, direction_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd
    import xarray as xr

    from dask_svcca.analysis._pairs import LabelPair
    from dask_svcca.analysis._remainders import Remainder, Samples
    from dask_svcca.evaluate import Basis
    from dask_svcca.kernels._types import FloatArray, InexactArray, IntArray
    from dask_svcca.kernels.fourier import SharedFrequency
    from dask_svcca.readings import Meeting
    from dask_svcca.stores._io import StoreLike

Variables: TypeAlias = "dict[str, tuple[tuple[str, ...], FloatArray, str]]"

SIDES: tuple[Literal["a"], Literal["b"]] = ("a", "b")

ROUNDING = 1e-6
"""Variation of a measure that is rounding, since scores may be in single precision."""


def permutation_null(
    comparison: xr.Dataset | StoreLike,
    pairs: Iterable[tuple[str, str]] | pd.DataFrame,
    *,
    permutations: int = 199,
    measures: str | Iterable[str] = ("svcca",),
    seed: int = 0,
) -> xr.Dataset:
    """What pairs score when the examples of one of the two are shuffled.

    Parameters
    ----------
    comparison : Dataset, path, zarr store, or URL
        What `compare` or `open_comparison` returned, or where it is; its subspaces must be there.
    pairs : iterable of (str, str), or DataFrame
        Labels of representations, or what `query` returned: all pairs that were searched, not only those
        that were chosen.
    permutations : int
        At least 1. The smallest p-value is ``1 / (permutations + 1)``.
    measures : str or iterable of str
        Names.
    seed : int
        Seed of the permutations, which are the same for all pairs.

    Returns
    -------
    xarray.Dataset
        For each measure ``m``: ``m`` (pair); ``m_null`` (pair, permutation); ``m_p`` (pair), the share of permutations
        that are at least as similar, the observed order included; ``m_p_corrected`` (pair), the same against the most
        similar of all pairs, each in standard deviations from its own null: to be used where layers are searched.

    Raises
    ------
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
    IncompatibleError
        Where two representations have not been compared, or the comparison lacks loadings that a measure needs.
    MemoryLimitError
        Where the scores of two representations do not fit in memory.

    References
    ----------
    Westfall and Young (1993), Resampling-based multiple testing; Phipson and Smyth (2010), Permutation p-values should
    never be zero, SAGMB 9.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> store = tempfile.mkdtemp() + "/comparison.zarr"
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 100, 4))
    >>> with dask_svcca.create_zoo(store[:-15] + "zoo.zarr", examples=range(100)) as zoo:
    ...     for layer, values in {"x": x, "y": y, "z": x + y}.items():
    ...         zoo.write("net", "1", layer, values)
    >>> result = dask_svcca.compare(zoo, store)
    >>> null = permutation_null(result, [("net/1/x", "net/1/z"), ("net/1/x", "net/1/y")], permutations=99)
    >>> null.svcca_p_corrected.to_numpy() < 0.05
    array([ True, False])
    """
    check_count("permutations", permutations, "how many orders of the examples to draw")
    chosen = Pairs(comparison, pairs, measures)
    values = [_shuffled(chosen, labels, permutations, seed) for labels in chosen.labels]
    variables: Variables = {}
    for measure in chosen.measures:
        name = measure.name
        by_order = np.stack([value[name] for value in values])
        p, corrected = _p_values(-by_order if measure.role == "distance" else by_order)
        variables[name] = ("pair",), by_order[:, 0], measure.description
        variables[f"{name}_null"] = ("pair", "permutation"), by_order[:, 1:], f"{name} of shuffled examples"
        variables[f"{name}_p"] = ("pair",), p, f"share of permutations, the observed one included, with such a {name}"
        variables[f"{name}_p_corrected"] = ("pair",), corrected, f"{name}_p, corrected for the search among all pairs"
    return chosen.dataset(variables, permutations=permutations, seed=seed)


def jackknife(
    comparison: xr.Dataset | StoreLike,
    pairs: Iterable[tuple[str, str]] | pd.DataFrame,
    *,
    blocks: int = 20,
    measures: str | Iterable[str] = ("svcca",),
) -> xr.Dataset:
    """Standard errors by leaving out one block of examples after another.

    Covariances, subspaces, the variance threshold and canonical correlations are those of the examples that remain;
    all of them follow from the scores.

    Parameters
    ----------
    comparison : Dataset, path, zarr store, or URL
        What `compare` or `open_comparison` returned, or where it is; its subspaces must be there.
    pairs : iterable of (str, str), or DataFrame
        Labels of representations, or what `query` returned.
    blocks : int
        Number of blocks of consecutive examples, as equal as can be; at least 2.
    measures : str or iterable of str
        Names.

    Returns
    -------
    xarray.Dataset
        For each measure ``m``: ``m`` (pair), ``m_stderr`` (pair), and ``m_jackknife`` (pair, block), the values
        without one block.

    Raises
    ------
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
    IncompatibleError
        Where two representations have not been compared, or the comparison lacks loadings that a measure needs.
    MemoryLimitError
        Where the scores of two representations do not fit in memory.
    InvalidActivationsError
        Where a representation is constant without one of the blocks.

    References
    ----------
    Efron and Stein (1981), The jackknife estimate of variance, Annals of Statistics 9.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> store = tempfile.mkdtemp() + "/comparison.zarr"
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 100, 4))
    >>> with dask_svcca.create_zoo(store[:-15] + "zoo.zarr", examples=range(100)) as zoo:
    ...     zoo.write("net", "1", "x", x)
    ...     zoo.write("net", "1", "z", x + y)
    >>> _ = dask_svcca.compare(zoo, store)
    >>> errors = jackknife(store, [("net/1/x", "net/1/z"), ("net/1/x", "net/1/x")])
    >>> errors.svcca.to_numpy().round(2), errors.svcca_stderr.to_numpy().round(2)
    (array([0.73, 1.  ]), array([0.02, 0.  ]))
    """
    chosen = Pairs(comparison, pairs, measures, left_out=blocks)
    if not is_whole(blocks) or not 2 <= blocks <= chosen.examples // 2:
        raise InvalidQuestionError(
            f"blocks is from 2 to half the number of examples, {chosen.examples // 2}; got {blocks!r}"
        )
    edges = np.linspace(0, chosen.examples, blocks + 1).round().astype(int)
    # A representation stands in many pairs.
    without_each = lru_cache(maxsize=chosen.held)(
        lambda subspace: remainders(chosen, subspace, blocks_of_samples(chosen, subspace, edges))
    )
    whole, without = [], []
    for labels in chosen.labels:
        a, b, meeting = chosen.open(labels)
        pair = _Pair(chosen, a, b, meeting)
        whole.append(pair.values())
        without.append([pair.values_without(*parts) for parts in zip(without_each(a), without_each(b), strict=True)])
    variables: Variables = {}
    for measure in chosen.measures:
        name = measure.name
        jackknifed = np.array([[values[name][0] for values in pair] for pair in without])
        error = np.sqrt(
            (blocks - 1) / blocks * np.square(jackknifed - jackknifed.mean(axis=1, keepdims=True)).sum(axis=1)
        )
        variables[name] = ("pair",), np.array([values[name][0] for values in whole]), measure.description
        variables[f"{name}_stderr"] = ("pair",), error, f"standard error of {name}: jackknife over blocks of examples"
        variables[f"{name}_jackknife"] = ("pair", "block"), jackknifed, f"{name} without one block of examples"
    return chosen.dataset(variables, blocks=blocks)


def without_extreme(
    comparison: xr.Dataset | StoreLike,
    pairs: Iterable[tuple[str, str]] | pd.DataFrame,
    *,
    examples: int = 10,
    measures: str | Iterable[str] = ("svcca",),
) -> xr.Dataset:
    """Values without the few examples that are most extreme in both: whether a finding hangs on them.

    Those are left out whose product of leverages, squared norms of the whitened scores in the kept directions, is
    largest. Covariances, subspaces, the variance threshold and correlations are those of the examples that remain.
    Where one is 10,000 times the others, as massive activations are, values of scores in single precision are right to
    1e-6, and to 1e-4 with a million times: ``precision="float64"`` has no such limit, but that of the activations.

    Parameters
    ----------
    comparison : Dataset, path, zarr store, or URL
        What `compare` or `open_comparison` returned, or where it is; its subspaces must be there.
    pairs : iterable of (str, str), or DataFrame
        Labels of representations, or what `query` returned.
    examples : int
        How many to leave out, from 1 to half of them.
    measures : str or iterable of str
        Names.

    Returns
    -------
    xarray.Dataset
        For each measure ``m``: ``m`` (pair) and ``m_without`` (pair). ``left_out`` (pair, rank), places of the examples
        in the zoo, the most extreme first; ``share`` (pair, rank), of each in the sum of the products of leverages.

    Raises
    ------
    RepresentationNotFoundError, UnknownMeasureError, InvalidQuestionError
    IncompatibleError
        Where two representations have not been compared, or the comparison lacks loadings that a measure needs.
    MemoryLimitError
        Where the scores of two representations do not fit in memory.
    InvalidActivationsError
        Where a representation is constant without them.

    Examples
    --------
    Two layers with nothing in common but an example of which both make too much:

    >>> import tempfile, dask_svcca
    >>> store = tempfile.mkdtemp() + "/comparison.zarr"
    >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 4))
    >>> x[7], y[7] = 50, 50
    >>> result = dask_svcca.compare({"x": x, "y": y}, store)
    >>> found = without_extreme(store, [result.representation_a.to_numpy()], examples=1)
    >>> found.left_out.to_numpy(), found.svcca.to_numpy().round(2), found.svcca_without.to_numpy().round(2)
    (array([[7]]), array([0.34]), array([0.14]))
    """
    chosen = Pairs(comparison, pairs, measures, left_out=1)
    if not is_whole(examples) or not 1 <= examples <= chosen.examples // 2:
        raise InvalidQuestionError(
            f"examples is how many to leave out, from 1 to half of them, {chosen.examples // 2}; got {examples!r}"
        )
    whole, without, left_out, shares = [], [], [], []
    for labels in chosen.labels:
        a, b, meeting = chosen.open(labels)
        each = chosen.samples_per_example(a)
        products = np.multiply(*(side.leverages().reshape(-1, each).sum(axis=1) for side in (a, b)))
        extreme = np.argsort(-products, kind="stable")[:examples]
        samples = (np.sort(extreme)[:, np.newaxis] * each + np.arange(each)).ravel()
        pair = _Pair(chosen, a, b, meeting)
        whole.append(pair.values())
        without.append(pair.values_without(*(remainders(chosen, side, [samples])[0] for side in (a, b))))
        left_out.append(extreme)
        shares.append(products[extreme] / products.sum())
    variables: Variables = {}
    for measure in chosen.measures:
        name = measure.name
        variables[name] = ("pair",), np.array([values[name][0] for values in whole]), measure.description
        said = f"{name} without the examples that are most extreme in both"
        variables[f"{name}_without"] = ("pair",), np.array([values[name][0] for values in without]), said
    variables["left_out"] = ("pair", "rank"), np.array(left_out), "places of the examples that are left out"
    variables["share"] = ("pair", "rank"), np.array(shares), "share in the sum of the products of leverages"
    return chosen.dataset(variables, examples=examples)


def _orders(examples: int, permutations: int, seed: int) -> Iterator[IntArray]:
    """The observed order, then permutations: drawn again for each pair, so that only one is held at a time."""
    generator = np.random.default_rng(seed)
    yield np.arange(examples)
    for _ in range(permutations):
        yield generator.permutation(examples)


def _shuffled(chosen: Pairs, labels: LabelPair, permutations: int, seed: int) -> dict[str, FloatArray]:
    """Values of a pair, (order,), with the examples of b in one order after another."""
    a, b, meeting = chosen.open(labels)
    each = chosen.samples_per_example(a)
    shared = [one for one in meeting.shared if one.a in a.blocks and one.b in b.blocks]
    sizes = [a.blocks[one.a].directions * b.blocks[one.b].directions for one in shared]
    batch = max(1, STACK_BYTES // (a.scores.itemsize * max(1, sum(sizes))))
    norms_a, norms_b = _row_norms(chosen, a, b, meeting)
    orders = _orders(chosen.examples, permutations, seed)
    batches: list[dict[str, FloatArray]] = []
    for start in range(0, permutations + 1, batch):
        count = min(batch, permutations + 1 - start)
        stacks = [
            np.empty((count, a.blocks[one.a].directions, b.blocks[one.b].directions), dtype=_coupling_dtype(a, b))
            for one in shared
        ]
        products = np.empty(count)
        # One order at a time: all of them may be larger than all scores.
        for number, order in enumerate(itertools.islice(orders, count)):
            samples = order if each == 1 else (order[:, np.newaxis] * each + np.arange(each)).ravel()
            products[number] = norms_a @ norms_b[samples]
            for stack, one in zip(stacks, shared, strict=True):
                stack[number] = _coupling(a, b.scores[samples, b.blocks[one.b].columns], one, slice(None))
        norms = RowNorms(float(norms_a @ norms_a), float(norms_b @ norms_b), products)
        couplings, loadings = zip(shared, stacks, strict=True), (a.loadings, b.loadings)
        batches.append(
            measure_pair(chosen.measures, (a.basis, b.basis), meeting, couplings, count, norms=norms, loadings=loadings)
        )
        del stacks, couplings
    return {name: np.concatenate([values[name] for values in batches]) for name in batches[0]}


def _coupling_dtype(a: Subspace, b: Subspace) -> np.dtype[Any]:
    return np.result_type(a.scores.dtype, b.scores.dtype)


def _coupling(a: Subspace, right: InexactArray, frequency: SharedFrequency, samples: Samples) -> InexactArray:
    """Coupling at a frequency of some samples of a with those of b, (sample, direction)."""
    left = a.scores[samples, a.blocks[frequency.a].columns].T
    if frequency.conjugate or left.dtype.kind == "f":
        return np.asarray(left @ right)
    # The conjugate of the coupling of conjugates: this does not copy all scores of a for each order of b.
    return np.asarray((left @ right.conj()).conj())


def _row_norms(chosen: Pairs, a: Subspace, b: Subspace, meeting: Meeting) -> tuple[FloatArray, FloatArray]:
    """Squared norms of the samples of both, (sample,); zeros where no measure needs them."""
    if not chosen.with_row_norms:
        return np.zeros(len(a.scores)), np.zeros(len(b.scores))
    return (
        a.row_norms(direction_weights(a.basis, meeting, "a")),
        b.row_norms(direction_weights(b.basis, meeting, "b")),
    )


def _p_values(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """p-values of the first order's value of each pair, (pair, order): alone, and corrected for the search.

    Pairs of more directions score higher by chance alone, so that each is measured in standard deviations from
    its own mean. A pair without a value has no p-value either.
    """
    p, corrected = np.full(len(values), np.nan), np.full(len(values), np.nan)
    valued = np.isfinite(values).all(axis=1)
    present = values[valued]
    spread = present.std(axis=1, keepdims=True)
    varies = spread > ROUNDING
    excess = np.where(varies, (present - present.mean(axis=1, keepdims=True)) / np.where(varies, spread, 1), 0.0)
    p[valued] = (excess >= excess[:, :1]).mean(axis=1)
    if valued.any():
        corrected[valued] = (excess.max(axis=0) >= excess[:, :1]).mean(axis=1)
    return p, corrected


class _Pair:
    """A pair, with all of its samples or without some of them."""

    def __init__(self, chosen: Pairs, a: Subspace, b: Subspace, meeting: Meeting) -> None:
        self._chosen, self._a, self._b, self._meeting = chosen, a, b, meeting
        self._norms = _row_norms(chosen, a, b, meeting)

    @cached_property
    def _couplings(self) -> list[tuple[SharedFrequency, InexactArray]]:
        """Over all samples."""
        return [
            (frequency, self._coupling(frequency, slice(None)))
            for frequency in self._meeting.shared
            if frequency.a in self._a.blocks and frequency.b in self._b.blocks
        ]

    def _coupling(self, frequency: SharedFrequency, samples: Samples) -> InexactArray:
        return _coupling(self._a, self._b.scores[samples, self._b.blocks[frequency.b].columns], frequency, samples)

    def values(self) -> dict[str, FloatArray]:
        """From all samples."""
        couplings = ((frequency, coupling[np.newaxis]) for frequency, coupling in self._couplings)
        loadings = self._a.loadings, self._b.loadings
        return self._measure((self._a.basis, self._b.basis), couplings, loadings, *self._norms)

    def values_without(self, a: Remainder, b: Remainder) -> dict[str, FloatArray]:
        """From the samples that remain."""
        remain = remaining(len(self._a.scores), a.left_out)
        norms = [
            self._norms_of(subspace, remainder, side, norms)[remain]
            for subspace, remainder, side, norms in (
                (self._a, a, SIDES[0], self._norms[0]),
                (self._b, b, SIDES[1], self._norms[1]),
            )
        ]
        return self._measure((a.basis, b.basis), self._couplings_without(a, b), (a.loadings, b.loadings), *norms)

    def _couplings_without(self, a: Remainder, b: Remainder) -> Iterator[tuple[SharedFrequency, InexactArray]]:
        for frequency, whole in self._couplings:
            if frequency.a not in a.transform or frequency.b not in b.transform:
                continue
            centred = frequency.a == 0 and frequency.b == 0
            part, samples = partial(self._coupling, frequency), len(self._a.scores)
            coupling = coupling_without(part, whole, samples, a, b, centred=centred)
            left = a.transform[frequency.a]
            yield (
                frequency,
                ((left if frequency.conjugate else left.conj()).T @ coupling @ b.transform[frequency.b])[None],
            )

    def _norms_of(
        self, subspace: Subspace, remainder: Remainder, side: Literal["a", "b"], norms: FloatArray
    ) -> FloatArray:
        """Squared distances of all samples from the mean of those that remain."""
        if not self._chosen.with_row_norms or 0 not in subspace.blocks:
            return norms
        columns = subspace.blocks[0].columns
        weight = direction_weights(subspace.basis, self._meeting, side)[columns.start]
        mean, spectrum = remainder.total / remainder.samples, subspace.basis.spectrum[columns]
        across = (subspace.scores[:, columns] @ (spectrum * mean.conj())).real
        return np.asarray(norms + weight * (spectrum @ np.abs(mean) ** 2 - 2 * across))

    def _measure(
        self,
        bases: tuple[Basis, Basis],
        couplings: Iterable[tuple[SharedFrequency, InexactArray]],
        loadings: tuple[InexactArray | None, InexactArray | None],
        norms_a: FloatArray,
        norms_b: FloatArray,
    ) -> dict[str, FloatArray]:
        norms = RowNorms(float(norms_a @ norms_a), float(norms_b @ norms_b), np.array([norms_a @ norms_b]))
        return measure_pair(self._chosen.measures, bases, self._meeting, couplings, 1, norms=norms, loadings=loadings)
