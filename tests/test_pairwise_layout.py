"""Frequencies side by side: against the DFT matrix, and putting together against taking apart."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dask_svcca.kernels.fourier import half_plane, shared_frequencies
from dask_svcca.pairwise.layout import Member, lay_out, signed_frequency, wave
from dask_svcca.readings import Fourier, Neurons

GRIDS = [(1,), (4,), (5,), (4, 3), (2, 6), (3, 2, 4)]


@pytest.mark.parametrize("grid", GRIDS)
def test_wave__is_a_row_of_the_dft_matrix(grid: tuple[int, ...]) -> None:
    impulses = np.eye(int(np.prod(grid))).reshape(*grid, *grid)
    axes = tuple(range(len(grid), 2 * len(grid)))
    matrix = np.fft.fftn(impulses, axes=axes, norm="ortho")
    for place in product(*map(range, grid)):
        frequency = [step if 2 * step < size else step - size for step, size in zip(place, grid, strict=True)]
        np.testing.assert_allclose(wave(grid, frequency), matrix[(..., *place)], rtol=0, atol=1e-14)


@pytest.mark.parametrize("grid", GRIDS)
def test_signed_frequency__half_plane_and_conjugates_are_the_whole_plane(grid: tuple[int, ...]) -> None:
    every = set(product(*(map(int, np.fft.fftfreq(size, 1 / size).round()) for size in grid)))
    multiplicity = half_plane(grid).multiplicity
    members = [Member(0, place, flipped) for place in range(len(multiplicity)) for flipped in (False, True)]
    assert {tuple(map(int, signed_frequency(grid, member))) for member in members} == every
    for place, times in enumerate(multiplicity):
        pair = {tuple(map(int, signed_frequency(grid, Member(0, place, flipped)))) for flipped in (False, True)}
        assert len(pair) == times


@pytest.mark.parametrize(("fine", "coarse"), [((4, 4), (4, 4)), ((4, 4), (2, 2)), ((5, 4), (3, 6)), ((4,), ())])
def test_layout__split_takes_apart_what_read_puts_side_by_side(fine: tuple[int, ...], coarse: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    readings = Fourier.of(fine), Fourier.of(coarse) if coarse else Neurons()
    arrays = [rng.normal(size=(6, *fine, 2)), rng.normal(size=(6, *coarse, 3))]
    layout = lay_out(readings, (2, 3), shared_frequencies(fine, coarse))
    assert [member.frequency for member in layout.blocks[0]] == [0, 0]
    for index, columns in enumerate(layout.split(layout.read(arrays))):
        multiplicity = readings[index].multiplicity
        # Every frequency is in one block.
        assert sorted(member.frequency for member in columns) == list(range(len(multiplicity)))
        samples = readings[index](arrays[index])
        for member, part in columns.items():
            expected = samples[:, member.frequency]
            np.testing.assert_array_equal(part, expected.conj() if member.conjugate else expected)


@pytest.mark.parametrize(("fine", "coarse"), [((4, 4), (4, 4)), ((4, 4), (2, 2)), ((5, 4), (3, 6)), ((4,), ())])
def test_layout__pairs_are_of_one_frequency_and_in_one_block(fine: tuple[int, ...], coarse: tuple[int, ...]) -> None:
    readings = Fourier.of(fine), Fourier.of(coarse) if coarse else Neurons()
    layout = lay_out(readings, (2, 3), shared_frequencies(fine, coarse))
    common = np.array([min(sizes) for sizes in zip(fine, coarse, strict=True)]) if coarse else 1
    for pairing in layout.pairings:
        assert any({pairing.a, pairing.b} <= set(block) for block in layout.blocks)
        a, b = pairing.members
        if coarse:
            difference = signed_frequency(fine, a) - signed_frequency(coarse, b)
            # The edge of the smaller grid is its own conjugate there.
            assert (difference % common == 0).all()
    assert sum(pairing.multiplicity for pairing in layout.pairings) == np.prod(common)
