"""Wide layers under a variance threshold: leading directions alone, and all others later from stored samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import scipy.linalg
from test_growing import forget_activations
from zoos import make_zoo

import dask_svcca
from dask_svcca.kernels.leading import LEAST_NEURONS, leading
from dask_svcca.plan import subspaces
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores.subspaces import PackWriter, SubspaceStore
from dask_svcca.tasks import subspace as subspace_module

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (700, LEAST_NEURONS)


def layers(count: int, *, mean: float = 5.0, power: float = 0.7) -> list[np.ndarray]:
    """Layers that share something, of decaying spectra, with means, and one constant neuron."""
    rng = np.random.default_rng(count)
    common, found = rng.normal(size=SHAPE), []
    for share in np.linspace(0.3, 1, count):
        x = (share * common + rng.normal(size=SHAPE)) * np.arange(1, SHAPE[1] + 1) ** -power
        x = x @ np.linalg.qr(rng.normal(size=(SHAPE[1], SHAPE[1])))[0] + mean * rng.normal(size=SHAPE[1])
        x[:, 3] = 7
        found.append(x.astype(np.float32))
    return found


def exact(x: np.ndarray, variance: float) -> np.ndarray:
    """Orthonormal scores on the kept directions, by an SVD in double precision."""
    left, singular, _ = np.linalg.svd(x - x.mean(axis=0, dtype=float), full_matrices=False)
    return left[:, : int(np.searchsorted(np.cumsum(singular**2), variance * (singular**2).sum())) + 1]


def run(zoo: Any, store: Path, *measures: str, subspaces: str | None = None, **options: Any) -> Any:
    with dask.config.set(scheduler="synchronous"):
        return run_comparison(zoo, store, Parameters(measures=measures, **options), subspaces=subspaces)


def entries(store: Path) -> list[Any]:
    index = SubspaceStore.open(store / "subspaces").read_index()
    return [record.entry for record in index.records.values()]


@pytest.mark.parametrize(
    ("variance", "power", "mean"),
    [(0.9, 0.7, 0.0), (0.99, 0.7, 0.0), (0.999, 0.3, 0.0), (0.999, 1.2, 0.0), (0.99, 0.7, 100.0), (0.999, 1.2, 100.0)],
)
def test_compare__of_leading_directions_equals_double_precision(
    tmp_path: Path, variance: float, power: float, mean: float
) -> None:
    arrays = layers(3, mean=mean, power=power)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    assert run(zoo, tmp_path / "c", "svcca", variance=variance).problems == {}
    found = dask_svcca.open_comparison(tmp_path / "c")
    bases = [exact(x, variance) for x in arrays]
    expected = [[np.linalg.svd(a.T @ b, compute_uv=False).mean() for b in bases] for a in bases]
    # With inner products of neurons in single precision: up to 9e-7 for this many samples.
    np.testing.assert_allclose(found.svcca, expected, rtol=0, atol=2e-7)
    assert found.rank_a.values.tolist() == [basis.shape[1] for basis in bases]
    assert all(entry.share == variance for entry in entries(tmp_path / "c"))


@pytest.mark.parametrize("held", [False, True])
def test_compare__stores_directions_beyond_the_threshold_only_where_none_are_held(
    tmp_path: Path, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    run(zoo, tmp_path / "whole", "svcca")
    if not held:
        plan = subspaces._memory
        monkeypatch.setattr(
            subspaces, "_memory", lambda *given, **options: replace(plan(*given, **options), streamed=0)
        )
    run(zoo, tmp_path / "c", "svcca")
    found, whole = (dask_svcca.open_comparison(tmp_path / name) for name in ("c", "whole"))
    stored = [entry.directions for entry in entries(tmp_path / "c")]
    assert (stored == found.rank_a.values.tolist()) == held
    np.testing.assert_array_equal(found.rank_a, whole.rank_a)
    np.testing.assert_allclose(found.svcca, whole.svcca, rtol=0, atol=1e-7)


@pytest.mark.parametrize("several", [False, True])
def test_compare__makes_other_directions_without_activations(tmp_path: Path, several: bool) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(3 if several else 1) * (1 if several else 2))
    later = ["cca", "cka", "pwcca", "procrustes"]
    run(zoo, tmp_path / "whole", "svcca", *later)
    run(zoo, tmp_path / "c", "svcca")
    forget_activations(tmp_path / "zoo.zarr")
    added = run(zoo, tmp_path / "c", *later)
    assert (added.bytes_read, added.problems, added.plan.bytes_to_read) == (0, {}, 0)
    found, whole = (dask_svcca.open_comparison(tmp_path / name) for name in ("c", "whole"))
    for name in ("svcca", *later):
        np.testing.assert_allclose(found[name], whole[name], rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found.rank_a, whole.rank_a)
    np.testing.assert_allclose(found.variance_kept_a, whole.variance_kept_a, atol=1e-6)
    assert {entry.share for entry in entries(tmp_path / "c")} == {1}


def test_compare__by_other_thresholds_and_kernels_over_the_same_subspaces(tmp_path: Path) -> None:
    zoo, shared = make_zoo(tmp_path / "zoo.zarr", layers(3)), str(tmp_path / "subspaces")
    run(zoo, tmp_path / "c", "svcca", variance=0.95, subspaces=shared)
    forget_activations(tmp_path / "zoo.zarr")
    # A lower one finds its directions there, a higher one and inner products the samples.
    for name, measure, variance, made in (("l", "svcca", 0.9, 0), ("k", "cka", 0.9, 0), ("h", "svcca", 0.99, 3)):
        outcome = run(zoo, tmp_path / name, measure, variance=variance, subspaces=shared)
        assert (outcome.plan.subspaces, outcome.problems, outcome.bytes_read) == (made, {}, 0)
        other = make_zoo(tmp_path / f"{name}.zarr", layers(3))
        run(other, tmp_path / f"whole-{name}", "cca", measure, variance=variance)
        found, whole = (dask_svcca.open_comparison(tmp_path / one) for one in (name, f"whole-{name}"))
        np.testing.assert_allclose(found[measure], whole[measure], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found.rank_a, whole.rank_a)


@pytest.mark.parametrize("options", [{"variance": None}, {"variance": 0.9999}, {"keep": ("correlations",)}])
def test_compare__takes_all_directions_where_more_is_asked(tmp_path: Path, options: dict[str, Any]) -> None:
    run(make_zoo(tmp_path / "zoo.zarr", layers(2)), tmp_path / "c", "svcca", **options)
    assert {entry.share for entry in entries(tmp_path / "c")} == {1}


def test_compare__that_died_between_both_packs_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(1) * 2)
    run(zoo, tmp_path / "whole", "svcca")
    finish, times = PackWriter.finish, []

    def dying(self: PackWriter, *given: Any, **options: Any) -> None:
        times.append(self)
        if len(times) == 2:
            raise KeyboardInterrupt
        finish(self, *given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(PackWriter, "finish", dying)
        with pytest.raises(KeyboardInterrupt):
            run(zoo, tmp_path / "c", "svcca")
    resumed = run(zoo, tmp_path / "c", "svcca")
    assert (resumed.bytes_read, resumed.problems) == (0, {})
    found, whole = (dask_svcca.open_comparison(tmp_path / name).svcca.values for name in ("c", "whole"))
    # Where scores were not held, those beyond the threshold are stored too, and couplings are of another shape.
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-7)


def test_compare__of_directions_too_weak_for_single_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = layers(2)
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    monkeypatch.setattr(subspace_module, "make_leading", lambda *_: None)
    run(zoo, tmp_path / "c", "svcca")
    assert {entry.share for entry in entries(tmp_path / "c")} == {1}
    a, b = (exact(x, 0.99) for x in arrays)
    found = dask_svcca.open_comparison(tmp_path / "c").svcca.values[0, 1]
    assert found == pytest.approx(np.linalg.svd(a.T @ b, compute_uv=False).mean(), abs=1e-7)


@pytest.mark.parametrize(("dtype", "mean"), [("float16", 0.0), ("float16", 60.0), ("float32", 5e5)])
def test_compare__of_rounded_activations_has_one_value_whatever_else_is_asked(
    tmp_path: Path, dtype: str, mean: float
) -> None:
    # What is rounding is no direction, in whichever way directions are found.
    arrays = [(x[:, 4:] + mean).astype(dtype) for x in layers(2, mean=0.0, power=1.2)]
    arrays = [np.concatenate([x, 0.5 * x[:, :8]], axis=1) for x in arrays]
    zoo = make_zoo(tmp_path / "zoo.zarr", arrays)
    for measures in (("svcca",), ("svcca", "cca")):
        run(zoo, tmp_path / str(len(measures)), *measures, variance=0.99)
    alone, beside = (dask_svcca.open_comparison(tmp_path / str(count)) for count in (1, 2))
    np.testing.assert_array_equal(alone.rank_a, beside.rank_a)
    np.testing.assert_allclose(alone.svcca, beside.svcca, rtol=0, atol=2e-7)


def test_leading__is_none_where_noise_has_a_share_of_the_variance() -> None:
    variances = np.array([1.0, 1e-3, 1e-5])
    assert leading(np.eye(3), variances, 10, 0.99, 1e-6) is not None
    assert leading(np.eye(3), variances, 10, 0.99, 1e-4) is None


def test_leading__is_none_where_kept_directions_are_too_weak() -> None:
    variances = np.array([1.0, 1e-8, 1e-9])
    assert leading(np.eye(3), variances, 10, 1 - 1e-9) is None
    found = leading(np.eye(3), variances, 10, 0.9)
    assert found is not None
    assert found.spectrum.tolist() == [1.0]


def test_permutation_null_and_jackknife__of_leading_directions(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(2))
    run(zoo, tmp_path / "c", "svcca")
    run(zoo, tmp_path / "whole", "svcca", "cca")
    labels = dask_svcca.open_comparison(tmp_path / "c").representation_a.values.tolist()
    for function, options in (
        (dask_svcca.permutation_null, {"permutations": 5}),
        (dask_svcca.jackknife, {"blocks": 3}),
    ):
        found, whole = (
            function(tmp_path / name, [tuple(labels)], measures=["svcca"], **options) for name in ("c", "whole")
        )
        for name in whole.data_vars:
            np.testing.assert_allclose(found[name], whole[name], rtol=1e-5, atol=1e-6)


def hadamard(samples: int, neurons: int) -> np.ndarray:
    """Neurons that are centred, uncorrelated and all of one variance."""
    return np.asarray(scipy.linalg.hadamard(samples)[:, 1 : neurons + 1], dtype=np.float32)


def one_hot(samples: int, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[np.arange(samples) % classes]


@pytest.mark.parametrize(("dtype", "measures"), [("float32", ("svcca",)), ("float64", ("svcca", "cca"))])
@pytest.mark.parametrize(
    ("x", "rank"), [(hadamard(64, 16), 16), (one_hot(60, 10), 9), (hadamard(512, 128), 128), (one_hot(512, 128), 127)]
)
def test_compare__of_equal_eigenvalues_is_the_same_in_any_order_of_neurons(
    tmp_path: Path, x: np.ndarray, rank: int, measures: tuple[str, ...], dtype: str
) -> None:
    x = x.astype(dtype)
    shuffled = x[:, np.random.default_rng(0).permutation(x.shape[1])]
    zoo = make_zoo(tmp_path / "zoo.zarr", [x, x[:, ::-1].copy(), shuffled])
    assert run(zoo, tmp_path / "c", *measures, variance=0.9, precision=dtype).problems == {}
    found = dask_svcca.open_comparison(tmp_path / "c")
    assert found.rank_a.values.tolist() == [rank] * 3
    np.testing.assert_allclose(found.svcca, 1, atol=1e-6)


def test_cca__of_equal_eigenvalues_is_the_same_in_any_order_of_neurons() -> None:
    for x, rank in ((hadamard(64, 16), 16), (one_hot(60, 10), 9)):
        correlations = dask_svcca.cca(x, x[:, ::-1].copy(), variance=0.9).correlation
        np.testing.assert_allclose(correlations, np.ones(rank), atol=1e-6)


@pytest.mark.parametrize("spread", [1e-1, 1e-3, 3e-4])
@pytest.mark.parametrize("variance", [0.9, 0.99])
def test_compare__of_eigenvalues_that_are_nearly_equal(tmp_path: Path, spread: float, variance: float) -> None:
    rng, arrays = np.random.default_rng(0), []
    common = rng.normal(size=(SHAPE[0], 60))
    for _ in range(2):
        x = np.concatenate([common, rng.normal(size=SHAPE)], axis=1) @ rng.normal(size=(SHAPE[1] + 60, SHAPE[1]))
        left, _, right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        arrays.append((left * np.linspace(1, 1 - spread, SHAPE[1]) @ right).astype(np.float32))
    run(make_zoo(tmp_path / "zoo.zarr", arrays), tmp_path / "c", "svcca", variance=variance)
    # All directions are made where those at the threshold are too close for single precision.
    assert {entry.share for entry in entries(tmp_path / "c")} == {variance if spread == 1e-1 else 1}
    a, b = (exact(x, variance) for x in arrays)
    found = dask_svcca.open_comparison(tmp_path / "c")
    assert found.rank_a.values.tolist() == [a.shape[1], b.shape[1]]
    expected = np.linalg.svd(a.T @ b, compute_uv=False).mean()
    assert found.svcca.values[0, 1] == pytest.approx(expected, abs=1e-6)
