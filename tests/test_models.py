"""Models beside models, against what one would do by hand with the blocks of their layers."""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import gamma as gamma_distribution
from scipy.stats import invgauss
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import model_similarity
from dask_svcca.analysis import models
from dask_svcca.errors import InvalidQuestionError, RepresentationNotFoundError, UnknownMeasureError
from dask_svcca.kernels import transport
from dask_svcca.kernels.extremes import chance_of_a_search, moments_of_largest
from dask_svcca.kernels.transport import transport_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.kernels._types import FloatArray

LAYERS = {"small": 2, "large": 5, "other": 3}
MEASURES = ("svcca", "cka", "gulp", "linear_regression")


def summary(block: FloatArray, kind: str) -> float:
    """One number of a block of similarities, by the definition."""
    if kind == "maximum":
        return float(max(value for row in block for value in row))
    if kind == "best":
        return float(np.mean([max(row) for row in block]))
    rows, columns = block.shape
    tall, wide = np.repeat(block, columns, axis=0), range(rows * columns)
    cut = np.repeat(tall, rows, axis=1)
    return max(float(np.mean([cut[i, j] for i, j in zip(wide, order, strict=True)])) for order in permutations(wide))


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    """Models of different depth that share some of their layers, each at two steps."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(5, 60, 4))
    with dask_svcca.create_zoo(MemoryStore(), examples=range(60)) as zoo:
        for model, count in LAYERS.items():
            for step in (0, 9):
                for depth in range(count):
                    noise = rng.normal(size=(60, 4))
                    values = common[depth] * step / 9 + noise
                    zoo.write(model, f"step{step}", f"fc{depth}", values, step=step, depth=depth)
    return dask_svcca.compare(zoo, measures=MEASURES)


def block_of(result: xr.Dataset, name: str, one: str, other: str, step: int = 9) -> FloatArray:
    """Values of the layers of two models."""
    chosen: FloatArray = result[name].sel(model_a=one, step_a=step, model_b=other, step_b=step).to_numpy()
    return chosen


@pytest.mark.parametrize("kind", ["best", "maximum"])
@pytest.mark.parametrize("measure", MEASURES)
def test_model_similarity__is_that_of_the_block(result: xr.Dataset, measure: str, kind: str) -> None:
    sign = -1 if measure == "gulp" else 1
    found = model_similarity(result, measure=measure, kind=kind)  # type: ignore[arg-type]
    assert found[measure].dims == ("model_a", "model_b")
    for one in LAYERS:
        for other in LAYERS:
            expected = sign * summary(sign * block_of(result, measure, one, other), kind)
            assert float(found[measure].sel(model_a=one, model_b=other)) == pytest.approx(expected, abs=1e-14)
    assert not found["missing"].any()
    assert found["layers_a"].to_numpy().tolist() == [
        found.sel(model_b=one).layers_b.item() for one in found.model_a.to_numpy()
    ]


def test_model_similarity__transport_is_the_best_plan(result: xr.Dataset) -> None:
    found = model_similarity(result, kind="transport", where={"model": ["small", "other"]})
    for one, other in (("small", "other"), ("other", "small"), ("small", "small")):
        expected = summary(block_of(result, "svcca", one, other), "transport")
        assert float(found.svcca.sel(model_a=one, model_b=other)) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 100))
def test_transport_plan__both_ways_agree(rows: int, columns: int, seed: int) -> None:
    gain = np.random.default_rng(seed).normal(size=(rows, columns))
    plan = transport_plan(gain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "MOST_PARTS", 0)
        program = transport_plan(gain)
    for each in (plan, program):
        assert each.min() >= -1e-12
        np.testing.assert_allclose(each.sum(axis=1), 1 / rows, atol=1e-12)
        np.testing.assert_allclose(each.sum(axis=0), 1 / columns, atol=1e-12)
    assert (plan * gain).sum() == pytest.approx((program * gain).sum(), abs=1e-9)


@pytest.mark.parametrize("shape", [(37, 41), (12, 60), (60, 13)])
def test_transport_plan__of_many_entries_is_that_of_one_program(shape: tuple[int, int]) -> None:
    rows, columns = shape
    gain = np.random.default_rng(0).normal(size=shape)
    plan = transport_plan(gain)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / rows, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / columns, atol=1e-12)
    of_rows, of_columns = np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))
    sums = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    whole = linprog(-gain.ravel(), A_eq=np.concatenate([of_rows, of_columns]), b_eq=sums)
    assert (plan * gain).sum() == pytest.approx(-whole.fun, abs=1e-9)


def test_model_similarity__depth_keeps_a_plan_in_order() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 60, 4))
    with dask_svcca.create_zoo(MemoryStore(), examples=range(60)) as zoo:
        for model, order in {"forth": (x, y), "back": (y, x)}.items():
            for depth, values in enumerate(order):
                zoo.write(model, "end", f"fc{depth}", values, depth=3 * depth)
    result = dask_svcca.compare(zoo)
    pair = {"model_a": "forth", "model_b": "back"}
    crossed, ordered = (
        model_similarity(result, kind="transport", depth=depth).svcca.sel(pair).item() for depth in (0, 2)
    )
    assert crossed == pytest.approx(1)
    block = result.svcca.sel(model_a="forth", model_b="back").to_numpy()
    assert ordered == pytest.approx(np.trace(block) / 2)


def test_model_similarity__depth_is_no_part_of_the_value(result: xr.Dataset) -> None:
    # Two layers that are shared out over three cannot all stay at their depth.
    pair = {"model_a": "small", "model_b": "other"}
    free, paid = (
        model_similarity(result, kind="transport", depth=depth, where={"model": ["small", "other"]}).svcca.sel(pair)
        for depth in (0, 1e-3)
    )
    assert paid.item() == pytest.approx(free.item(), abs=1e-12)


@pytest.mark.parametrize("kind", ["best", "maximum", "transport"])
@pytest.mark.parametrize("where", [None, {"checkpoint": "**"}])
def test_model_similarity__blocks_do_not_matter(
    result: xr.Dataset, monkeypatch: pytest.MonkeyPatch, kind: Any, where: dict[str, str] | None
) -> None:
    whole = model_similarity(result, measure=["svcca", "linear_regression"], kind=kind, where=where)
    read: list[int] = []
    original = models._Summary._read
    monkeypatch.setattr(
        models._Summary,
        "_read",
        lambda self, name, rows, columns: read.append(len(rows) * len(columns)) or original(self, name, rows, columns),
    )
    monkeypatch.setattr(models, "BLOCK_ELEMENTS", 12)
    xr.testing.assert_allclose(
        model_similarity(result, measure=["svcca", "linear_regression"], kind=kind, where=where), whole
    )
    # The largest model with itself is more than a block.
    assert max(read) == LAYERS["large"] ** 2
    assert len(whole.model_a) == (3 if where is None else 6)


def test_model_similarity__a_missing_pair_is_said(result: xr.Dataset) -> None:
    part = result.copy(deep=True)
    place = int(np.flatnonzero((part.model_a == "large") & (part.step_a == 9))[0])
    other = int(np.flatnonzero((part.model_a == "small") & (part.step_a == 9))[1])
    part["svcca"].to_numpy()[[place, other], [other, place]] = np.nan
    for kind in ("best", "maximum", "transport"):
        found = model_similarity(part, kind=kind)  # type: ignore[arg-type]
        lacking = {("large", "small"), ("small", "large")}
        for one in LAYERS:
            for other_model in LAYERS:
                pair = found.sel(model_a=one, model_b=other_model)
                assert np.isnan(pair.svcca.item()) == ((one, other_model) in lacking)
                assert np.isnan(pair.null_svcca.item()) == ((one, other_model) in lacking)
                assert pair.missing.item() == int((one, other_model) in lacking)


@given(st.integers(0, 50))
def test_moments_of_largest__is_that_of_many_draws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, ratio = rng.uniform(0.05, 0.4, size=(1, 5)), rng.uniform(0.02, 1.2, size=(1, 5))
    draws = rng.gamma(1 / ratio**2, mean * ratio**2, size=(20_000, 5))
    found, deviation = moments_of_largest(mean, mean * ratio, np.array([0, 2]))
    for group, columns in enumerate((slice(0, 2), slice(2, 5))):
        largest = draws[:, columns].max(axis=1)
        spread = (mean * ratio)[0, columns].max()
        assert found[0, group] == pytest.approx(largest.mean(), abs=0.03 * spread + 4 * largest.std() / 20_000**0.5)
        assert deviation[0, group] == pytest.approx(largest.std(), rel=0.06)


def with_spread(result: xr.Dataset, share: float | None) -> xr.Dataset:
    """The same with a standard deviation of the null; None for a comparison that does not know it."""
    if share is None:
        return result.drop_vars("null_svcca_sd").assign(svcca=result["svcca"].assign_attrs(null_sd=""))
    return result.assign(null_svcca_sd=share * result["null_svcca"])


def test_model_similarity__p_values_are_of_the_search(result: xr.Dataset) -> None:
    known = with_spread(result, 0.2)
    known = known.assign(svcca=(1.3 * known["null_svcca"]).assign_attrs(known["svcca"].attrs))
    block = block_of(known, "null_svcca", "large", "other")
    rng = np.random.default_rng(0)
    alone = rng.gamma(25.0, block / 25.0, size=(20_000, *block.shape))
    # Layers of one model that say the same over and over: along the rows, and along the columns.
    alike = [rng.gamma(25.0, 1 / 25.0, size=size) * block for size in ((20_000, 1, 3), (20_000, 5, 1))]
    of_rows, of_columns = alike[0].max(axis=2).mean(axis=1), alike[1].max(axis=1).mean(axis=1)
    for kind in ("best", "maximum", "transport"):
        found = model_similarity(known, kind=kind).sel(model_a="large", model_b="other")  # type: ignore[arg-type]
        score, p_value = float(found.svcca), float(found.p_svcca)
        if kind == "maximum":
            # Never less than by gamma distributions, however layers depend on each other, and not by much more.
            share = (alone.max(axis=(1, 2)) >= score).mean()
            assert share - 0.01 <= p_value <= 1.5 * share
            assert all(p_value >= (each.max(axis=(1, 2)) >= score).mean() - 0.01 for each in alike)
        elif kind == "best":
            assert p_value == pytest.approx((of_rows >= score).mean(), abs=0.02)
            assert p_value > (alone.max(axis=2).mean(axis=1) >= score).mean() + 0.02
        else:
            shares = [(bests >= score).mean() for bests in (of_rows, of_columns)]
            assert p_value == pytest.approx(min(shares), abs=0.02)
    assert np.isnan(model_similarity(known.assign(null_svcca_sd=np.nan * known["null_svcca"])).p_svcca).all()
    assert "p_svcca" not in model_similarity(with_spread(result, None))


def test_model_similarity__p_of_a_search_is_not_too_small_of_related_layers() -> None:
    rng = np.random.default_rng(5)
    layers = {}
    for model in range(20):
        base = rng.normal(size=(80, 5))
        for depth in range(4):
            values = base @ rng.normal(size=(5, 7)) + rng.normal(size=(80, 7))
            layers[f"m{model:02}", "1", f"fc{depth}"] = values
    found = model_similarity(dask_svcca.compare(layers, measures="cka"), kind="maximum")
    p_values = found.p_cka.to_numpy()[np.triu_indices(20, 1)]
    # Of 12 such zoos by gamma distributions 6.8 % and 2.5 %.
    assert (p_values < 0.05).mean() < 0.05
    assert (p_values < 0.01).mean() < 0.015


@pytest.mark.parametrize("measure", ["rsa", "rsa(compare=spearman)"])
def test_model_similarity__of_rsa_chance_is_skewed_about_zero(measure: str) -> None:
    rng = np.random.default_rng(2)
    layers = {(f"m{model}", "1", f"fc{depth}"): rng.normal(size=(40, 5)) for model in range(4) for depth in range(3)}
    result = dask_svcca.compare(layers, measures=measure)
    (spread,) = (name for name in result if str(name).startswith("null_rsa_sd"))
    block, score = (result[name].to_numpy()[:3, 3:6] for name in (spread, measure))
    # Of skewness 1 for the widest, and all begin where it does.
    begins = 2 * block.max()
    sizes = (100_000, 3, 3), (100_000, 1, 3), (100_000, 3, 1)
    np.testing.assert_allclose(block, block.mean(), rtol=0.2)
    draws, of_rows, of_columns = (
        rng.gamma((begins / block.mean()) ** 2, block.mean() ** 2 / begins, size=size) * np.ones((3, 3)) - begins
        for size in sizes
    )
    mean_of_rows, mean_of_columns = of_rows.max(axis=2).mean(axis=1), of_columns.max(axis=1).mean(axis=1)
    best, largest = score.max(axis=1).mean(), score.max()
    found = {
        kind: model_similarity(result, measure=measure, kind=kind).isel(model_a=0, model_b=1)  # type: ignore[arg-type]
        for kind in ("best", "maximum", "transport")
    }
    null, p_value = f"null_{measure}", f"p_{measure}"
    assert float(found["best"][null]) == pytest.approx(draws.max(axis=2).mean(), abs=2e-3)
    assert float(found["maximum"][null]) == pytest.approx(draws.max(axis=(1, 2)).mean(), abs=3e-3)
    assert float(found["best"][p_value]) == pytest.approx((mean_of_rows >= best).mean(), abs=0.02)
    assert float(found["maximum"][p_value]) == pytest.approx(min(1, (draws >= largest).mean() * 9), abs=0.02)
    plan = float(found["transport"][measure])
    shares = [(each >= plan).mean() for each in (mean_of_rows, mean_of_columns)]
    assert float(found["transport"][p_value]) == pytest.approx(min(shares), abs=0.02)
    assert not dask_svcca.discoveries(model_similarity(result, measure=measure), 0.01).any()
    # Other models have no part in it.
    alone = model_similarity(result, measure=measure, where={"model": ["m0", "m1"]})
    xr.testing.assert_allclose(alone.isel(model_a=0, model_b=1)[[null, p_value]], found["best"][[null, p_value]])


@pytest.mark.parametrize("share", [1e-6, 0.05, 0.5, 1.3])
def test_chance_of_a_search__is_of_the_heavier_tail(share: float) -> None:
    mean, score = 0.2, 0.2 * (1 + share * np.linspace(-0.7, 8, 30))
    variance = np.square(mean * share)
    gamma = gamma_distribution.sf(score, mean**2 / variance, scale=variance / mean)
    found = chance_of_a_search(score, np.array(mean), np.array(variance))
    above = score > mean
    # SciPy's loses digits where the variance is small.
    inverse = invgauss.sf(score, variance / mean**2, scale=mean**3 / variance) if share > 1e-3 else gamma
    np.testing.assert_allclose(found[above], np.maximum(gamma, inverse)[above], rtol=1e-3)
    np.testing.assert_allclose(found[~above], gamma[~above], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("kind", ["best", "transport"])
def test_model_similarity__no_p_value_is_below_that_of_one_order_of_the_examples(kind: Any) -> None:
    rng = np.random.default_rng(0)
    layers = {(model, "1", str(depth)): rng.normal(size=(12, 4)) for model in "abc" for depth in range(2)}
    found = model_similarity(dask_svcca.compare(layers, measures="r2_cca", variance=None), kind=kind).p_r2_cca
    assert float(found.min()) * math.factorial(12) == pytest.approx(1)


def test_model_similarity__p_values_make_discoveries() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(100, 3))
    layers = {("one", "1", "p"): shared, ("two", "1", "q"): shared + 0.5 * rng.normal(size=(100, 3))}
    models_of = model_similarity(dask_svcca.compare({**layers, ("none", "1", "r"): rng.normal(size=(100, 3))}))
    found = dask_svcca.discoveries(models_of)
    assert found.to_numpy().astype(int).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert dask_svcca.query(models_of, "p_svcca")["p_svcca"].is_monotonic_increasing


def test_model_similarity__says_what_share_was_compared() -> None:
    x, y, z = np.random.default_rng(0).normal(size=(3, 60, 4))
    layers = {("one", "1", "p"): x, ("one", "1", "q"): y, ("two", "1", "r"): z}
    near = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=bool)
    found = model_similarity(dask_svcca.compare(layers, pairs=near))
    np.testing.assert_array_equal(found.compared, [[1, 0.5], [0.5, 1]])
    assert np.isnan(found.svcca[0, 1])
    assert np.isnan(found.p_svcca[0, 1])


def test_model_similarity__null_is_of_the_search(result: xr.Dataset) -> None:
    block = block_of(result, "null_svcca", "large", "other")
    pair = {"model_a": "large", "model_b": "other"}
    rng = np.random.default_rng(0)
    draws = rng.gamma(25.0, block / 25.0, size=(20_000, *block.shape))
    expected = {
        "best": (block.max(axis=1).mean(), draws.max(axis=2).mean()),
        "maximum": (block.max(), draws.max(axis=(1, 2)).mean()),
        "transport": (
            min(block.max(axis=1).mean(), block.max(axis=0).mean()),
            min(draws.max(axis=2).mean(), draws.max(axis=1).mean()),
        ),
    }
    without, known = (with_spread(result, share) for share in (None, 0.2))
    for kind, (unknown_spread, known_spread) in expected.items():
        for one, value in ((without, unknown_spread), (known, known_spread)):
            found = model_similarity(one, kind=kind)["null_svcca"].sel(pair)  # type: ignore[arg-type]
            assert found.item() == pytest.approx(value, rel=3e-3), kind
    # A measure without a null has none here either.
    assert list(model_similarity(result, measure="gulp").data_vars) == ["gulp", "missing", "compared"]


ASKS: dict[str, Callable[[xr.Dataset], Any]] = {
    "query": dask_svcca.query,
    "nearest": lambda found: dask_svcca.nearest(found, {"model": "small"}),
    "embedding": dask_svcca.embedding,
    "cluster": dask_svcca.cluster,
    "within_and_between": lambda found: dask_svcca.within_and_between(found, {"all": {}}),
}


def test_model_similarity__all_questions_take_it(result: xr.Dataset) -> None:
    found = model_similarity(result)
    for ask in ASKS.values():
        assert ask(found) is not None
    assert len(dask_svcca.cluster(found)) == 3
    pairs = dask_svcca.query(found)
    # Each order is a pair of its own: the small network may be in the large one.
    assert len(pairs) == 6
    values = found.svcca
    for row in pairs.itertuples():
        assert row.svcca == values.sel(model_a=row.model_a, model_b=row.model_b).item()
    symmetric = model_similarity(result, kind="transport")
    assert len(dask_svcca.query(symmetric)) == 3
    apart = dask_svcca.embedding(symmetric, kind="metric")
    assert apart.sizes == {"representation": 3}


def test_model_similarity__netcdf_takes_it(result: xr.Dataset) -> None:
    for each in model_similarity(result).variables.values():
        assert all(isinstance(value, str | int | float | list) for value in each.attrs.values())


def test_model_similarity__checkpoints_that_are_named(result: xr.Dataset) -> None:
    assert model_similarity(result)["step_a"].to_numpy().tolist() == [9, 9, 9]
    assert model_similarity(result, where={"step": 0})["step_a"].to_numpy().tolist() == [0, 0, 0]
    assert model_similarity(result, where={"layer": "fc0"})["layers_a"].to_numpy().tolist() == [1, 1, 1]
    every = model_similarity(result, where={"checkpoint": "**", "model": "small"})
    assert every["checkpoint_a"].to_numpy().tolist() == ["step0", "step9"]
    assert model_similarity(result, exclude=["fc0"])["layers_a"].to_numpy().tolist() == [4, 2, 1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measure": "svca"}, UnknownMeasureError, "no measure 'svca' .*svcca"),
        ({"kind": "mean"}, InvalidQuestionError, "kind is 'best', 'maximum', 'transport'; got 'mean'"),
        ({"depth": -1, "kind": "transport"}, InvalidQuestionError, "a number of at least 0; got -1"),
        ({"depth": True, "kind": "transport"}, InvalidQuestionError, "got True"),
        ({"depth": np.nan, "kind": "transport"}, InvalidQuestionError, "got nan"),
        ({"depth": 1}, InvalidQuestionError, "depth=1 is for kind='transport', .*; got kind='best'"),
        ({"exclude": ["relu"]}, RepresentationNotFoundError, "exclude='relu'"),
        ({"exclude": ["fc*"]}, RepresentationNotFoundError, r"exclude=\['fc\*'\] leaves no layer on side a"),
        ({"where": {"model": "none"}}, RepresentationNotFoundError, "none"),
        ({"where": ["small"]}, InvalidQuestionError, "chosen by a mapping"),
    ],
)
def test_model_similarity__what_cannot_be_is_said(
    result: xr.Dataset, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model_similarity(result, **options)


def test_model_similarity__depth_that_is_not_known_is_said() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 60, 4))
    result = dask_svcca.compare({("one", "1", "a"): x, ("two", "1", "a"): y})
    with pytest.raises(InvalidQuestionError, match=r"'one/1/a' has no depth, and so 2 of 2 representations"):
        model_similarity(result, kind="transport", depth=0.1)
