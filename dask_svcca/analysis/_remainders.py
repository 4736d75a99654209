"""What is left of a subspace without some of its samples, from its scores alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dask_svcca.errors import InvalidActivationsError
from dask_svcca.evaluate import Basis
from dask_svcca.kernels.threshold import leading_directions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_svcca.analysis._pairs import Pairs, Subspace
    from dask_svcca.kernels._types import InexactArray, IntArray

Samples: TypeAlias = "slice | IntArray"


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
    """

    left_out: Samples
    samples: int
    basis: Basis
    transform: Mapping[int, InexactArray]
    total: InexactArray
    loadings: InexactArray | None

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


def _remainder(subspace: Subspace, left_out: Samples, variance: float | None) -> Remainder:
    """Subspace of the samples that remain, from the scores of those that do not.

    Scores Z are orthonormal, so that Z'Z of the samples that remain is the identity less Z'Z of the block. Its
    eigenvectors make scores that are orthonormal over these samples; the scatter in their terms is as large as the
    rank, and its eigenvectors are the new directions.
    """
    old, scores = subspace.basis, subspace.scores[left_out]
    samples = len(subspace.scores) - len(scores)
    noise = 1e-5 if subspace.single else 1e-9
    spectra, transforms, loadings = {}, {}, []
    total: InexactArray = np.zeros(0)
    for index, block in subspace.blocks.items():
        part, before = scores[:, block.columns], old.spectrum[block.columns]
        gram = np.eye(part.shape[1]) - part.conj().T @ part
        if index == 0:
            total = -part.sum(axis=0)
            gram -= np.outer(total.conj(), total) / samples
        lengths, vectors = np.linalg.eigh(gram)
        # Directions that only the block had.
        lengths, vectors = lengths[lengths > noise], vectors[:, lengths > noise]
        root = np.sqrt(before)[:, np.newaxis] * vectors * np.sqrt(lengths)
        ascending, rotation = np.linalg.eigh(root.conj().T @ root)
        spectrum, rotation = ascending[::-1], rotation[:, ::-1]
        if len(spectrum):
            spectra[index] = spectrum
            transforms[index] = (vectors / np.sqrt(lengths)) @ rotation
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
        left_out, samples, basis, transforms, total, np.concatenate(loadings, axis=1) if loadings else None
    )


def _said(left_out: Samples) -> str:
    if isinstance(left_out, slice):
        return f"samples {left_out.start} to {left_out.stop}"
    return f"{len(left_out)} samples, the first {left_out.min()}"
