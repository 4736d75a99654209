"""Canonical correlations of examples that their directions were not fitted to."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from dask_svcca.analysis._options import is_whole
from dask_svcca.analysis._pairs import Pairs
from dask_svcca.analysis._remainders import coupling_without, remainders
from dask_svcca.errors import InvalidQuestionError
from dask_svcca.evaluate import block_weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    import xarray as xr

    from dask_svcca.analysis._pairs import Subspace
    from dask_svcca.analysis._remainders import Remainder, Samples
    from dask_svcca.evaluate import Basis
    from dask_svcca.kernels._types import InexactArray, IntArray
    from dask_svcca.kernels.fourier import SharedFrequency
    from dask_svcca.readings import Meeting
    from dask_svcca.stores._io import StoreLike

LEAST_HELD_OUT = 2
"""Examples in a fold."""

SIDES: tuple[Literal["a"], Literal["b"]] = ("a", "b")


def cca_heldout(
    comparison: xr.Dataset | StoreLike,
    pairs: Iterable[tuple[str, str]] | pd.DataFrame,
    *,
    folds: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Mean canonical correlation of examples that the directions were not fitted to.

    In-sample correlations grow with the number of directions, also of layers that have nothing in common; these do not.
    Examples are dealt into folds by chance. Without one of the folds, directions are found anew, by their variance and
    then by their correlation; they are correlated on that fold.

    Parameters
    ----------
    comparison : Dataset, path, zarr store, or URL
        What `compare` or `open_comparison` returned, or where it is; its subspaces must be there.
    pairs : iterable of (str, str), or DataFrame
        Labels of representations, or what `query` returned.
    folds : int
        From 2 to half the number of examples.
    seed : int
        Of the folds.

    Returns
    -------
    xarray.Dataset
        ``cca_heldout`` (pair), the mean over folds, in [-1, 1]; ``cca_heldout_by_fold`` (pair, fold). Each is a sum
        over the directions kept, over the smaller rank, as ``svcca``; and ``svcca`` (pair), of all examples, to be
        read beside it.

    Raises
    ------
    RepresentationNotFoundError, InvalidQuestionError
    IncompatibleError
        Where two representations have not been compared, or positions are samples and a mask leaves out some.
    MemoryLimitError
        Where the scores of two representations do not fit in memory.
    InvalidActivationsError
        Where a representation is constant without one of the folds.

    Notes
    -----
    A fold has no part in the mean, the variance threshold, nor the directions that it is seen by. Only the cut at
    numerical rank, of what is rounding in all examples, has seen it.

    References
    ----------
    Hotelling's directions under cross-validation: Helmer et al. (2024), On the stability of canonical correlation
    analysis and partial least squares with application to brain-behavior associations, Communications Biology 7.

    Examples
    --------
    >>> import tempfile, dask_svcca
    >>> store = tempfile.mkdtemp() + "/comparison.zarr"
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 200, 30))
    >>> result = dask_svcca.compare({"x": x, "y": y, "z": x + y}, store)
    >>> x, y, z = result.representation_a.to_numpy()
    >>> found = cca_heldout(store, [(x, y), (x, z)])
    >>> found.svcca.to_numpy().round(2), found.cca_heldout.to_numpy().round(2)
    (array([0.32, 0.72]), array([-0.02,  0.64]))
    """
    chosen = Pairs(comparison, pairs, ("svcca",), left_out=folds if is_whole(folds) else 0)
    most = chosen.examples // LEAST_HELD_OUT
    if not is_whole(folds) or not 2 <= folds <= most:
        raise InvalidQuestionError(f"folds is from 2 to half the number of examples, {most}; got {folds!r}")
    if not is_whole(seed) or seed < 0:
        raise InvalidQuestionError(f"seed is a whole number from 0 on; got {seed!r}")
    dealt = np.array_split(np.random.default_rng(seed).permutation(chosen.examples), folds)
    without_each = lru_cache(maxsize=chosen.held)(
        lambda subspace: remainders(chosen, subspace, [_samples(chosen, subspace, fold) for fold in dealt])
    )
    whole, held_out = [], []
    for labels in chosen.labels:
        a, b, meeting = chosen.open(labels)
        pair = _Pair(a, b, meeting)
        held_out.append([pair.held_out(*both) for both in zip(without_each(a), without_each(b), strict=True)])
        whole.append(pair.in_sample())
    values = np.array(held_out)
    said = "mean canonical correlation of examples that directions were not fitted to: sum(r) / min(k, l)"
    return chosen.dataset(
        {
            "cca_heldout": (("pair",), values.mean(axis=1), said),
            "cca_heldout_by_fold": (("pair", "fold"), values, f"{said}, of one fold"),
            "svcca": (("pair",), np.array(whole), chosen.measures[0].description),
        },
        folds=folds,
        seed=seed,
    )


def _samples(chosen: Pairs, subspace: Subspace, examples: IntArray) -> IntArray:
    """Places of the samples of some examples."""
    each = chosen.samples_per_example(subspace)
    return (np.sort(examples)[:, np.newaxis] * each + np.arange(each)).ravel()


class _Pair:
    """A pair, all of its couplings, and what they say with and without some samples."""

    def __init__(self, a: Subspace, b: Subspace, meeting: Meeting) -> None:
        self._a, self._b, self._meeting = a, b, meeting
        shared = [one for one in meeting.shared if one.a in a.blocks and one.b in b.blocks]
        self._couplings = [(one, self._coupling(one, slice(None))) for one in shared]

    def _scores(self, one: SharedFrequency, samples: Samples) -> tuple[InexactArray, InexactArray]:
        """Of some samples at one frequency, those of a as their coupling takes them."""
        left = self._a.scores[samples, self._a.blocks[one.a].columns]
        return left.conj() if one.conjugate else left, self._b.scores[samples, self._b.blocks[one.b].columns]

    def _coupling(self, one: SharedFrequency, samples: Samples) -> InexactArray:
        left, right = self._scores(one, samples)
        return np.asarray(left.conj().T @ right)

    def in_sample(self) -> float:
        """Mean canonical correlation of all samples."""
        total = 0.0
        for one, coupling in self._couplings:
            kept = coupling[: self._a.blocks[one.a].kept, : self._b.blocks[one.b].kept]
            total += one.multiplicity * float(np.linalg.svd(kept, compute_uv=False).sum()) if kept.size else 0.0
        return total / self._rank(self._a.basis, self._b.basis)

    def held_out(self, a: Remainder, b: Remainder) -> float:
        """Mean correlation of the samples that are left out, in directions of those that remain."""
        total = 0.0
        for one, whole in self._couplings:
            maps = [side.transform_kept(block) for side, block in ((a, one.a), (b, one.b))]
            if not all(each.size for each in maps):
                continue
            if one.conjugate:
                maps[0] = maps[0].conj()
            centred = one.a == 0 and one.b == 0
            part, samples = partial(self._coupling, one), len(self._a.scores)
            coupling = coupling_without(part, whole, samples, a, b, centred=centred)
            left, right = self._scores(one, a.left_out)
            if centred:
                left, right = left - a.total / a.samples, right - b.total / b.samples
            vectors_a, _, adjoint_b = np.linalg.svd(maps[0].conj().T @ coupling @ maps[1], full_matrices=False)
            seen = left @ (maps[0] @ vectors_a), right @ (maps[1] @ adjoint_b.conj().T)
            lengths = np.linalg.norm(seen[0], axis=0) * np.linalg.norm(seen[1], axis=0)
            products = np.einsum("sd,sd->d", seen[0].conj(), seen[1]).real
            total += one.multiplicity * float((products / np.where(lengths > 0, lengths, np.inf)).sum())
        return total / self._rank(a.basis, b.basis)

    def _rank(self, a: Basis, b: Basis) -> int:
        """The smaller rank, of kept directions at the frequencies that are compared."""
        ranks = [
            int(block_weights(basis.grid, self._meeting, side)[basis.block[basis.kept]].sum())
            for basis, side in ((a, SIDES[0]), (b, SIDES[1]))
        ]
        return max(1, min(ranks))
