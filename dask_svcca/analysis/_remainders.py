"""What is left of a subspace without some of its samples, from its scores alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dask_svcca.analysis._pairs import PIECE
from dask_svcca.errors import InvalidActivationsError
from dask_svcca.evaluate import Basis
from dask_svcca.kernels.pairs import squared_magnitudes
from dask_svcca.kernels.threshold import leading_directions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dask_svcca.analysis._pairs import Pairs, Subspace
    from dask_svcca.kernels._types import BoolArray, FloatArray, InexactArray, IntArray

Samples: TypeAlias = "slice | IntArray"

MOST = 0.5
"""Share of a direction that a block has, up to which what remains is the whole less the block: the rounding of scores
in single precision is at most doubled."""

CERTAIN = 32
"""Times the rounding of scores from which on they are something."""


@dataclass(frozen=True)
class Remainder:
    """A representation without one block of its samples.

    Attributes
    ----------
    left_out : slice or (sample,)
        Samples that are left out.
    samples : int
        Number of samples that remain.
    basis : Basis
    transform : dict of int to (direction, direction)
        By block, from old scores to new ones.
    total : (direction,)
        Sum of the scores that remain, in the block that is centred.
    loadings : (neuron, direction) or None
        None where no measure needs them.
    summed : bool
        Whether the block has so much of a direction that sums over what remains are no differences.
    """

    left_out: Samples
    samples: int
    basis: Basis
    transform: Mapping[int, InexactArray]
    total: InexactArray
    loadings: InexactArray | None
    summed: bool

    def transform_kept(self, index: int) -> InexactArray:
        """From old scores of a block to the new ones that the variance threshold keeps, (direction, direction)."""
        if index not in self.transform:
            return np.zeros((0, 0))
        return self.transform[index][:, : int(self.basis.kept[self.basis.block == index].sum())]


def remainders(chosen: Pairs, subspace: Subspace, left_out: Sequence[Samples]) -> list[Remainder]:
    """A subspace without some of its samples after others."""
    return [_remainder(subspace, samples, chosen.parameters["variance"]) for samples in left_out]


def blocks_of_samples(chosen: Pairs, subspace: Subspace, edges: IntArray) -> list[slice]:
    """Samples of blocks of consecutive examples."""
    each = chosen.samples_per_example(subspace)
    return [
        slice(start * each, stop * each) for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]


def remaining(samples: int, left_out: Samples) -> BoolArray:
    """Which of so many samples remain."""
    remain = np.ones(samples, dtype=np.bool_)
    remain[left_out] = False
    return remain


def _pieces(samples: int, left_out: Samples) -> list[IntArray]:
    """Places of the samples that remain, some at a time."""
    places = np.flatnonzero(remaining(samples, left_out))
    return [places[start : start + PIECE] for start in range(0, len(places), PIECE)]


def _remainder(subspace: Subspace, left_out: Samples, variance: float | None) -> Remainder:
    """Subspace of the samples that remain, from scores alone.

    Scores Z are orthonormal, so that Z'Z of the samples that remain is the identity less Z'Z of the block; where the
    block has most of a direction, it is the sum over those that remain. Its eigenvectors make scores that are
    orthonormal over these samples; the scatter in their terms is as large as the rank, and its eigenvectors are the new
    directions.
    """
    old = subspace.basis
    scores = subspace.scores[left_out]
    samples = len(subspace.scores) - len(scores)
    summed = bool((squared_magnitudes(scores).sum(axis=0) > MOST).any())
    spectra, transforms, loadings = {}, {}, []
    total: InexactArray = np.zeros(0)
    for index, block in subspace.blocks.items():
        before = old.spectrum[block.columns]
        if summed:
            gram, sums, energy = _sums(subspace, left_out, block.columns, centred=index == 0)
            rounding = _rounding(subspace, before, energy)
        else:
            part = scores[:, block.columns]
            gram, sums = np.eye(part.shape[1]) - part.conj().T @ part, -part.sum(axis=0)
            rounding = np.full(len(gram), 1e-5 if subspace.single else 1e-9)
            if index == 0:
                gram = gram - np.outer(sums.conj(), sums) / samples
        if index == 0:
            total = sums
        # Of lengths that may be of any size, each in its own terms.
        scale = np.sqrt(np.maximum(gram.diagonal().real, rounding))
        lengths, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
        # Not directions that only the block had, nor those that so few samples cannot have.
        least = CERTAIN * len(gram) * np.finfo(np.float64).eps
        there = lengths > np.maximum(squared_magnitudes(vectors).T @ (rounding / scale**2), least)
        lengths, vectors = lengths[there], vectors[:, there]
        root = (np.sqrt(before) * scale)[:, np.newaxis] * vectors * np.sqrt(lengths)
        ascending, rotation = np.linalg.eigh(root.conj().T @ root)
        spectrum, rotation = ascending[::-1], rotation[:, ::-1]
        if len(spectrum):
            spectra[index] = spectrum
            transforms[index] = (vectors / scale[:, np.newaxis] / np.sqrt(lengths)) @ rotation
            if subspace.loadings is not None:
                loadings.append(subspace.loadings[:, block.columns] @ (root @ rotation) / np.sqrt(spectrum))
    if not spectra:
        raise InvalidActivationsError(
            f"{subspace.label!r} is constant without {_said(left_out)}; use more and smaller blocks"
        )
    basis = Basis(
        spectrum=np.concatenate(list(spectra.values())),
        block=np.repeat(list(spectra), [len(spectrum) for spectrum in spectra.values()]),
        kept=np.zeros(0, dtype=np.bool_),
        grid=old.grid,
        samples=samples,
        neurons=old.neurons,
    )
    basis = replace(basis, kept=leading_directions(basis.spectrum, basis.multiplicity, variance))
    return Remainder(
        left_out, samples, basis, transforms, total, np.concatenate(loadings, axis=1) if loadings else None, summed
    )


def coupling_without(
    coupling: Callable[[Samples], InexactArray],
    whole: InexactArray,
    samples: int,
    a: Remainder,
    b: Remainder,
    *,
    centred: bool,
) -> InexactArray:
    """Coupling of the samples that remain, in terms of old scores.

    Parameters
    ----------
    coupling : callable
        What it is of some samples.
    whole : (direction, direction)
        What it is of all of them.
    samples : int
        How many there are in all.
    a, b : Remainder
    centred : bool
        Whether scores are those of the block that is centred.
    """
    if a.summed or b.summed:
        found = np.zeros_like(whole)
        for places in _pieces(samples, a.left_out):
            found = found + coupling(places)
    else:
        found = whole - coupling(a.left_out)
    return found - np.outer(a.total.conj(), b.total) / a.samples if centred else found


def _sums(
    subspace: Subspace, left_out: Samples, columns: slice, *, centred: bool
) -> tuple[InexactArray, InexactArray, FloatArray]:
    """Of the samples that remain: inner products of directions, sums of scores, and of squares before centring."""
    pieces = _pieces(len(subspace.scores), left_out)
    samples = sum(map(len, pieces))
    totals = [subspace.scores[places, columns].sum(axis=0) for places in pieces]
    total: InexactArray = np.sum(totals, axis=0)
    mean = total / samples if centred else 0.0
    gram: InexactArray = np.zeros((len(total),) * 2, dtype=total.dtype)
    energy = np.zeros(len(total))
    for places in pieces:
        part = subspace.scores[places, columns]
        energy += squared_magnitudes(part).sum(axis=0)
        part = part - mean
        gram += part.conj().T @ part
    return gram, total, energy


def _rounding(subspace: Subspace, spectrum: FloatArray, energy: FloatArray) -> FloatArray:
    """Squares of scores, summed, up to which they are rounding: as they are stored, and as they were projected."""
    stored, projected = np.finfo(np.float32 if subspace.single else np.float64).eps, np.finfo(np.float64).eps
    found = CERTAIN**2 * (stored**2 * energy + projected**2 * (energy @ spectrum) / spectrum)
    return np.maximum(found, np.finfo(np.float64).tiny)


def _said(left_out: Samples) -> str:
    if isinstance(left_out, slice):
        return f"samples {left_out.start} to {left_out.stop}"
    return f"{len(left_out)} samples, the first {left_out.min()}"
