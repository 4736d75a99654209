"""Measures: records that say how one number about a pair follows from couplings and spectra.

A measure is a sum over the blocks of a pair, each weighted by its multiplicity, and a last step that turns the sum
into the value. So it is the same record for a dense layer (one block) and a convolutional one (a block a frequency).

Notation: k directions of a and l of b with eigenvalues ``s**2`` of the scatter, coupling C (k x l), its singular values
the canonical correlations ``r``. Sums run over all blocks.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dask_svcca.errors import UnknownMeasureError
from dask_svcca.kernels.chance import expected_correlation, significant_correlations, spurious_correlations
from dask_svcca.kernels.pairs import singular_values
from dask_svcca.variables import STORED_NAMES, Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dask_svcca.kernels._types import FloatArray
    from dask_svcca.kernels.pairs import PairStack

Need: TypeAlias = Literal["spectrum", "loadings", "row_norms"]
Role: TypeAlias = Literal["similarity", "distance", "reference"]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a measure may divide by, of the representations of one side: over all blocks, with multiplicities.

    Arrays broadcast: those of a are (a, 1), those of b (1, b).

    Attributes
    ----------
    rank, variance : array
        Number of directions, and sum of eigenvalues.
    own : array
        What `Measure.own` gives for each representation.
    squared_row_norms : array
        Sum over samples of the fourth power of the norm of a sample; zero where no measure needs it.
    """

    rank: FloatArray
    variance: FloatArray
    own: FloatArray
    squared_row_norms: FloatArray


@dataclass(frozen=True, slots=True)
class PairTotals:
    """What a measure may need of the pairs as such.

    Attributes
    ----------
    samples : int
    translations : int
        Circular translations that the samples stand for: positions of the grid of the DFT, 1 for dense layers.
    row_norms : (a, b)
        Inner products of the squared norms of the samples; zero where no measure needs them.
    """

    samples: int
    translations: int
    row_norms: FloatArray


Sums: TypeAlias = "Callable[[PairStack], FloatArray]"
Own: TypeAlias = "Callable[[FloatArray, FloatArray], float]"
Value: TypeAlias = "Callable[[FloatArray, Totals, Totals, PairTotals], FloatArray]"


def over_smaller_rank(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    """Mean over the directions of the smaller of the two."""
    # Cropped layers may keep nothing at the frequencies they share: nothing in common, and not zero by zero.
    return np.asarray(sums[..., 0] / np.maximum(np.minimum(a.rank, b.rank), 1))


def _no_own(_spectrum: FloatArray, _weights: FloatArray) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of similarity, or a number to read one by.

    Attributes
    ----------
    name : str
        Name of the variable in a comparison.
    description : str
    sums : callable
        From a `PairStack`, (pair,) or (pair, components); added up over blocks.
    value : callable
        From the sums, (a, b, components), the `Totals` of both sides and `PairTotals`, the value, (a, b).
    own : callable
        From the spectrum of one representation and the multiplicities of its directions, a number of its own.
    components : int
    directions : {"kept", "all"}
        Whether it looks at the directions kept by the variance threshold, or at the full numerical rank.
    needs : frozenset of {"spectrum", "loadings", "row_norms"}
        What it takes beside couplings and ranks.
    valid_range : (float, float)
    invariances : tuple of str
    reference : str
    symmetric : bool
    role : {"similarity", "distance", "reference"}
        Higher is more similar; lower is; or a number that helps to read another measure.
    companions : tuple of str
        References stored along with it.
    """

    name: str
    description: str
    sums: Sums
    value: Value = over_smaller_rank
    own: Own = _no_own
    components: int = 1
    directions: Literal["kept", "all"] = "all"
    needs: frozenset[Need] = frozenset()
    valid_range: tuple[float, float] = (0.0, 1.0)
    invariances: tuple[str, ...] = ()
    reference: str = ""
    symmetric: bool = True
    role: Role = "similarity"
    companions: tuple[str, ...] = field(default=())

    @property
    def variable(self) -> Variable:
        """Declaration of the variable that holds it."""
        return Variable(self.name, "pair", "float64", np.nan, self.description, "1")

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes stored with the variable."""
        return {
            **self.variable.attributes,
            "valid_range": [None if np.isinf(bound) else bound for bound in self.valid_range],
            "symmetric": self.symmetric,
            "sense": self.role,
            "invariant_to": list(self.invariances),
            "reference": self.reference,
        }


# --- sums over one block -------------------------------------------------------------------------------------------


def _correlations(pairs: PairStack) -> FloatArray:
    return np.asarray(pairs.correlations.sum(axis=-1))


def _squared_correlations(pairs: PairStack) -> FloatArray:
    return np.asarray(pairs.squared_coupling.sum(axis=(1, 2)))


def _projection_weighted(pairs: PairStack) -> FloatArray:
    vectors, correlations = pairs.canonical_vectors
    weights = np.empty(correlations.shape)
    deviations = np.sqrt(pairs.a.spectrum)
    for member in np.unique(pairs.a.member):
        chosen = pairs.a.member == member
        # Inner products of canonical directions and neurons: u.T S V.T, without any sample.
        scaled = vectors[chosen].conj().transpose(0, 2, 1) * deviations[chosen][:, np.newaxis, :]
        weights[chosen] = np.abs(scaled @ pairs.a.loadings[int(member)].conj().T).sum(axis=-1)
    return np.stack([(weights * correlations).sum(axis=-1), weights.sum(axis=-1)], axis=-1)


def _cross_covariance_norm(pairs: PairStack) -> FloatArray:
    return np.asarray(
        np.einsum("pkl,pk,pl->p", pairs.squared_coupling, pairs.a.spectrum, pairs.b.spectrum, optimize=True)
    )


def _nuclear_norm(pairs: PairStack) -> FloatArray:
    weighted = pairs.weighted(np.sqrt(pairs.a.spectrum), np.sqrt(pairs.b.spectrum))
    return np.asarray(singular_values(weighted).sum(axis=-1))


def _explained_variance(pairs: PairStack) -> FloatArray:
    return np.asarray(np.einsum("pkl,pk->p", pairs.squared_coupling, pairs.a.spectrum, optimize=True))


def _partial_least_squares(pairs: PairStack) -> FloatArray:
    count = min(pairs.coupling.shape[1:])
    most = np.sqrt(pairs.a.spectrum[:, :count] * pairs.b.spectrum[:, :count]).sum(axis=-1)
    return np.stack([_nuclear_norm(pairs), most], axis=-1)


def _ridge(spectrum: FloatArray, variance: FloatArray, lam: float) -> FloatArray:
    # Cropped layers may have no variance at the frequencies they share.
    share = spectrum / np.where(variance > 0, variance, 1)
    return np.asarray(share / (share + lam))


def _ridge_cross(pairs: PairStack, lam: float) -> FloatArray:
    a = _ridge(pairs.a.spectrum, pairs.a.variance[:, np.newaxis], lam)
    b = _ridge(pairs.b.spectrum, pairs.b.variance[:, np.newaxis], lam)
    return np.asarray(np.einsum("pkl,pk,pl->p", pairs.squared_coupling, a, b, optimize=True))


def _partly_whitened(spectrum: FloatArray, variance: FloatArray, rank: FloatArray, alpha: float) -> FloatArray:
    mean = np.where(variance > 0, variance, 1) / np.maximum(rank, 1)
    return np.asarray(alpha * np.sqrt(spectrum / mean) + (1 - alpha))


def _partial_nuclear_norm(pairs: PairStack, alpha: float) -> FloatArray:
    a = _partly_whitened(pairs.a.spectrum, pairs.a.variance[:, np.newaxis], pairs.a.rank[:, np.newaxis], alpha)
    b = _partly_whitened(pairs.b.spectrum, pairs.b.variance[:, np.newaxis], pairs.b.rank[:, np.newaxis], alpha)
    return np.asarray(singular_values(pairs.weighted(a, b)).sum(axis=-1))


def _expected_correlations(pairs: PairStack) -> FloatArray:
    k, l = pairs.coupling.shape[1:]
    return np.full(len(pairs.coupling), min(k, l) * expected_correlation(k, l, pairs.degrees))


def _significant(pairs: PairStack) -> FloatArray:
    k, l = pairs.coupling.shape[1:]
    found = significant_correlations(pairs.correlations, k, l, pairs.degrees, is_complex=pairs.is_complex)
    return found.astype(np.float64)


def _spurious(pairs: PairStack) -> FloatArray:
    k, l = pairs.coupling.shape[1:]
    return np.full(len(pairs.coupling), float(spurious_correlations(k, l, pairs.degrees)))


def _expected_cross_covariance(pairs: PairStack) -> FloatArray:
    return np.asarray(pairs.a.spectrum.sum(axis=-1) * pairs.b.spectrum.sum(axis=-1) / pairs.degrees)


# --- numbers of one representation ---------------------------------------------------------------------------------


def _sum_of_squares(spectrum: FloatArray, weights: FloatArray) -> float:
    return float(weights @ spectrum**2)


def _sum_of_squared_ridges(spectrum: FloatArray, weights: FloatArray, lam: float) -> float:
    return float(weights @ _ridge(spectrum, np.asarray(weights @ spectrum), lam) ** 2)


def _partial_norm(spectrum: FloatArray, weights: FloatArray, alpha: float) -> float:
    whitened = _partly_whitened(spectrum, np.asarray(weights @ spectrum), np.asarray(weights.sum()), alpha)
    return float(weights @ whitened**2)


# --- values from sums ----------------------------------------------------------------------------------------------


_CANCELLED = 1e-5
"""Share of its terms below which a difference of scores in single precision is, for a hundredth or more, rounding."""


def _the_sum(sums: FloatArray, _a: Totals, _b: Totals, _: PairTotals) -> FloatArray:
    return sums[..., 0]


def _ratio(sums: FloatArray, _a: Totals, _b: Totals, _: PairTotals) -> FloatArray:
    # Cropped layers with nothing at the frequencies they share have nothing to weigh by either.
    return np.asarray(sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1))


def _over_geometric_mean(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    norms = np.sqrt(a.own * b.own)
    return np.asarray(sums[..., 0] / np.where(norms > 0, norms, 1))


def _over_deviations(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    norms = np.sqrt(a.variance * b.variance)
    return np.asarray(sums[..., 0] / np.where(norms > 0, norms, 1))


def _over_variance_of_a(sums: FloatArray, a: Totals, _b: Totals, _: PairTotals) -> FloatArray:
    return np.asarray(sums[..., 0] / np.where(a.variance > 0, a.variance, 1))


def _ridge_distance(sums: FloatArray, a: Totals, b: Totals, _: PairTotals) -> FloatArray:
    return np.asarray(np.sqrt(np.maximum(a.own + b.own - 2 * sums[..., 0], 0)))


def _debiased(sums: FloatArray, a: Totals, b: Totals, pairs: PairTotals) -> FloatArray:
    times = pairs.translations
    count = pairs.samples * times
    if count < 4:
        return np.full(sums.shape[:2], np.nan)

    def unbiased(cross: FloatArray, norms: FloatArray, variances: FloatArray) -> FloatArray:
        return np.asarray(
            times**2 * cross
            - times * norms * (count / (count - 2))
            + times**2 * variances / ((count - 1) * (count - 2))
        )

    def norm(side: Totals) -> FloatArray:
        # Of samples that are orthogonal to one another, all or but for a translation, only rounding is left.
        found = unbiased(side.own, side.squared_row_norms, side.variance**2)
        return np.where(found > _CANCELLED * times**2 * side.own, found, np.nan)

    cross = unbiased(sums[..., 0], pairs.row_norms, a.variance * b.variance)
    # Cropped layers with nothing at the frequencies they share have nothing in common.
    return np.where(a.variance * b.variance > 0, np.clip(cross / np.sqrt(norm(a) * norm(b)), -1.0, 1.0), 0.0)


# --- the measures --------------------------------------------------------------------------------------------------

_ORTHOGONAL = ("translation", "isotropic scaling", "orthogonal transformation")
_LINEAR = ("translation", "invertible linear transformation")
_SPECTRUM: frozenset[Need] = frozenset({"spectrum"})

_MEASURES = (
    Measure(
        name="svcca",
        description="mean canonical correlation of the directions that explain most variance: sum(r) / min(k, l)",
        sums=_correlations,
        directions="kept",
        invariances=_ORTHOGONAL,
        reference="Raghu et al. (2017), SVCCA: Singular Vector Canonical Correlation Analysis, NeurIPS",
        companions=("null_svcca", "significant", "spurious"),
    ),
    Measure(
        name="cca",
        description="mean canonical correlation: sum(r) / min(k, l)",
        sums=_correlations,
        invariances=_LINEAR,
        reference="Hotelling (1936), Relations between two sets of variates, Biometrika 28",
        companions=("null_cca", "spurious_cca"),
    ),
    Measure(
        name="pwcca",
        description="canonical correlations weighted by how much of a's neurons x_j their directions h account for: "
        "sum(w r) / sum(w), w = sum_j |<h, x_j>|",
        sums=_projection_weighted,
        value=_ratio,
        components=2,
        needs=frozenset({"spectrum", "loadings"}),
        invariances=("translation", "isotropic scaling", "invertible linear transformation of b"),
        reference="Morcos, Raghu and Bengio (2018), Insights on representational similarity, NeurIPS, eq. 3",
        symmetric=False,
        companions=("spurious_cca",),
    ),
    Measure(
        name="r2_cca",
        description="mean squared canonical correlation: sum(r**2) / min(k, l)",
        sums=_squared_correlations,
        invariances=_LINEAR,
        reference="Kornblith et al. (2019), Similarity of neural network representations revisited, ICML, table 1",
        companions=("spurious_cca",),
    ),
    Measure(
        name="cka",
        description="linear centred kernel alignment: |S_a C S_b|**2 / (|S_a**2| |S_b**2|)",
        sums=_cross_covariance_norm,
        value=_over_geometric_mean,
        own=_sum_of_squares,
        needs=_SPECTRUM,
        invariances=_ORTHOGONAL,
        reference="Kornblith et al. (2019), Similarity of neural network representations revisited, ICML, eq. 4",
        companions=("null_cka",),
    ),
    Measure(
        name="cka_debiased",
        description="linear centred kernel alignment from unbiased estimates: 0 on average for independent ones. None "
        "(NaN) with fewer than four samples, or where all of these are orthogonal to one another",
        sums=_cross_covariance_norm,
        value=_debiased,
        own=_sum_of_squares,
        needs=frozenset({"spectrum", "row_norms"}),
        valid_range=(-1.0, 1.0),
        invariances=_ORTHOGONAL,
        reference="Song et al. (2012), Feature selection via dependence maximization, JMLR 13, eq. 4",
    ),
    Measure(
        name="procrustes",
        description="nuclear norm of the cross-covariance, the cosine of the angular Procrustes distance: "
        "|S_a C S_b|_* / (|S_a| |S_b|)",
        sums=_nuclear_norm,
        value=_over_deviations,
        needs=_SPECTRUM,
        invariances=_ORTHOGONAL,
        reference="Williams et al. (2021), Generalized shape metrics on neural representations, NeurIPS",
    ),
    Measure(
        name="linear_regression",
        description="share of the variance of a that a linear regression on b explains: |S_a C|**2 / |S_a|**2",
        sums=_explained_variance,
        value=_over_variance_of_a,
        needs=_SPECTRUM,
        invariances=("translation", "isotropic scaling", "invertible linear transformation of b"),
        reference="Kornblith et al. (2019), Similarity of neural network representations revisited, ICML, eq. 7",
        symmetric=False,
    ),
    Measure(
        name="pls",
        description="covariance of the partial least squares directions, of the most that such spectra allow: "
        "|S_a C S_b|_* / sum(s_a s_b)",
        sums=_partial_least_squares,
        value=_ratio,
        components=2,
        needs=_SPECTRUM,
        invariances=_ORTHOGONAL,
        reference="Wold (1985), Partial least squares; the bound is von Neumann's trace inequality",
    ),
    Measure(
        name="null_svcca",
        description="svcca expected of independent representations of these ranks: Wachter's law",
        sums=_expected_correlations,
        directions="kept",
        reference="Wachter (1980), Annals of Statistics 8",
        role="reference",
    ),
    Measure(
        name="null_cca",
        description="cca expected of independent representations of these ranks: Wachter's law",
        sums=_expected_correlations,
        reference="Wachter (1980), Annals of Statistics 8",
        role="reference",
    ),
    Measure(
        name="significant",
        description="correlations that are more than chance: Bartlett's test, Lawley's correction, at level 0.05 (with "
        "conv='dft', of each spatial frequency)",
        sums=_significant,
        value=_the_sum,
        directions="kept",
        valid_range=(0.0, np.inf),
        reference="Bartlett (1941), Biometrika 32; Lawley (1959), Biometrika 46",
        role="reference",
    ),
    Measure(
        name="spurious",
        description="correlations of svcca that are 1 whatever the data, there being too few samples",
        sums=_spurious,
        value=_the_sum,
        directions="kept",
        valid_range=(0.0, np.inf),
        reference="two subspaces of dimensions k and l in one of dimension d meet in k + l - d",
        role="reference",
    ),
    Measure(
        name="spurious_cca",
        description="correlations of cca that are 1 whatever the data, there being too few samples",
        sums=_spurious,
        value=_the_sum,
        valid_range=(0.0, np.inf),
        reference="two subspaces of dimensions k and l in one of dimension d meet in k + l - d",
        role="reference",
    ),
    Measure(
        name="null_cka",
        description="cka expected of independent representations of these spectra",
        sums=_expected_cross_covariance,
        value=_over_geometric_mean,
        own=_sum_of_squares,
        needs=_SPECTRUM,
        reference="mean of the linear CKA over all permutations of the samples of one side",
        role="reference",
    ),
)


def _gulp(name: str, lam: float) -> Measure:
    if not 0 < lam < np.inf:
        raise UnknownMeasureError(f"gulp's lambda is above 0, a share of the variance; got {lam!r}")
    return Measure(
        name=name,
        description=f"GULP distance, largest difference of ridge predictions, lambda={lam:g} of the total variance: "
        "sqrt(|R_a|**2 + |R_b|**2 - 2 |R_a**(1/2) C R_b**(1/2)|**2), R = S**2 / (S**2 + lambda)",
        sums=partial(_ridge_cross, lam=lam),
        value=_ridge_distance,
        own=partial(_sum_of_squared_ridges, lam=lam),
        needs=_SPECTRUM,
        valid_range=(0.0, np.inf),
        invariances=_ORTHOGONAL,
        reference="Boix-Adsera et al. (2022), GULP: a prediction-based metric between representations, NeurIPS",
        role="distance",
    )


def _partial_procrustes(name: str, alpha: float) -> Measure:
    if not 0 <= alpha <= 1:
        raise UnknownMeasureError(f"partial_procrustes' alpha is from 0 (whitened) to 1 (procrustes); got {alpha!r}")
    return Measure(
        name=name,
        description=f"procrustes of partly whitened representations, X (alpha I + (1 - alpha) (X'X)**(-1/2)) at a mean "
        f"variance of 1 a direction: alpha={alpha:g} between whitened, 0, and procrustes, 1",
        sums=partial(_partial_nuclear_norm, alpha=alpha),
        value=_over_geometric_mean,
        own=partial(_partial_norm, alpha=alpha),
        needs=_SPECTRUM,
        invariances=_ORTHOGONAL,
        reference="Williams et al. (2021), Generalized shape metrics on neural representations, NeurIPS",
    )


_FAMILIES: dict[str, tuple[str, float, Callable[[str, float], Measure]]] = {
    "gulp": ("lambda", 0.01, _gulp),
    "partial_procrustes": ("alpha", 0.5, _partial_procrustes),
}
"""Measures with a parameter: its name, its usual value, and what makes the record."""

_REGISTRY: dict[str, Measure] = {measure.name: measure for measure in _MEASURES}


def find_measures(names: str | Iterable[str]) -> tuple[Measure, ...]:
    """Measures by name, without their companions.

    Parameters
    ----------
    names : str or iterable of str
        ``all``, or names; parameters in parentheses: ``gulp(lambda=0.1)``.

    Raises
    ------
    UnknownMeasureError
        Naming what there is.

    Examples
    --------
    >>> [measure.name for measure in find_measures(("svcca", "gulp(lambda=0.1)"))]
    ['svcca', 'gulp(lambda=0.1)']
    """
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise UnknownMeasureError("no measure asked for; the usual one is 'svcca'")
    if "all" in wanted:
        every = [measure.name for measure in _REGISTRY.values() if measure.role != "reference"]
        wanted = [*every, *_FAMILIES, *(name for name in wanted if name != "all")]
    return tuple(_find(name) for name in dict.fromkeys(wanted))


def with_companions(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    """Measures and the references stored along with them.

    Examples
    --------
    >>> [measure.name for measure in with_companions(find_measures("cka"))]
    ['cka', 'null_cka']
    """
    found = {measure.name: measure for measure in measures}
    for measure in list(found.values()):
        for name in measure.companions:
            found.setdefault(name, _find(name))
    return tuple(found.values())


def leading_only(measures: Iterable[Measure]) -> bool:
    """Whether no measure looks beyond the directions that the variance threshold keeps.

    Examples
    --------
    >>> leading_only(find_measures("svcca")), leading_only(find_measures(("svcca", "cka")))
    (True, False)
    """
    return all(measure.directions == "kept" for measure in measures)


def needs_loadings(measures: Iterable[Measure]) -> bool:
    """Whether a measure needs loadings.

    Examples
    --------
    >>> needs_loadings(find_measures("pwcca")), needs_loadings(find_measures("cka"))
    (True, False)
    """
    return any("loadings" in measure.needs for measure in measures)


def register_measure(name: str, *, description: str, **options: Any) -> Callable[[Sums], Sums]:
    """Register a measure of your own, by decorating what it sums over blocks.

    Parameters
    ----------
    name : str
        Of the measure, and of the variable that holds it.
    description : str
        With the formula.
    **options
        Other attributes of `Measure`. By default the value is the sum over the smaller of the two ranks.

    Raises
    ------
    UnknownMeasureError
        Where the name is taken, or is no name.

    Examples
    --------
    >>> @register_measure("max_correlation_cubed", description="mean cube of the correlations", directions="kept")
    ... def cubes(pairs):
    ...     return (pairs.correlations**3).sum(axis=-1)
    >>> find_measures("max_correlation_cubed")[0].symmetric
    True
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UnknownMeasureError(f"{name!r} is no name for a measure; use letters, digits and underscores")

    if name in STORED_NAMES:
        raise UnknownMeasureError(f"{name!r} is the name of another variable of a comparison; choose another")

    def register(sums: Sums) -> Sums:
        known = _REGISTRY.get(name)
        if name in _FAMILIES or (known is not None and known in _MEASURES):
            raise UnknownMeasureError(f"there is a measure {name!r} already")
        _REGISTRY[name] = Measure(name=name, description=description, sums=sums, **options)
        return sums

    return register


def _find(name: str) -> Measure:
    if name in _REGISTRY:
        return _REGISTRY[name]
    match = re.fullmatch(r"(\w+)(?:\(\s*(\w+)\s*=\s*([^()]+)\))?", name)
    if match is None or match[1] not in _FAMILIES:
        known = sorted([*_REGISTRY, *(f"{family}({key}=...)" for family, (key, _, _) in _FAMILIES.items())])
        raise UnknownMeasureError(f"no measure {name!r}; there are {', '.join(known)}, or 'all'")
    parameter, usual, make = _FAMILIES[match[1]]
    if match[2] is None:
        return make(name, usual)
    try:
        value = ast.literal_eval(match[3].strip())
    except (SyntaxError, ValueError):
        value = None
    if match[2] != parameter or not isinstance(value, int | float):
        raise UnknownMeasureError(f"{match[1]} takes one number, {parameter}=...; got {name!r}")
    return make(name, float(value))
