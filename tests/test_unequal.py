"""Pairs with unequal numbers of directions in one stack: each as it is by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import make_zoo

import dask_svcca
from dask_svcca.evaluate import unequal
from dask_svcca.kernels import lanes
from dask_svcca.kernels.chance import significant_correlations, significant_of_sizes
from dask_svcca.kernels.couplings import HostCouplings, leading_of_sizes
from dask_svcca.kernels.lanes import singular_values_of_sizes
from dask_svcca.kernels.pairs import PairStack, Side
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.tasks import patch as patch_module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytest.importorskip("numba")

DEGREES = 59
TAKING_SIZES = [measure for measure in with_companions(find_measures("all")) if measure.takes_sizes]


def draw_stack(seed: int, sizes: np.ndarray) -> PairStack:
    """Couplings with singular values in [0, 1], and spectra that fall."""
    rng = np.random.default_rng(seed)
    pairs, (k, l) = len(sizes), sizes.max(axis=0)
    coupling = np.zeros((pairs, k, l))
    spectra = np.zeros((pairs, k)), np.zeros((pairs, l))
    for place, (rows, columns) in enumerate(sizes):
        part = rng.normal(size=(rows, columns))
        coupling[place, :rows, :columns] = part / np.linalg.norm(part, 2) * rng.uniform(0.2, 1)
        for spectrum, count in zip(spectra, (rows, columns), strict=True):
            spectrum[place, :count] = np.sort(rng.uniform(0.1, 9, count))[::-1]
    sides = [Side(one, one.sum(axis=1) + 1, np.full(pairs, 30.0), np.arange(pairs)) for one in spectra]
    return PairStack(
        HostCouplings(coupling, sizes),
        *sides,
        degrees=DEGREES,
        single=True,
        many=True,
        samples=60,
        overlap=rng.uniform(0.5, 9, pairs),
        blocks=rng.integers(1, 3, pairs),
        sizes=sizes,
    )


def alone(stack: PairStack, place: int, kept: Sequence[int]) -> PairStack:
    """One pair of it, as a stack without sizes."""
    assert stack.sizes is not None
    assert stack.overlap is not None
    assert stack.blocks is not None
    some = slice(place, place + 1)
    sides = [
        Side(side.spectrum[some, :count], side.variance[some], side.rank[some], side.member[some])
        for side, count in ((stack.a, kept[0]), (stack.b, kept[1]))
    ]
    return PairStack(
        HostCouplings(stack.coupling[some, : kept[0], : kept[1]]),
        *sides,
        degrees=DEGREES,
        single=True,
        samples=60,
        overlap=stack.overlap[some],
        blocks=stack.blocks[some],
    )


SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=24).map(np.array)


def test_measures__that_take_sizes_are_known() -> None:
    names = {measure.name for measure in TAKING_SIZES}
    assert names >= {"svcca", "cca", "cka", "significant", "p_svcca", "null_svcca", "spurious"}
    # Singular values of weighted couplings, and what takes loadings, are not made for sizes.
    assert not names & {"pls", "procrustes", "pwcca"}


@pytest.mark.parametrize("measure", TAKING_SIZES, ids=lambda measure: measure.name)
@given(sizes=SIZES, seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_sums__of_unequal_pairs_are_those_of_each_alone(measure: Any, sizes: np.ndarray, seed: int) -> None:
    stack = draw_stack(seed, sizes)
    kept = np.maximum(1, sizes - np.random.default_rng(seed).integers(0, 5, sizes.shape))
    for chosen, counts in ((stack, sizes), (leading_of_sizes(stack, kept), kept)):
        found = measure.sums(chosen)
        back = measure.sums(chosen.reversed)
        for place, count in enumerate(counts.tolist()):
            one = alone(stack, place, count)
            np.testing.assert_allclose(found[place], measure.sums(one)[0], rtol=1e-12, atol=2e-7)
            np.testing.assert_allclose(back[place], measure.sums(one.reversed)[0], rtol=1e-12, atol=2e-7)


@pytest.mark.parametrize("pairs", [1, 2, 40])
def test_singular_values_of_sizes__are_those_of_lapack(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    sizes = rng.integers(1, 12, (pairs, 2))
    sizes[: pairs // 2] = [[7, 9], [9, 7]][pairs % 2]
    stack = draw_stack(0, sizes).coupling
    found, sums = singular_values_of_sizes(stack, sizes, lambda one: np.linalg.svd(one, compute_uv=False))
    for place, (k, l) in enumerate(sizes.tolist()):
        exact = np.linalg.svd(stack[place, :k, :l], compute_uv=False)
        np.testing.assert_allclose(found[place, : min(k, l)], exact, rtol=0, atol=5e-8)
        assert not found[place, min(k, l) :].any()
    np.testing.assert_allclose(sums, found.sum(axis=1), rtol=1e-14)
    most = float(np.median(found[found > 0]))
    clipped, sums = singular_values_of_sizes(stack, sizes, lambda one: np.linalg.svd(one, compute_uv=False), most)
    np.testing.assert_array_equal(clipped, np.minimum(found, most))
    np.testing.assert_allclose(sums, clipped.sum(axis=1), rtol=1e-14)


def test_singular_values_of_sizes__are_the_same_whatever_stands_beside_them() -> None:
    sizes = np.array([[6, 9], [6, 7], [6, 40], [9, 6], [6, 6], [8, 6], [3, 3], [6, 33], [40, 6]])
    stack = draw_stack(3, sizes).coupling
    found, _ = singular_values_of_sizes(stack, sizes, np.linalg.svdvals)
    for place, (k, l) in enumerate(sizes.tolist()):
        if min(k, l) == 6:
            part = stack[place, :k, :l]
            alike = lanes.singular_values_abreast(np.repeat(part[np.newaxis], 3, axis=0))
            assert alike is not None
            # As many steps as the slowest of eight takes are done for all.
            np.testing.assert_allclose(found[place, :6], alike[0], rtol=1e-13)


def test_singular_values_of_sizes__that_are_not_finite_are_left_to_lapack() -> None:
    sizes = np.array([[2, 3]] * 4)
    stack = draw_stack(1, sizes).coupling.copy()
    stack[2, 0, 0] = np.nan
    found, _ = singular_values_of_sizes(stack, sizes, lambda one: np.full((1, 2), float(np.isnan(one).any())))
    np.testing.assert_array_equal(found[:, 0], [0, 0, 1, 0])


@given(sizes=SIZES, seed=st.integers(0, 99), degrees=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_significant_of_sizes__is_the_test_of_each(sizes: np.ndarray, seed: int, degrees: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.minimum(sizes, degrees)
    smaller = sizes.min(axis=1)
    correlations = np.sort(rng.uniform(0, 1, (len(sizes), smaller.max())) ** 3)[:, ::-1]
    correlations = np.where(np.arange(smaller.max()) < smaller[:, np.newaxis], correlations, 0)
    level, overlap = rng.choice([0.05, 0.025], len(sizes)), rng.uniform(0.5, 3, len(sizes))
    found = significant_of_sizes(correlations, sizes, degrees, level=level, overlap=overlap)
    for place, (k, l) in enumerate(sizes.tolist()):
        (one,) = significant_correlations(
            correlations[place : place + 1, : min(k, l)],
            k,
            l,
            degrees,
            is_complex=False,
            level=level[place],
            overlap=overlap[place],
        )
        assert found[place] == one


def test_significant_of_sizes__of_three_samples_warns_of_nothing() -> None:
    # Two directions span all of what three samples leave: none is left behind a pair of one direction each.
    sizes = np.array([[1, 1], [2, 2]])
    found = significant_of_sizes(np.array([[1.0, 0.0], [1.0, 1.0]]), sizes, 2)
    np.testing.assert_array_equal(found, [significant_correlations(np.ones((1, 1)), 1, 1, 2, is_complex=False)[0], 0])


def unequal_layers(count: int, examples: int) -> list[np.ndarray]:
    """Layers that keep from a few to most of their directions, in single precision."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(examples, 50))
    return [
        ((common[:, :p] + rng.normal(size=(examples, p))) * np.arange(1, p + 1) ** -power).astype("float32")
        for p, power in zip(rng.integers(8, 50, count), rng.uniform(0.2, 1.6, count), strict=True)
    ]


@pytest.mark.parametrize(
    ("names", "stack_bytes"), [(["svcca"], 2**24), (["svcca", "cka", "cca"], 2**16), (["svcca", "pls"], 2**24)]
)
def test_compare__is_the_same_whether_unequal_pairs_are_solved_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], stack_bytes: int
) -> None:
    monkeypatch.setattr(patch_module, "LEAST_NUMBERS", 1)
    monkeypatch.setattr("dask_svcca.plan.tiles.STACK_BYTES", stack_bytes)
    zoo = make_zoo(unequal_layers(24, 400), tmp_path / "zoo.zarr")
    together: list[int] = []
    add = patch_module.Evaluation.add_unequal

    def counted(*arguments: Any, **options: Any) -> None:
        together.append(1)
        add(*arguments, **options)

    monkeypatch.setattr(patch_module.Evaluation, "add_unequal", counted)
    found = []
    for few in (unequal.FEW_ALIKE, 0):
        monkeypatch.setattr(unequal, "FEW_ALIKE", few)
        with dask.config.set(scheduler="synchronous"):
            found.append(dask_svcca.compare(zoo, tmp_path / str(few), measures=names, variance=0.95).load())
        assert bool(together) == (few > 0 and "pls" not in names)
        together.clear()
    for name in found[0].data_vars:
        if found[0][name].dims[:2] == found[0].svcca.dims:
            np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-12, atol=1e-9, err_msg=str(name))


def test_compare__of_layers_on_a_grid_is_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_module, "LEAST_NUMBERS", 1)
    rng = np.random.default_rng(0)
    powers = rng.uniform(0.2, 1.6, 6)
    layers = [(rng.normal(size=(90, 3, 3, 12)) * np.arange(1, 13) ** -power).astype("float32") for power in powers]
    zoo = make_zoo(layers, tmp_path / "zoo.zarr")
    found = []
    for few in (unequal.FEW_ALIKE, 0):
        monkeypatch.setattr(unequal, "FEW_ALIKE", few)
        with dask.config.set(scheduler="synchronous"):
            found.append(dask_svcca.compare(zoo, tmp_path / str(few), measures="svcca", variance=0.95).load())
    # Scores at a frequency are complex: each size is solved by itself.
    np.testing.assert_array_equal(found[0].svcca, found[1].svcca)
