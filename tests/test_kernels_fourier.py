"""The DFT split: against sums over the full plane, one frequency at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_svcca.kernels.fourier import fold, half_plane, shared_frequencies, split

GRIDS = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 999)


def signed(frequency: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    """As ``fftfreq`` labels it: from -size / 2 up to, not including, size / 2."""
    return tuple((f + size // 2) % size - size // 2 for f, size in zip(frequency, grid, strict=True))


def plane(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every frequency of the full plane."""
    return [signed(frequency, grid) for frequency in np.ndindex(*grid)]


def mirror(frequency: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    """Where a real signal has the conjugate of what it has at a frequency."""
    return signed(tuple(-f for f in frequency), grid)


def coefficient(x: np.ndarray, frequency: tuple[int, ...]) -> np.ndarray:
    """The DFT from its definition, at one frequency: (example, channel)."""
    grid = x.shape[1:-1]
    total = np.zeros((x.shape[0], x.shape[-1]), dtype=complex)
    for position in np.ndindex(*grid):
        turns = sum(f * p / size for f, p, size in zip(frequency, position, grid, strict=True))
        total += np.exp(-2j * np.pi * turns) * x[(slice(None), *position)]
    return total / np.sqrt(np.prod(grid))


def layer(seed: int, grid: tuple[int, ...], examples: int = 3, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(examples, *grid, channels))


@given(grid=GRIDS)
def test_half_plane__has_one_of_each_conjugate_pair(grid: tuple[int, ...]) -> None:
    found = half_plane(grid)
    frequencies = [tuple(map(int, frequency)) for frequency in found.frequency]
    pairs = [frozenset({frequency, mirror(frequency, grid)}) for frequency in frequencies]
    assert len(set(pairs)) == len(pairs)
    assert set().union(*pairs) == set(plane(grid))
    assert list(found.multiplicity) == [len(pair) for pair in pairs]
    assert found.multiplicity.sum() == np.prod(grid)
    # Only the first block is centred.
    assert frequencies[0] == (0,) * len(grid)


def test_half_plane__of_a_dense_layer_is_one_block() -> None:
    dense = half_plane(())
    assert dense.frequency.shape == (1, 0)
    np.testing.assert_array_equal(dense.multiplicity, [1])


@given(grid=GRIDS, seed=SEEDS)
def test_split__is_the_dft_at_the_frequencies_of_the_half_plane(grid: tuple[int, ...], seed: int) -> None:
    x = layer(seed, grid)
    found = split(x, grid)
    frequencies = half_plane(grid).frequency
    assert found.shape == (3, len(frequencies), 2)
    for position, frequency in enumerate(frequencies):
        np.testing.assert_allclose(found[:, position], coefficient(x, tuple(frequency)), rtol=0, atol=1e-12)


@given(grid=GRIDS, seed=SEEDS)
def test_split__keeps_the_sum_of_squares(grid: tuple[int, ...], seed: int) -> None:
    x = layer(seed, grid)
    energy = np.abs(split(x, grid)) ** 2
    np.testing.assert_allclose(half_plane(grid).multiplicity @ energy.sum(axis=(0, 2)), (x**2).sum(), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_split__is_in_double_precision(dtype: str) -> None:
    x = layer(0, (4, 3)).astype(dtype)
    found = split(x, (4, 3))
    assert found.dtype == np.complex128
    np.testing.assert_array_equal(found, split(x.astype(np.float64), (4, 3)))


@given(cells_and_sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=2), seed=SEEDS)
def test_fold__joins_the_frequencies_that_alias(cells_and_sizes: list[tuple[int, int]], seed: int) -> None:
    coarse = tuple(cells for cells, _ in cells_and_sizes)
    grid = tuple(cells * size for cells, size in cells_and_sizes)
    x = layer(seed, grid)
    folded = split(fold(x, grid, coarse), coarse)
    for position, frequency in enumerate(half_plane(coarse).frequency):
        aliases = [f for f in plane(grid) if signed(f, coarse) == tuple(frequency)]
        joint = np.hstack([coefficient(x, alias) for alias in aliases])
        block = folded[:, position]
        assert block.shape == joint.shape
        # Equal up to a unitary transformation of the neurons, so with equal inner products of the examples.
        np.testing.assert_allclose(block @ block.conj().T, joint @ joint.conj().T, rtol=0, atol=1e-10)


def test_fold__takes_each_cell_apart() -> None:
    x = layer(1, (4, 6))
    found = fold(x, (4, 6), (2, 3))
    for i, j in np.ndindex(2, 3):
        cell = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(found[:, i, j], cell.reshape(3, -1))


@given(sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=2), seed=SEEDS)
def test_shared_frequencies__are_those_of_both_full_planes(sizes: list[tuple[int, int]], seed: int) -> None:
    grid_a, grid_b = (tuple(pair[side] for pair in sizes) for side in (0, 1))
    a, b = layer(seed, grid_a), layer(seed + 1000, grid_b)
    found = shared_frequencies(grid_a, grid_b)
    assert len({(shared.a, shared.b, shared.conjugate) for shared in found}) == len(found)

    # A frequency that both planes have is one that the plane of the smaller sizes has.
    common = plane(tuple(map(min, grid_a, grid_b)))
    expected = [coefficient(a, f).conj().T @ coefficient(b, f) for f in common]
    split_a, split_b = split(a, grid_a), split(b, grid_b)
    ours = []
    for shared in found:
        left, right = split_a[:, shared.a], split_b[:, shared.b]
        coupling = (left if shared.conjugate else left.conj()).T @ right
        ours += [coupling] * shared.multiplicity
    # The full plane has a coupling, its conjugate, or each as often as the other: equal but for conjugation.
    np.testing.assert_allclose(np.sort(np.abs(ours), axis=0), np.sort(np.abs(expected), axis=0), rtol=0, atol=1e-10)


@given(grid=GRIDS)
def test_shared_frequencies__of_one_grid_are_all_of_it(grid: tuple[int, ...]) -> None:
    found = shared_frequencies(grid, grid)
    assert [(shared.a, shared.b) for shared in found] == [(i, i) for i in range(len(found))]
    assert not any(shared.conjugate for shared in found)
    assert [shared.multiplicity for shared in found] == list(half_plane(grid).multiplicity)


@pytest.mark.parametrize(("grid_a", "grid_b"), [((), (4, 4)), ((3,), ()), ((), ())])
def test_shared_frequencies__a_dense_layer_meets_zero(grid_a: tuple[int, ...], grid_b: tuple[int, ...]) -> None:
    (shared,) = shared_frequencies(grid_a, grid_b)
    assert (shared.a, shared.b, shared.conjugate, shared.multiplicity) == (0, 0, False, 1)


def test_shared_frequencies__refuse_other_numbers_of_axes() -> None:
    with pytest.raises(ValueError, match=r"grids \(4,\) and \(4, 4\) have different numbers of axes"):
        shared_frequencies((4,), (4, 4))


def test_shared_frequencies__at_the_edge_of_an_even_grid_meet_both_halves() -> None:
    # -2 is its own conjugate in a grid of 4 and not in one of 8, where (-2, 1) and (-2, -1) are no conjugates.
    small, large = half_plane((4, 4)), half_plane((8, 8))
    edge = [
        (tuple(small.frequency[shared.a]), tuple(large.frequency[shared.b]), shared.multiplicity)
        for shared in shared_frequencies((4, 4), (8, 8))
        if abs(small.frequency[shared.a][0]) == 2 and abs(small.frequency[shared.a][1]) == 1
    ]
    assert [multiplicity for *_, multiplicity in edge] == [1, 1]
    assert {large for _, large, _ in edge} == {(-2, 1), (2, 1)}
    assert len({small for small, *_ in edge}) == 1


def test_plane__matches_numpy() -> None:
    # The oracle itself.
    axes = [np.fft.fftfreq(size, 1 / size) for size in (4, 5)]
    assert sorted(plane((4, 5))) == sorted(product(*axes))
