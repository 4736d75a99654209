"""Comparisons that ask for no directions: samples are stored as they are, and directions are made of them later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from test_growing import forget_activations
from zarr.storage import MemoryStore
from zoos import make_zoo

import dask_svcca
from dask_svcca.kernels import subspace as subspace_module
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.tasks import patch as patch_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from dask_svcca.run.outcome import Outcome

ALONE = ("cka", "cka_debiased")
SHAPES = [(300, 40), (120, 50), (60, 60), (50, 130)]
pytestmark = pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")


def layers(samples: int, neurons: int, dtype: str = "float32") -> list[np.ndarray]:
    """Layers of decaying spectra with means, one neuron that is constant and one that is tiny."""
    rng = np.random.default_rng(samples)
    common, found = rng.normal(size=(samples, neurons)), []
    for _ in range(3):
        x = (common + rng.normal(size=(samples, neurons))) * np.arange(1, neurons + 1) ** -0.7
        x = x @ np.linalg.qr(rng.normal(size=(neurons, neurons)))[0] + 5 * rng.normal(size=neurons)
        x[:, 3], x[:, 4] = 7, x[:, 4] * 1e-3
        found.append(x.astype(dtype))
    return found


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (array.astype(float) - array.mean(axis=0, dtype=float) for array in (x, y))
    return np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def run(zoo: Any, store: Any, *measures: str, subspaces: str | None = None, **options: Any) -> Outcome:
    with dask.config.set(scheduler="synchronous"):
        return run_comparison(zoo, store, Parameters(measures=measures, **options), subspaces=subspaces)


def opened(store: Any) -> xr.Dataset:
    return dask_svcca.open_comparison(store).load()


def refused(*_: Any, **__: Any) -> None:
    raise AssertionError("nobody asked for eigenvectors")


def without_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any eigendecomposition is an error."""
    monkeypatch.setattr(np.linalg, "eigh", refused)
    monkeypatch.setattr(subspace_module, "eigenvectors", refused)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_compare__of_inner_products_takes_no_eigenvectors(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: str
) -> None:
    arrays, store = layers(*shape, dtype), MemoryStore()
    without_directions(monkeypatch)
    assert run(make_zoo(MemoryStore(), arrays), store, *ALONE).problems == {}
    found = opened(store)
    np.testing.assert_allclose(found.cka, [[linear_cka(x, y) for y in arrays] for x in arrays], rtol=0, atol=1e-6)
    assert (found.pair_status == PairStatus.DONE).all()
    assert (found.rank_a == 0).all()
    assert np.isnan(found.variance_kept_a).all()
    assert (found.neurons_a == shape[1]).all()


@pytest.mark.parametrize("shape", [(300, 40), (50, 130)])
def test_compare__makes_directions_of_what_is_stored_without_activations(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(*shape))
    later = ["svcca", "cca", "procrustes", "linear_regression", "pls", *(["pwcca"] if shape[0] > 2 * shape[1] else [])]
    run(zoo, tmp_path / "whole", *later, *ALONE)
    run(zoo, tmp_path / "c", *ALONE)
    forget_activations(tmp_path / "zoo.zarr")
    added = run(zoo, tmp_path / "c", *later)
    assert (added.bytes_read, added.problems, added.plan.bytes_to_read) == (0, {}, 0)
    assert (added.plan.subspaces, added.few_samples.keys()) == (
        3,
        run(zoo, tmp_path / "whole", "cca").few_samples.keys(),
    )
    found, whole = opened(tmp_path / "c"), opened(tmp_path / "whole")
    for name in [*later, *ALONE]:
        np.testing.assert_allclose(found[name], whole[name], rtol=0, atol=1e-6, err_msg=name)
    for name in ("rank_a", "pair_status"):
        np.testing.assert_array_equal(found[name], whole[name])
    np.testing.assert_allclose(found.variance_kept_a, whole.variance_kept_a, atol=1e-6)
    # Once they are made, nothing is made again.
    assert run(zoo, tmp_path / "c", *later, "r2_cca").plan.subspaces == 0


def test_compare__nothing_to_do_after_inner_products_reads_no_subspaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(60, 20))
    run(zoo, tmp_path / "c", "cka")
    monkeypatch.setattr("dask_svcca.run.describe._describe", refused)
    assert run(zoo, tmp_path / "c", "cka").plan.tasks == 0


def test_compare__of_double_precision_takes_directions(tmp_path: Path) -> None:
    # Single precision does not hold what double does.
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(60, 20, "float64"))
    for precision in ("float32", "float64"):
        run(zoo, tmp_path / precision, "cka", precision=precision)
        assert (opened(tmp_path / precision).rank_a > 0).all()


def test_compare__of_samples_that_depend_on_one_another_takes_directions(tmp_path: Path) -> None:
    arrays = layers(50, 130)
    for x in arrays:
        x[25:] = x[:25]
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    run(zoo, tmp_path / "c", "cka")
    found = opened(tmp_path / "c")
    np.testing.assert_allclose(found.cka, [[linear_cka(x, y) for y in arrays] for x in arrays], rtol=0, atol=1e-6)
    run(zoo, tmp_path / "c", "svcca")
    run(zoo, tmp_path / "whole", "svcca")
    assert (opened(tmp_path / "c").rank_a > 0).all()
    np.testing.assert_allclose(opened(tmp_path / "c").svcca, opened(tmp_path / "whole").svcca, atol=1e-6)


def test_compare__of_samples_too_many_neurons_of_which_are_stored_takes_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_svcca.plan.subspaces.LARGE_CHUNK_BYTES", 4 * 50 * 129)
    arrays = layers(50, 130)
    run(make_zoo(tmp_path / "zoo.zarr", arrays), tmp_path / "c", "cka")
    found = opened(tmp_path / "c")
    assert (found.rank_a > 0).all()
    np.testing.assert_allclose(found.cka, [[linear_cka(x, y) for y in arrays] for x in arrays], rtol=0, atol=1e-6)


def unequal(samples: int) -> list[np.ndarray]:
    """Layers of fewer neurons than samples, and of more."""
    rng = np.random.default_rng(samples)
    common = rng.normal(size=(samples, 20))
    widths = (15, samples // 2, samples + 7, 3 * samples, 2 * samples)
    return [(common @ rng.normal(size=(20, p)) + rng.normal(size=(samples, p)) + 3).astype("float32") for p in widths]


@pytest.mark.parametrize(("chunk_bytes", "most"), [(2**22, 64), (2**14, 2)])
def test_compare__of_more_neurons_than_samples_and_of_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, most: int
) -> None:
    monkeypatch.setattr("dask_svcca.plan.tiles.SCORE_CHUNK_BYTES", chunk_bytes)
    by_samples = patch_module.norms_by_samples
    monkeypatch.setattr(
        patch_module,
        "norms_by_samples",
        lambda context, a, b, shape, memory, **options: by_samples(
            context, a, b, shape, replace(memory, by_samples=min(memory.by_samples, most)), **options
        ),
    )
    arrays = unequal(300)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    assert run(zoo, tmp_path / "c", *ALONE).problems == {}
    found = opened(tmp_path / "c")
    np.testing.assert_allclose(found.cka, [[linear_cka(x, y) for y in arrays] for x in arrays], rtol=0, atol=1e-6)
    run(zoo, tmp_path / "whole", *ALONE, "cca")
    for name in (*ALONE, "null_cka"):
        np.testing.assert_allclose(found[name], opened(tmp_path / "whole")[name], rtol=0, atol=2e-6)


def test_compare__makes_inner_products_of_samples_that_are_there(tmp_path: Path) -> None:
    zoo, shared = make_zoo(tmp_path / "zoo.zarr", layers(50, 130)), str(tmp_path / "subspaces")
    run(zoo, tmp_path / "c", *ALONE, subspaces=shared)
    store = SubspaceStore.open(shared, mode="r+")
    (pack,) = {record.pack for record in store.read_index().kernels.values()}
    store.forget(pack)
    forget_activations(tmp_path / "zoo.zarr")
    made = run(zoo, tmp_path / "d", *ALONE, subspaces=shared)
    assert (made.problems, made.bytes_read, made.plan.subspaces) == ({}, 0, 3)
    for name in ALONE:
        np.testing.assert_array_equal(opened(tmp_path / "d")[name], opened(tmp_path / "c")[name])


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_compare__of_constant_layers_says_so(tmp_path: Path, shape: tuple[int, int]) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", [*layers(*shape), np.full(shape, 3, np.float32)])
    (problem,) = run(zoo, tmp_path / "c", "cka").problems.values()
    assert "is constant: none of its neurons varies" in problem


@pytest.mark.parametrize("shape", [(120, 30), (40, 90)])
def test_compare__stored_samples_that_are_damaged_are_read_again(tmp_path: Path, shape: tuple[int, int]) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(*shape))
    run(zoo, tmp_path / "c", "cka")
    for scores in (tmp_path / "c" / "subspaces").glob("*/scores/c/0/0"):
        scores.write_bytes(scores.read_bytes()[:-8] + bytes(8))
    first = run(zoo, tmp_path / "c", "svcca")
    assert all("damaged" in problem for problem in first.problems.values())
    assert run(zoo, tmp_path / "c", "svcca").problems == {}
    run(zoo, tmp_path / "whole", "svcca")
    np.testing.assert_allclose(opened(tmp_path / "c").svcca, opened(tmp_path / "whole").svcca, atol=1e-7)


@pytest.mark.parametrize("shape", [(120, 30), (40, 90)])
def test_permutation_null_and_jackknife__of_inner_products(tmp_path: Path, shape: tuple[int, int]) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(*shape))
    run(zoo, tmp_path / "c", "cka")
    run(zoo, tmp_path / "whole", "cka", "svcca")
    labels = opened(tmp_path / "c").representation_a.values.tolist()
    for function, options in (
        (dask_svcca.permutation_null, {"permutations": 20}),
        (dask_svcca.jackknife, {"blocks": 5}),
    ):
        found, whole = (
            function(tmp_path / name, [(labels[0], labels[1])], measures=["cka", "svcca"], **options)
            for name in ("c", "whole")
        )
        for name in whole.data_vars:
            np.testing.assert_allclose(found[name], whole[name], rtol=1e-6, atol=1e-6)
