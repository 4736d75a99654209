"""A measure of the user's own, tried on numbers before a comparison counts on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_svcca.errors import InvalidMeasureError
from dask_svcca.evaluate.basis import Basis
from dask_svcca.evaluate.evaluation import Evaluation
from dask_svcca.readings import meet

if TYPE_CHECKING:
    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.measures import Measure

SAMPLES, NEURONS = 40, 5


def try_measure(measure: Measure) -> None:
    """Compute a measure for a few random pairs.

    Parameters
    ----------
    measure : Measure

    Raises
    ------
    InvalidMeasureError
        Where it raises, or its values are not real numbers of the shape of the pairs.

    Examples
    --------
    >>> from dask_svcca.measures import Measure
    >>> try_measure(Measure("typo", "...", lambda pairs: pairs.correlation.sum(axis=-1)))
    Traceback (most recent call last):
    ...
    dask_svcca.errors.InvalidMeasureError: the measure 'typo' cannot be computed: AttributeError: 'PairStack' object has
    no attribute 'correlation'. It was tried on random pairs; mend it, and register it with replace=True
    """
    rng = np.random.default_rng(0)
    scores = [_orthonormal(rng, count) for count in (3, 2, 4)]
    bases = [
        Basis(
            spectrum=np.sort(rng.uniform(1, 9, part.shape[1]))[::-1],
            block=np.zeros(part.shape[1], dtype=np.int64),
            kept=np.arange(part.shape[1]) < 2,
            grid=(),
            samples=SAMPLES,
            neurons=NEURONS,
        )
        for part in scores
    ]
    loadings = [np.linalg.qr(rng.normal(size=(NEURONS, part.shape[1])))[0] for part in scores]
    meeting = meet("examples", (), "examples", (), "crop")
    a, b = {0: bases[0]}, {0: bases[1], 1: bases[2]}
    try:
        evaluation = Evaluation(a, b, meeting, (measure,), np.ones((1, 2), dtype=np.bool_))  # type: ignore[arg-type]
        for member, right in enumerate(scores[1:]):
            coupling = (scores[0].T @ right)[np.newaxis, np.newaxis]
            blocks = bases[0].member_blocks(0), bases[1 + member].member_blocks(member)
            loaded = {0: loadings[0]}, {member: loadings[1 + member]}
            evaluation.add(coupling, *blocks, evaluation.meeting.shared[0], loaded)
            evaluation.finish()
        values = evaluation.values(np.ones((1, 2)), (np.ones(1), np.ones(2))).values[measure.name]
    except Exception as error:
        raise InvalidMeasureError(
            f"the measure {measure.name!r} cannot be computed: {type(error).__name__}: {error}. It was tried on random "
            f"pairs; mend it, and register it with replace=True"
        ) from error
    for value in values:
        if np.shape(value) != (1, 2) or np.asarray(value).dtype.kind != "f":
            raise InvalidMeasureError(
                f"the measure {measure.name!r} gives values of shape {np.shape(value)} and type "
                f"{np.asarray(value).dtype} for pairs of shape (1, 2); real numbers of the shape of the pairs are "
                f"expected"
            )


def _orthonormal(rng: np.random.Generator, count: int) -> FloatArray:
    centred = rng.normal(size=(SAMPLES, count))
    return np.asarray(np.linalg.qr(centred - centred.mean(axis=0))[0])
