"""Distances: how far examples are from each other in one representation, and in the other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from dask_svcca.kernels.distances import (
    error_of_product,
    normalised,
    pair_count,
    spread_over_orders,
    squared_difference,
    value_count,
)
from dask_svcca.kernels.mantel import KINDS, third_over_orders
from dask_svcca.kernels.orders import (
    ROUNDING_OF_FEW,
    KernelSums,
    chance_of,
    chance_of_skewed,
    moments_over_orders,
    no_rarer_than_one_order,
)
from dask_svcca.measures.common import ORTHOGONAL, not_of_couplings
from dask_svcca.measures.nulls import ORDERS, above_chance
from dask_svcca.measures.record import Choices, Derived, Measure
from dask_svcca.measures.relations import Distances, Related, RelatedSums

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.distances import Form, Metric
    from dask_svcca.measures.record import Role

EUCLIDEAN: Final = Distances("euclidean", "plain")
CENTRED: Final = Distances("euclidean", "centred")

_SAMPLED: Final = "Of more than 1,024 examples, from a sample of 524,288 pairs that is the same for all layers"
_ERROR: Final = (
    "standard error of {} from having drawn a sample of the pairs of examples; 0 with up to 1,024 examples, of which "
    "all pairs are looked at"
)


def _means(sums: RelatedSums, form: Form) -> FloatArray:
    # Values are rounded when they are stored: what rounding leaves of a mean square of 1 is the layer's own.
    return normalised(sums.pairs / value_count(sums.samples, form), sums.a[2], sums.b[2])


def _share(sums: RelatedSums) -> float:
    return pair_count(sums.samples) / (sums.samples * (sums.samples - 1) / 2)


def _correlation(sums: RelatedSums, form: Form) -> FloatArray:
    return np.asarray(np.clip(_means(sums, form)[..., 0], -1.0, 1.0))


def _correlation_error(sums: RelatedSums, form: Form) -> FloatArray:
    values = value_count(sums.samples, form)
    return error_of_product(_means(sums, form), (sums.a[4], sums.b[4]), values, _share(sums))


def _distance_correlation(sums: RelatedSums) -> FloatArray:
    return np.asarray(np.sqrt(np.maximum(_correlation(sums, "centred"), 0.0)))


def _distance_correlation_error(sums: RelatedSums) -> FloatArray:
    root = _distance_correlation(sums)
    error = _correlation_error(sums, "centred")
    return np.asarray(np.where(root > 0, error / (2 * np.where(root > 0, root, 1)), np.sqrt(error)))


def _kernel_sums(side: FloatArray, values: float) -> KernelSums:
    # Of a layer that could not be compared nothing is known.
    norm = np.where(np.isfinite(side[2]) & (side[2] > 0), values * side[2], np.nan)
    return KernelSums(side[6] / np.sqrt(norm), np.ones(side[0].shape), side[7] / norm)


def _over_orders(sums: RelatedSums) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of the squared distance correlation over all orders of the examples."""
    values = value_count(sums.samples, "centred")
    a, b = (_kernel_sums(side, values) for side in (sums.a, sums.b))
    mean, variance = moments_over_orders(a, b, sums.samples)
    unknown = 1.0 if sums.of_examples else np.nan
    return mean * unknown, variance * unknown


def _distance_correlation_null(sums: RelatedSums) -> FloatArray:
    mean, _ = _over_orders(sums)
    return np.asarray(np.sqrt(np.maximum(mean, 0.0)))


def _distance_correlation_chance(sums: RelatedSums) -> FloatArray:
    mean, variance = _over_orders(sums)
    # From a sample of the pairs, a score is off by more than orders of the examples make it.
    chance = chance_of(_correlation(sums, "centred"), mean, variance + _correlation_error(sums, "centred") ** 2)
    return no_rarer_than_one_order(chance, sums.samples)


def _pairs_twice(sums: RelatedSums) -> float:
    return float(sums.samples * (sums.samples - 1))


def _norm_difference(sums: RelatedSums) -> FloatArray:
    square, _ = squared_difference(sums.a, sums.b, _means(sums, "plain"))
    return np.asarray(np.sqrt(_pairs_twice(sums) * square))


def _norm_difference_error(sums: RelatedSums) -> FloatArray:
    square, variance = squared_difference(sums.a, sums.b, _means(sums, "plain"))
    error = np.sqrt(variance * (1 - _share(sums)) / pair_count(sums.samples))
    return np.asarray(np.sqrt(_pairs_twice(sums)) * error / (2 * np.sqrt(np.where(square > 0, square, 1))))


def _uniformity_difference(sums: RelatedSums) -> FloatArray:
    return np.asarray(np.abs(sums.a[5] - sums.b[5]))


def _magnitude_difference(sums: RelatedSums) -> FloatArray:
    return np.asarray(np.abs(sums.a[-1] - sums.b[-1]))


def _varies(sums: RelatedSums) -> FloatArray:
    """1 where distances vary in both layers, NaN where they are all the same in one: no correlation is defined."""
    return np.where((sums.a[2] > 0) & (sums.b[2] > 0), 1.0, np.nan)


def _of_distances(sums: RelatedSums, value: Callable[[RelatedSums], FloatArray]) -> FloatArray:
    return np.asarray(_varies(sums) * value(sums))


def _rsa(name: str, chosen: Mapping[str, str]) -> Measure:
    relation, said = _compared(chosen)
    return Measure(
        name=name,
        version="1",
        description=f"{chosen['compare'].capitalize()} correlation of the {said} of all pairs of examples; 0 on "
        f"average for independent layers, NaN where the examples of a layer are all as far from each other. "
        f"{_SAMPLED}",
        sums=not_of_couplings,
        related=Related(relation, partial(_of_distances, value=partial(_correlation, form=relation.form))),
        valid_range=(-1.0, 1.0),
        invariances=ORTHOGONAL
        if relation.metric == "euclidean"
        else ("isotropic scaling", "a shift of all neurons of an example", "permutation of neurons"),
        reference="Kriegeskorte, Mur and Bandettini (2008), Representational similarity analysis, Frontiers in Systems "
        "Neuroscience 2",
        companions=tuple(
            name.replace("rsa", one, 1) for one in ("rsa_error", "null_rsa_sd", "null_rsa_skewness", "p_rsa")
        ),
        null_sd=name.replace("rsa", "null_rsa_sd", 1),
        p_value=name.replace("rsa", "p_rsa", 1),
    )


def _compared(chosen: Mapping[str, str]) -> tuple[Distances, str]:
    metric: Metric = "euclidean" if chosen["distance"] == "euclidean" else "correlation"
    said = "Euclidean distances" if metric == "euclidean" else "correlation distances (1 less correlation over neurons)"
    return Distances(metric, "ranks" if chosen["compare"] == "spearman" else "plain"), said


def _rsa_error(name: str, chosen: Mapping[str, str]) -> Measure:
    relation, _ = _compared(chosen)
    value = partial(_correlation_error, form=relation.form)
    return _error(name, "rsa", relation, partial(_of_distances, value=value))


def _rsa_deviation(sums: RelatedSums) -> FloatArray:
    pairs = sums.samples * (sums.samples - 1) / 2
    squares = pairs * _varies(sums)
    spread = spread_over_orders((squares, squares), (sums.a[8], sums.b[8]), sums.samples) / pairs
    spread = np.where(spread <= ROUNDING_OF_FEW / sums.samples, 0.0, spread)
    return np.asarray(spread if sums.of_examples else np.full(spread.shape, np.nan))


def _rsa_skewness(sums: RelatedSums) -> FloatArray:
    pairs = sums.samples * (sums.samples - 1) / 2
    deviation = _rsa_deviation(sums) * pairs
    a, b = (list(side[9 : 9 + KINDS]) for side in (sums.a, sums.b))
    third = third_over_orders(a, b, sums.samples)
    # All orders of values of two kinds may score the same.
    return np.asarray(np.where(deviation == 0, 0.0, third / np.where(deviation == 0, 1.0, deviation) ** 3))


def _null_rsa_sd(name: str, chosen: Mapping[str, str]) -> Measure:
    relation, _ = _compared(chosen)
    return Measure(
        name=name,
        version="1",
        description="standard deviation of rsa over all orders of the examples, of which the mean is 0; NaN where a "
        "sample is a part of an example",
        sums=not_of_couplings,
        related=Related(relation, _rsa_deviation),
        valid_range=(0.0, np.inf),
        reference="Mantel (1967), The detection of disease clustering and a generalized regression approach, Cancer "
        "Research 27",
        role="reference",
    )


def _null_rsa_skewness(name: str, chosen: Mapping[str, str]) -> Measure:
    relation, _ = _compared(chosen)
    return Measure(
        name=name,
        version="1",
        description="skewness of rsa over all orders of the examples; of more than 1,024 from a seeded sample of them. "
        "NaN where a sample is a part of an example",
        sums=not_of_couplings,
        related=Related(relation, _rsa_skewness),
        valid_range=(-np.inf, np.inf),
        reference="Mielke (1979), On asymptotic non-normality of null distributions of MRPP statistics, Communications "
        "in Statistics A8",
        role="reference",
    )


def _rsa_chance(score: FloatArray, deviation: FloatArray, skewness: FloatArray, error: FloatArray) -> FloatArray:
    # From a sample of the pairs, a score is off by more than orders of the examples make it, in either direction.
    spread = np.sqrt(np.square(deviation) + np.square(error))
    there = np.where(spread > 0, spread, 1.0)
    chance = chance_of_skewed(score / there, skewness * (deviation / there) ** 3)
    return np.where(spread > 0, chance, np.where(np.isfinite(spread), 1.0, np.nan))


def _p_rsa(name: str) -> Derived:
    return Derived(
        name,
        "share of all orders of the examples that score as much, by the distribution of Pearson's third kind of "
        "their mean, 0, standard deviation and skewness (normal where that is negative), and not below 1 / n!; NaN "
        "where a sample is a part of an example",
        tuple(name.replace("p_rsa", one, 1) for one in ("rsa", "null_rsa_sd", "null_rsa_skewness", "rsa_error")),
        _rsa_chance,
        (0.0, 1.0),
        "Mantel (1967), The detection of disease clustering and a generalized regression approach, Cancer Research 27; "
        "Mielke (1979), Communications in Statistics A8",
        of_orders=True,
    )


def _error(name: str, measure: str, relation: Distances, value: Callable[[RelatedSums], FloatArray]) -> Measure:
    return Measure(
        name=name,
        version="1",
        description=_ERROR.format(measure),
        sums=not_of_couplings,
        related=Related(relation, value),
        valid_range=(0.0, np.inf),
        reference="ratio of means over a sample of a finite population: Cochran (1977), Sampling techniques",
        role="reference",
    )


def _record(
    name: str,
    description: str,
    relation: Distances,
    value: Callable[[RelatedSums], FloatArray],
    reference: str,
    *,
    role: Role = "distance",
    with_error: bool = True,
    invariances: tuple[str, ...] = ("translation", "orthogonal transformation"),
    with_null: bool = False,
) -> Measure:
    null, p_value, calibrated = (f"{what}_{name}" if with_null else "" for what in ("null", "p", "calibrated"))
    return Measure(
        name=name,
        version="1",
        description=description,
        sums=not_of_couplings,
        related=Related(relation, value),
        valid_range=(0.0, np.inf) if role == "distance" else (0.0, 1.0),
        invariances=invariances,
        reference=reference,
        role=role,
        companions=tuple(filter(None, (f"{name}_error" if with_error else "", null, p_value, calibrated))),
        null=null,
        p_value=p_value,
        calibrated=calibrated,
    )


MEASURES: Final = (
    _record(
        "rsm_norm_difference",
        "Frobenius norm of the difference of the matrices of Euclidean distances of examples: sqrt(sum_ij (d_ij - "
        f"d'_ij)**2). {_SAMPLED}",
        EUCLIDEAN,
        _norm_difference,
        "Yin and Shen (2018), On the dimensionality of word embedding, NeurIPS",
    ),
    _record(
        "distance_correlation",
        "distance correlation: of the Euclidean distances of examples, less the means of both and plus the overall "
        f"mean, the root of sum_ij A_ij B_ij / (|A| |B|). Above 0 for independent layers. {_SAMPLED}",
        CENTRED,
        _distance_correlation,
        "Szekely, Rizzo and Bakirov (2007), Measuring and testing dependence by correlation of distances, Annals of "
        "Statistics 35",
        role="similarity",
        invariances=ORTHOGONAL,
        with_null=True,
    ),
    _record(
        "uniformity_difference",
        "difference of the uniformities of two layers, log mean_ij exp(-2 d_ij**2) over all examples, themselves "
        "included; d are Euclidean distances",
        EUCLIDEAN,
        _uniformity_difference,
        "Wang and Isola (2020), Understanding contrastive representation learning through alignment and uniformity on "
        "the hypersphere, ICML; as in Klabunde et al. (2025), ReSi, ICLR",
        with_error=False,
    ),
    _record(
        "magnitude_difference",
        "difference of the lengths of the means of two layers over all examples",
        EUCLIDEAN,
        _magnitude_difference,
        "Wang et al. (2022), Towards understanding the instability of network embedding, IEEE TKDE 34; as in Klabunde "
        "et al. (2025), ReSi, ICLR",
        with_error=False,
        invariances=("orthogonal transformation",),
    ),
    _error("rsm_norm_difference_error", "rsm_norm_difference", EUCLIDEAN, _norm_difference_error),
    _error("distance_correlation_error", "distance_correlation", CENTRED, _distance_correlation_error),
    Measure(
        name="null_distance_correlation",
        version="1",
        description="root of the mean of the squared distance correlation over all orders of the examples; NaN where a "
        "sample is a part of an example",
        sums=not_of_couplings,
        related=Related(CENTRED, _distance_correlation_null),
        reference=ORDERS,
        role="reference",
    ),
    Measure(
        name="p_distance_correlation",
        version="2",
        description="share of all orders of the examples that score as much, by the gamma distribution of the mean and "
        "the variance of the squared distance correlation, and not below 1 / n!; NaN where a sample is a part of an "
        "example",
        sums=not_of_couplings,
        related=Related(CENTRED, _distance_correlation_chance),
        reference=ORDERS,
        role="reference",
    ),
)

DERIVED: Final = (
    Derived(
        "calibrated_distance_correlation",
        "distance_correlation above chance: (distance_correlation - null_distance_correlation) / (1 - "
        "null_distance_correlation)",
        ("distance_correlation", "null_distance_correlation"),
        above_chance,
        (-np.inf, 1.0),
        "as Cohen's kappa: Cohen (1960), Educational and Psychological Measurement 20",
    ),
)

DERIVED_FAMILIES: Final[dict[str, Callable[[str], Derived]]] = {"p_rsa": _p_rsa}
"""References that follow from others, by the name before their parameter: each takes its name as it was given."""

_OPTIONS: Final = {"distance": ("correlation", "euclidean"), "compare": ("pearson", "spearman")}

FAMILIES: Final = (
    Choices("rsa", _OPTIONS, _rsa),
    Choices("rsa_error", _OPTIONS, _rsa_error),
    Choices("null_rsa_sd", _OPTIONS, _null_rsa_sd),
    Choices("null_rsa_skewness", _OPTIONS, _null_rsa_skewness),
)
