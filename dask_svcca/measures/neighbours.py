"""Neighbours: which examples are near to which, in one representation and in the other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.errors import UnknownMeasureError
from dask_svcca.kernels.cosines import chosen_count, expected_second_order
from dask_svcca.kernels.neighbours import chance_of_shared, spread_of_shared
from dask_svcca.measures.common import not_of_couplings
from dask_svcca.measures.nulls import above_chance, chance_of_score
from dask_svcca.measures.record import Derived, Family, Measure
from dask_svcca.measures.relations import Cosines, Neighbours, Related, RelatedSums

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray

COSINE: Final = ("isotropic scaling", "orthogonal transformation")

_BY_COSINE: Final = (
    "by cosine of the activations as they are, not centred; the example itself is left out, and of equally near ones "
    "the first in the order of the zoo is nearer"
)

TIED: Final = 0.01
"""Share of examples whose last neighbour may be one of several that are equally near, where chance is still known."""

_UNLESS_TIED: Final = (
    "NaN where of both layers more than one example in a hundred has several that are equally near for its last "
    "neighbour: the order of the zoo decides among them in both, so that layers agree that have nothing in common"
)

_PERMUTATIONS: Final = "mean over all orders of the examples of one side; the number shared is hypergeometric"


def _number(name: str, family: str, k: float) -> int:
    if k != int(k) or k < 1:
        raise UnknownMeasureError(f"{family}'s k is a number of neighbours, 1 or more; {name!r} has {k:g}")
    return int(k)


def _shares(count: int) -> FloatArray:
    return np.asarray(np.arange(count + 1) / count)


def _overlaps(count: int) -> FloatArray:
    both = np.arange(count + 1)
    return np.asarray(both / (2 * count - both))


def _mean_score(sums: RelatedSums, count: int, score: Callable[[int], FloatArray]) -> FloatArray:
    return np.asarray(sums.pairs @ score(count) / sums.samples)


def _known(sums: RelatedSums, place: int) -> FloatArray:
    """1 where orders of the examples say what chance gives, else NaN; shares of ties are at that place of the sums."""
    return np.where((sums.a[place] > TIED) & (sums.b[place] > TIED), np.nan, 1.0)


def _expected_score(sums: RelatedSums, count: int, score: Callable[[int], FloatArray]) -> FloatArray:
    return chance_of_shared(count, sums.samples) @ score(count) * _known(sums, 2)


def _deviation(sums: RelatedSums, count: int) -> FloatArray:
    if not sums.of_examples:
        return np.full(sums.pairs.shape[:-1], np.nan)
    spread = spread_of_shared((sums.a[0], sums.b[0]), (sums.a[1], sums.b[1]), count, sums.samples)
    return np.asarray(spread / (sums.samples * count)) * _known(sums, 2)


def _with_k(name: str, given: str) -> str:
    """Name of another measure with the parameter of one, as it was given.

    Examples
    --------
    >>> _with_k("null_jaccard", "jaccard(k=5)"), _with_k("null_jaccard", "jaccard")
    ('null_jaccard(k=5)', 'null_jaccard')
    """
    _, bracket, rest = given.partition("(")
    return f"{name}{bracket}{rest}"


def _mutual_knn(name: str, k: float) -> Measure:
    count = _number(name, "mutual_knn", k)
    return Measure(
        name=name,
        version="1",
        description=f"share of the {count} nearest neighbours of an example that both have, mean over examples: "
        f"{_BY_COSINE}",
        sums=not_of_couplings,
        related=Related(Neighbours(count), partial(_mean_score, count=count, score=_shares)),
        invariances=COSINE,
        reference="Huh et al. (2024), The Platonic representation hypothesis, ICML, appendix A",
        companions=tuple(
            _with_k(one, name)
            for one in ("null_mutual_knn", "null_mutual_knn_sd", "p_mutual_knn", "calibrated_mutual_knn")
        ),
        null=_with_k("null_mutual_knn", name),
        null_sd=_with_k("null_mutual_knn_sd", name),
        p_value=_with_k("p_mutual_knn", name),
        calibrated=_with_k("calibrated_mutual_knn", name),
    )


def _jaccard(name: str, k: float) -> Measure:
    count = _number(name, "jaccard", k)
    return Measure(
        name=name,
        version="1",
        description=f"{count} nearest neighbours of an example that both have, over those that either has, mean over "
        f"examples: {_BY_COSINE}",
        sums=not_of_couplings,
        related=Related(Neighbours(count), partial(_mean_score, count=count, score=_overlaps)),
        invariances=COSINE,
        reference="Schumacher et al. (2021), The effects of randomness on the stability of node embeddings; as in "
        "Klabunde et al. (2025), ReSi: a comprehensive benchmark for representational similarity measures, ICLR",
        companions=tuple(_with_k(one, name) for one in ("null_jaccard", "calibrated_jaccard")),
        null=_with_k("null_jaccard", name),
        calibrated=_with_k("calibrated_jaccard", name),
    )


def _second_order(sums: RelatedSums) -> FloatArray:
    return np.asarray(sums.pairs[..., 0] / chosen_count(sums.samples))


def _second_order_error(sums: RelatedSums) -> FloatArray:
    count = chosen_count(sums.samples)
    variance = np.maximum(sums.pairs[..., 1] / count - np.square(_second_order(sums)), 0.0)
    return np.asarray(np.sqrt(variance * (1 - count / sums.samples) / (count - 1)))


def _second_order_null(sums: RelatedSums, count: int) -> FloatArray:
    a, b = (side[1:].reshape(3, count + 1, *side.shape[1:]) for side in (sums.a, sums.b))
    return expected_second_order(a, b, count, sums.samples) * _known(sums, 0)


def _second_order_cosine(name: str, k: float) -> Measure:
    count = _number(name, "second_order_cosine", k)
    return Measure(
        name=name,
        version="1",
        description=f"cosine of the distances, 1 less cosine, from an example to its {count} nearest neighbours in "
        f"either, mean over examples: {_BY_COSINE}. Of more than 1,024 examples, over a sample that is the same for "
        "all layers",
        sums=not_of_couplings,
        related=Related(Cosines(count), _second_order),
        invariances=COSINE,
        reference="Hamilton, Leskovec and Jurafsky (2016), Cultural shift or linguistic drift?, EMNLP; as in Klabunde "
        "et al. (2025), ReSi, ICLR",
        companions=tuple(
            _with_k(one, name)
            for one in ("second_order_cosine_error", "null_second_order_cosine", "calibrated_second_order_cosine")
        ),
        null=_with_k("null_second_order_cosine", name),
        calibrated=_with_k("calibrated_second_order_cosine", name),
    )


def _null_second_order_cosine(name: str, k: float) -> Measure:
    count = _number(name, "null_second_order_cosine", k)
    return Measure(
        name=name,
        version="1",
        description=f"second_order_cosine of {count} neighbours expected by chance, from seeded draws of each layer's "
        f"distances. {_UNLESS_TIED}",
        sums=not_of_couplings,
        related=Related(Cosines(count), partial(_second_order_null, count=count)),
        reference="mean over all orders of the examples of one side: given how many neighbours are shared, what is "
        "near in one layer and what is drawn for it in the other are independent",
        role="reference",
    )


def _second_order_cosine_error(name: str, k: float) -> Measure:
    count = _number(name, "second_order_cosine_error", k)
    return Measure(
        name=name,
        version="1",
        description="standard error of second_order_cosine from having drawn a sample of the examples; 0 with up to "
        "1,024, which are all looked at",
        sums=not_of_couplings,
        related=Related(Cosines(count), _second_order_error),
        valid_range=(0.0, np.inf),
        reference="mean over a sample of a finite population: Cochran (1977), Sampling techniques",
        role="reference",
    )


def _null(name: str, k: float, *, family: str, score: Callable[[int], FloatArray]) -> Measure:
    count = _number(name, family, k)
    return Measure(
        name=name,
        version="1",
        description=f"{family.removeprefix('null_')} of {count} neighbours expected by chance. {_UNLESS_TIED}",
        sums=not_of_couplings,
        related=Related(Neighbours(count), partial(_expected_score, count=count, score=score)),
        reference=_PERMUTATIONS,
        role="reference",
    )


def _null_sd(name: str, k: float) -> Measure:
    count = _number(name, "null_mutual_knn_sd", k)
    return Measure(
        name=name,
        version="1",
        description=f"standard deviation of null_mutual_knn over orders of the examples, of {count} neighbours; NaN "
        f"where samples are not whole examples",
        sums=not_of_couplings,
        related=Related(Neighbours(count), partial(_deviation, count=count)),
        valid_range=(0.0, np.inf),
        reference="Mantel (1967), Cancer Research 27, for matrices that are not symmetric",
        role="reference",
    )


def _chance(given: str) -> Derived:
    return Derived(
        _with_k("p_mutual_knn", given),
        "share of all orders of the examples that score as much, by the gamma distribution of their mean and variance",
        tuple(_with_k(name, given) for name in ("mutual_knn", "null_mutual_knn", "null_mutual_knn_sd")),
        chance_of_score,
        (0.0, 1.0),
        "Mantel (1967), Cancer Research 27",
        of_orders=True,
    )


def _calibrated(given: str, measure: str) -> Derived:
    score, null = _with_k(measure, given), _with_k(f"null_{measure}", given)
    return Derived(
        _with_k(f"calibrated_{measure}", given),
        f"{score} above chance: ({score} - {null}) / (1 - {null})",
        (score, null),
        above_chance,
        (-np.inf, 1.0),
        "as Cohen's kappa: Cohen (1960), Educational and Psychological Measurement 20",
    )


DERIVED_FAMILIES: Final[dict[str, Callable[[str], Derived]]] = {
    "p_mutual_knn": _chance,
    "calibrated_mutual_knn": partial(_calibrated, measure="mutual_knn"),
    "calibrated_jaccard": partial(_calibrated, measure="jaccard"),
    "calibrated_second_order_cosine": partial(_calibrated, measure="second_order_cosine"),
}
"""References that follow from others, by the name before their parameter: each takes its name as it was given."""


FAMILIES: Final = (
    Family("mutual_knn", "k", 10, _mutual_knn, in_all=False),
    Family("jaccard", "k", 10, _jaccard, in_all=False),
    Family("second_order_cosine", "k", 10, _second_order_cosine, in_all=False),
    Family("second_order_cosine_error", "k", 10, _second_order_cosine_error, in_all=False),
    Family("null_second_order_cosine", "k", 10, _null_second_order_cosine, in_all=False),
    Family("null_mutual_knn", "k", 10, partial(_null, family="null_mutual_knn", score=_shares), in_all=False),
    Family("null_mutual_knn_sd", "k", 10, _null_sd, in_all=False),
    Family("null_jaccard", "k", 10, partial(_null, family="null_jaccard", score=_overlaps), in_all=False),
)
