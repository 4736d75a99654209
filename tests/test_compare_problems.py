"""Representations that cannot be compared, and stores that are damaged: nothing bad spreads."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from oracles import svcca
from zarr.storage import MemoryStore
from zoos import N, assert_same_to_rounding, label, layers, lose_all_chunks, make_zoo, spoil, write

import dask_svcca
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import xarray as xr

    from dask_svcca import Zoo

pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")

MISSING, DONE, FAILED = PairStatus.MISSING, PairStatus.DONE, PairStatus.FAILED


REASONS = {
    "nan": "has 2 of {size} values that are NaN or infinite, the first at index (7, 2)",
    "inf": "has 1 of {size} values that are NaN or infinite, the first at index (7, 2)",
    "both infinities": "has 2 of {size} values that are NaN or infinite, the first at index (7, 2)",
    "constant": "is constant",
    "zero": "is constant",
    "overflow": "has values so large that their squares overflow",
}


@pytest.mark.parametrize(("neurons", "dtype"), [(5, "float32"), (80, "float64")])
@pytest.mark.parametrize("kind", REASONS)
def test_compare__a_bad_representation_is_recorded_and_stops_nothing(kind: str, neurons: int, dtype: str) -> None:
    wide = np.random.default_rng(10).normal(size=(N, neurons)).astype(dtype)
    bad, good = spoil(kind, wide), layers(2)
    found = dask_svcca.compare(make_zoo(MemoryStore(), [good[0], bad, good[1]]), MemoryStore())
    fine = np.array([True, False, True])
    np.testing.assert_array_equal(found.pair_status, np.where(np.outer(fine, fine), DONE, FAILED))
    np.testing.assert_array_equal(found.svcca.notnull(), np.outer(fine, fine))
    np.testing.assert_allclose(found.svcca[0, 2], svcca(*good), rtol=0, atol=1e-7)
    for axis in "ab":
        problem = found[f"problem_{axis}"].to_numpy().tolist()
        assert problem[0] == problem[2] == ""
        assert problem[1].startswith(f"'net/step001/fc' {REASONS[kind].format(size=bad.size)}")
        assert found[f"rank_{axis}"][1] == -1


SCALED = ("cka", "cka_debiased", "pls", "procrustes", "linear_regression", "svcca")


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("neurons", [5, 80])
@pytest.mark.parametrize("exponents", [(40, 40), (-60, -60), (65, -65)])
def test_compare__of_layers_in_any_unit_is_the_same(neurons: int, exponents: tuple[int, int]) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, N, neurons))
    y += x
    found, right = (
        dask_svcca.compare({"a": x * 10.0**first, "b": y * 10.0**second}, measures=SCALED)
        for first, second in (exponents, (0, 0))
    )
    for name in right.data_vars:
        if right[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], right[name], rtol=1e-4, atol=1e-6, err_msg=str(name))


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("neurons", [5, 80])
@pytest.mark.parametrize("measures", [("cka",), SCALED])
@pytest.mark.parametrize(("unit", "size"), [(1e-76, "small"), (1e72, "large"), (1e150, "large")])
def test_compare__of_layers_whose_squares_leave_doubles_has_a_reason_and_no_number(
    neurons: int, measures: tuple[str, ...], unit: float, size: str
) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, N, neurons))
    found = dask_svcca.compare({"a": x * unit, "b": y}, measures=measures)
    np.testing.assert_array_equal(found.pair_status == FAILED, [[True, True], [True, False]])
    assert f"has values so {size} that squares of its variance leave the range" in str(found.problem_a[0].values)
    assert all(np.isnan(found[name][0, 1]) for name in measures)


def test_compare__a_bad_representation_is_told_in_the_outcome(zoo: Zoo, place: Path) -> None:
    zoo.write("net", "step003", "fc", spoil("nan", layers(1)[0]), step=3, overwrite=True)
    outcome = run_comparison(zoo, place, Parameters())
    assert list(outcome.problems) == [label(3)]
    # What is known to be bad is not tried again, and still told.
    again = run_comparison(zoo, place, Parameters())
    assert again.plan.tasks == 0
    assert again.problems == outcome.problems


def test_compare__a_representation_gone_bad_leaves_no_number(zoo: Zoo, place: Path, undisturbed: xr.Dataset) -> None:
    dask_svcca.compare(zoo, place)
    good = layers(20)[3]
    zoo.write("net", "step003", "fc", spoil("nan", good), step=3, overwrite=True)
    bad = dask_svcca.compare(zoo, place).load()
    gone = np.zeros((20, 20), dtype=bool)
    gone[3] = gone[:, 3] = True
    np.testing.assert_array_equal(bad.svcca.isnull(), gone)
    np.testing.assert_array_equal(bad.pair_status, np.where(gone, FAILED, DONE))
    zoo.write("net", "step003", "fc", good, step=3, overwrite=True)
    assert_same_to_rounding(dask_svcca.compare(zoo, place), undisturbed)


def lose_a_chunk(activations: Path) -> None:
    max((activations / "c").rglob("0")).unlink()


def cut_a_chunk_short(activations: Path) -> None:
    file = max((activations / "c").rglob("0"))
    file.write_bytes(file.read_bytes()[:20])


def flip_a_bit(activations: Path) -> None:
    file = max((activations / "c").rglob("0"))
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)


def lose_the_array(activations: Path) -> None:
    (activations / "zarr.json").unlink()


@pytest.fixture(scope="module")
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo of three layers in several chunks each, and its comparison."""
    folder = tmp_path_factory.mktemp("intact")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zoo_module, "CHUNK_BYTES", 500)
        zoo = make_zoo(folder / "zoo.zarr", layers(3), compression=request.param)
    return folder / "zoo.zarr", dask_svcca.compare(zoo, folder / "comparison.zarr").load()


@pytest.mark.parametrize(
    ("intact", "damage"),
    [
        *(("lz4", damage) for damage in (lose_all_chunks, lose_a_chunk, cut_a_chunk_short, flip_a_bit, lose_the_array)),
        *(("none", damage) for damage in (cut_a_chunk_short, flip_a_bit)),
    ],
    indirect=["intact"],
)
def test_compare__damaged_activations_are_told_and_tried_again(
    intact: tuple[Path, xr.Dataset], tmp_path: Path, place: Path, damage: Callable[[Path], None]
) -> None:
    source, expected = intact
    shutil.copytree(source, tmp_path / "zoo.zarr")
    activations = tmp_path / "zoo.zarr" / "net" / "step001" / "fc" / "activations"
    damage(activations)
    zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr")

    damaged = dask_svcca.compare(zoo, place).load()
    fine = np.array([True, False, True])
    np.testing.assert_array_equal(damaged.pair_status, np.where(np.outer(fine, fine), DONE, MISSING))
    np.testing.assert_array_equal(damaged.svcca.notnull(), np.outer(fine, fine))
    np.testing.assert_array_equal(damaged.problem_a != "", ~fine)

    shutil.copytree(source, tmp_path / "zoo.zarr", dirs_exist_ok=True)
    assert_same_to_rounding(dask_svcca.compare(zoo, place), expected)


def test_compare__damage_is_described(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    lose_all_chunks(tmp_path / "zoo.zarr" / "net" / "step001" / "fc" / "activations")
    outcome = run_comparison(zoo, tmp_path / "comparison.zarr", Parameters())
    assert list(outcome.problems) == [label(1)]
    assert "chunk 0 of 1 is missing" in outcome.problems[label(1)]


def test_compare__an_old_subspace_does_not_stand_in_for_new_activations(zoo: Zoo, place: Path, tmp_path: Path) -> None:
    dask_svcca.compare(zoo, place)
    zoo.write("net", "step003", "fc", layers(1, seed=11)[0], step=3, overwrite=True)
    lose_all_chunks(tmp_path / "zoo.zarr" / "net" / "step003" / "fc" / "activations")
    found = dask_svcca.compare(zoo, place)
    assert (found.pair_status[3] == MISSING).all()
    assert found.svcca[3].isnull().all()
    assert found.svcca[:, 3].isnull().all()
    assert "is missing" in str(found.problem_a[3].item())


def test_compare__a_fold_that_cannot_be_made_stops_nothing(tmp_path: Path, place: Path) -> None:
    rng = np.random.default_rng(12)
    zoo = make_zoo(tmp_path / "zoo.zarr", [rng.normal(size=(N, 4, 4, 2))])
    dask_svcca.compare(zoo, place, match="fold")
    # Its own subspace is there; the one on the grid of a new partner needs its activations again.
    lose_all_chunks(tmp_path / "zoo.zarr" / "net" / "step000" / "fc" / "activations")
    write(zoo, [rng.normal(size=(N, 2, 2, 2)), rng.normal(size=(N, 2, 2, 3))], start=1)
    found = dask_svcca.compare(zoo, place, match="fold")
    expected = np.full((3, 3), DONE)
    expected[0, 1:] = expected[1:, 0] = MISSING
    np.testing.assert_array_equal(found.pair_status, expected)
    np.testing.assert_array_equal(found.svcca.notnull(), expected == DONE)
    assert "is missing" in str(found.problem_a[0].item())
