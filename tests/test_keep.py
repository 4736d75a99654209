"""What is kept of every pair when asked: all canonical correlations, and their mean at each spatial frequency."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
from comparisons import graph_of, peak_memory, tasks_of
from dying import DyingStore, Power
from oracles import correlations, translations
from zarr.storage import MemoryStore
from zoos import with_memory

import dask_svcca
from dask_svcca.errors import InvalidActivationsError, MemoryLimitError, ParametersChangedError
from dask_svcca.kernels.lanes import solves_many
from dask_svcca.plan import details as details_module
from dask_svcca.plan import tiles as tiles_module
from dask_svcca.plan.comparison import make_plan
from dask_svcca.plan.memory import PROCESS_BYTES
from dask_svcca.plan.parameters import Parameters
from dask_svcca.plan.selection import select_pairs
from dask_svcca.plan.subspaces import Budget
from dask_svcca.readings import Neurons
from dask_svcca.run.compare import plan_run, run_comparison
from dask_svcca.run.verify import verify
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.dataset import parameters_of
from dask_svcca.stores.subspaces import Pack, SubspaceEntry, SubspaceIndex, SubspaceRecord, subspace_key
from dask_svcca.stores.zoo import Representation, frame_of
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

N = 150
AXES = {2: None, 3: ("example", "width", "channel"), 4: ("example", "height", "width", "channel")}
KINDS = ("correlations", "frequencies")


def dense(count: int, *, first: int = 3, seed: int = 0) -> list[np.ndarray]:
    """Layers of a growing number of neurons that have something in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(N, 6))
    return [common @ rng.normal(size=(6, p)) + rng.normal(size=(N, p)) for p in range(first, first + count)]


def images(*sizes: tuple[int, int, int], seed: int = 0) -> list[np.ndarray]:
    """Strided views of the same smooth images, (height, width, channels) each."""
    rng = np.random.default_rng(seed)
    height, width = sizes[0][:2]
    common = rng.normal(size=(N, height, width, 3))
    common += 4 * common.mean(axis=1, keepdims=True) + 3 * np.roll(common, 1, axis=2)
    found = []
    for y, x, channels in sizes:
        seen = common[:, :: height // y, :: width // x] @ rng.normal(size=(3, channels))
        found.append(seen + 0.5 * rng.normal(size=seen.shape))
    return found


def make_zoo(layers: Sequence[np.ndarray], store: Any = None, start: int = 0) -> dask_svcca.Zoo:
    zoo = dask_svcca.create_zoo(MemoryStore() if store is None else store, examples=range(N))
    write(zoo, layers, start)
    return zoo


def write(zoo: dask_svcca.Zoo, layers: Sequence[np.ndarray], start: int = 0) -> None:
    with zoo:
        for step, layer in enumerate(layers, start):
            zoo.write("net", f"{step:03}", "layer", layer, dims=AXES[layer.ndim])


def compared(*layers: np.ndarray, keep: Any = "correlations", **options: Any) -> xr.Dataset:
    with dask.config.set(scheduler="synchronous"):
        return dask_svcca.compare(make_zoo(layers), MemoryStore(), keep=keep, precision="float64", **options).load()


def kept(values: xr.DataArray) -> np.ndarray:
    """What is there, after a look at that it is descending and that nothing is behind it."""
    there = values.notnull().to_numpy()
    assert (there[:-1] >= there[1:]).all()
    found = values.to_numpy()[there]
    assert (np.diff(found) <= 0).all()
    return found


# All canonical correlations.


@pytest.mark.parametrize("variance", [0.9, None])
def test_correlations__are_those_of_the_oracle(variance: float | None) -> None:
    layers = dense(11)
    found = compared(*layers, variance=variance)
    assert found.correlations.dims == ("representation_a", "representation_b", "component")
    assert found.correlations.dtype == np.float32
    assert found.sizes["component"] == int(found.rank_a.max())
    for a, b in np.ndindex(11, 11):
        expected = correlations(layers[a], layers[b], variance)
        np.testing.assert_allclose(kept(found.correlations[a, b]), expected, rtol=0, atol=1e-6)


def test_correlations__are_those_of_the_kept_directions_whatever_else_is_asked() -> None:
    layers = dense(3)
    alone = compared(*layers, variance=0.8, measures="svcca")
    along = compared(*layers, variance=0.8, measures=("cka", "cca"))
    np.testing.assert_allclose(along.correlations, alone.correlations, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
def test_correlations__of_convolutional_layers_are_those_of_all_translations() -> None:
    layers = images((4, 3, 2), (4, 3, 3))
    found = compared(*layers, variance=None)
    for a, b in np.ndindex(2, 2):
        expected = correlations(translations(layers[a]), translations(layers[b]))
        np.testing.assert_allclose(kept(found.correlations[a, b]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("match", ["crop", "fold"])
def test_correlations__have_svcca_as_their_mean(match: Any) -> None:
    # Layers that keep some frequencies, and others that the partner does not keep: those correlations are zero.
    layers = [*images((8, 4, 3), (8, 4, 2), (4, 4, 2), (4, 2, 3)), dense(1)[0]]
    found = compared(*layers, variance=0.7, match=match)
    np.testing.assert_allclose(found.correlations.mean("component"), found.svcca, rtol=0, atol=1e-6)
    same_grid = found.correlations[:2, :2].count("component").to_numpy()
    np.testing.assert_array_equal(same_grid, np.minimum.outer(*[found.rank_a[:2].to_numpy()] * 2))
    assert (found.correlations[0, 1] == 0).any()
    np.testing.assert_array_equal(found.correlations, found.correlations.transpose("representation_b", ...))


def test_correlations__however_a_tile_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [*dense(9), *images((4, 4, 2), (4, 4, 3))]
    whole = compared(*layers, keep=KINDS)
    monkeypatch.setattr(tiles_module, "STACK_BYTES", 2**9)
    monkeypatch.setattr(details_module, "DETAIL_BYTES", 2**10)
    split = compared(*layers, keep=KINDS)
    assert split.attrs["tile"] < whole.attrs["tile"]
    np.testing.assert_allclose(split.correlations, whole.correlations, rtol=0, atol=1e-6)
    np.testing.assert_allclose(split.svcca_by_frequency, whole.svcca_by_frequency, rtol=0, atol=1e-6)


def test_correlations__of_some_pairs_leave_the_others_alone() -> None:
    layers, store = dense(10), MemoryStore()
    zoo = make_zoo(layers)
    mask = np.zeros((10, 10), dtype=bool)
    mask[1, 2] = mask[9, 0] = True
    first = dask_svcca.compare(zoo, store, keep="correlations", pairs=mask).load()
    np.testing.assert_array_equal(first.correlations.notnull().any("component"), mask | mask.T)
    second = dask_svcca.compare(zoo, store, keep="correlations").load()
    assert (second.pair_status == PairStatus.DONE).all()
    width = first.sizes["component"]
    np.testing.assert_array_equal(second.correlations[1, 2, :width], first.correlations[1, 2])
    np.testing.assert_allclose(
        kept(second.correlations[3, 4]), correlations(layers[3], layers[4], 0.99), rtol=0, atol=1e-6
    )


def test_correlations__a_wider_layer_makes_room_for_more(tmp_path: Path) -> None:
    zoo = make_zoo(dense(9), tmp_path / "zoo.zarr")
    before = dask_svcca.compare(zoo, tmp_path / "c.zarr", keep="correlations", variance=None).load()
    assert before.sizes["component"] == 11
    write(zoo, dense(1, first=25), start=9)
    outcome = run_comparison(zoo, tmp_path / "c.zarr", Parameters(keep=("correlations",), variance=None))
    assert outcome.computed == 10
    with xr.open_zarr(tmp_path / "c.zarr") as after:
        assert after.sizes["component"] == 25
        np.testing.assert_array_equal(after.correlations[:9, :9, :11], before.correlations)
        np.testing.assert_allclose(
            kept(after.correlations[9, 4]), correlations(dense(1, first=25)[0], dense(9)[4]), atol=1e-6
        )
        assert after.correlations[9, 9].count() == 25


def few_of_many(width: int = 25) -> np.ndarray:
    """A layer that keeps few directions, of as many as it has neurons."""
    rng = np.random.default_rng(5)
    return rng.normal(size=(N, 4)) @ rng.normal(size=(4, width)) + 1e-3 * rng.normal(size=(N, width))


def test_correlations__a_wider_layer_that_keeps_few_directions_leaves_the_others(tmp_path: Path) -> None:
    layers = [*dense(2), few_of_many()]
    zoo = make_zoo(layers[:2], tmp_path / "zoo.zarr")
    before = dask_svcca.compare(zoo, tmp_path / "c.zarr", keep="correlations").load()
    write(zoo, layers[2:], start=2)
    found = dask_svcca.compare(zoo, tmp_path / "c.zarr", keep="correlations").load()
    np.testing.assert_array_equal(found.correlations[:2, :2, : before.sizes["component"]], before.correlations)
    xr.testing.assert_allclose(found.correlations, compared(*layers).correlations, rtol=0, atol=1e-6)


def test_correlations__whose_widest_layer_is_replaced_by_a_narrow_one_leave_the_others(tmp_path: Path) -> None:
    wide = dense(1, first=25)
    zoo = make_zoo(dense(2), tmp_path / "zoo.zarr")
    for layer in (wide[0], dense(1, first=6)[0]):
        with zoo:
            zoo.write("net", "002", "layer", layer, overwrite=True)
        found = dask_svcca.compare(zoo, tmp_path / "c.zarr", keep="correlations", variance=None).load()
        expected = compared(*dense(2), layer, variance=None)
        xr.testing.assert_allclose(found.correlations, expected.correlations, rtol=0, atol=1e-6)


def test_correlations__with_fewer_components_are_whole_wherever_a_run_stops() -> None:
    power, content = Power(), dict[str, Any]()
    zoo = make_zoo(dense(2))
    dask_svcca.compare(zoo, DyingStore(power, content), keep="correlations")
    write(zoo, [few_of_many()], start=2)
    before = power.used
    expected = dask_svcca.compare(zoo, DyingStore(power, dict(content)), keep="correlations").load()
    changes = power.used - before
    # Room is made less at the end.
    for last in range(1, 12):
        store = DyingStore(power, dict(content))
        with power.cut_after(changes - last):
            dask_svcca.compare(zoo, store, keep="correlations")
        assert not [one for one in verify(store).damage if one.block is not None]
        found = dask_svcca.compare(zoo, store, keep="correlations")
        np.testing.assert_array_equal(found.correlations, expected.correlations)


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FailedRepresentationWarning")
def test_correlations__of_a_changed_layer_are_forgotten(tmp_path: Path) -> None:
    zoo = make_zoo(dense(3), tmp_path / "zoo.zarr")
    dask_svcca.compare(zoo, tmp_path / "c.zarr", keep="correlations")
    bad = np.full((N, 4), np.nan)
    zoo.write("net", "001", "layer", bad, overwrite=True)
    found = dask_svcca.compare(zoo, tmp_path / "c.zarr", keep="correlations")
    np.testing.assert_array_equal(found.correlations.notnull().any("component"), np.outer([1, 0, 1], [1, 0, 1]))


# At each spatial frequency.


def by_frequency(
    x: np.ndarray, y: np.ndarray, kept_x: np.ndarray, kept_y: np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
    """Mean correlation at each signed frequency of a grid, of so many leading directions there."""
    found = np.full(grid, np.nan)
    for place, (fy, fx) in enumerate(product(*(range(-(size // 2), (size + 1) // 2) for size in grid))):
        bases = []
        for layer, counts in ((x, kept_x), (y, kept_y)):
            block = np.fft.fft2(layer, axes=(1, 2))[:, fy, fx]
            centred = block - block.mean(axis=0) * (fy == fx == 0)
            count = counts[tuple(np.add((fy, fx), np.array(counts.shape) // 2))]
            bases.append(np.linalg.svd(centred, full_matrices=False)[0][:, :count])
        coupling = bases[0].conj().T @ bases[1]
        if min(coupling.shape):
            found.flat[place] = np.linalg.svd(coupling, compute_uv=False).mean()
        elif max(coupling.shape):
            found.flat[place] = 0
    return found


def kept_directions(layer: np.ndarray, variance: float) -> np.ndarray:
    """How many directions the threshold keeps at each signed frequency of the layer's own plane."""
    height, width = layer.shape[1:3]
    spectra = np.fft.fftshift(np.fft.fft2(layer, axes=(1, 2)), axes=(1, 2))
    spectra[:, height // 2, width // 2] -= spectra[:, height // 2, width // 2].mean(axis=0)
    variances = np.linalg.svd(spectra.transpose(1, 2, 0, 3), compute_uv=False) ** 2
    every = np.sort(variances, axis=None)[::-1]
    smallest = every[np.searchsorted(np.cumsum(every), variance * every.sum())]
    return (variances >= smallest * (1 - 1e-9)).sum(axis=-1)


@pytest.mark.parametrize("variance", [0.6, 0.95])
def test_frequencies__are_those_of_the_full_plane(variance: float) -> None:
    layers = images((6, 5, 3), (6, 5, 2))
    found = compared(*layers, keep="frequencies", variance=variance)
    assert found.svcca_by_frequency.dims == ("representation_a", "representation_b", "frequency_y", "frequency_x")
    np.testing.assert_array_equal(found.frequency_y, [-3, -2, -1, 0, 1, 2])
    np.testing.assert_array_equal(found.frequency_x, [-2, -1, 0, 1, 2])
    counts = [kept_directions(layer, variance) for layer in layers]
    for a, b in np.ndindex(2, 2):
        expected = by_frequency(layers[a], layers[b], counts[a], counts[b], (6, 5))
        np.testing.assert_allclose(found.svcca_by_frequency[a, b], expected, rtol=0, atol=1e-6)
    if variance == 0.6:
        values = found.svcca_by_frequency[0, 1]
        assert values.isnull().any()
        assert (values == 0).any()
        assert (values > 0).any()


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("sizes", [((8, 8, 2), (4, 4, 3)), ((6, 9, 2), (6, 3, 2))])
def test_frequencies__of_cropped_layers_are_those_that_both_have(sizes: Any) -> None:
    layers = images(*sizes)
    found = compared(*layers, keep="frequencies", variance=None)
    counts = [np.full(layer.shape[1:3], layer.shape[3]) for layer in layers]
    grid = layers[1].shape[1:3]
    expected = by_frequency(*layers, *counts, grid)
    there = found.svcca_by_frequency[0, 1].dropna("frequency_y", how="all").dropna("frequency_x", how="all")
    np.testing.assert_allclose(there, expected, rtol=0, atol=1e-6)
    for axis, size in zip("yx", grid, strict=True):
        np.testing.assert_array_equal(there[f"frequency_{axis}"], np.arange(size) - size // 2)
    assert found.svcca_by_frequency[0, 0].notnull().all()
    np.testing.assert_array_equal(found.svcca_by_frequency[1, 0], found.svcca_by_frequency[0, 1])


def test_frequencies__of_folded_layers_are_those_of_the_coarse_grid() -> None:
    layers = images((8, 8, 2), (4, 4, 3))
    found = compared(*layers, keep="frequencies", match="fold", variance=0.9)
    phases = layers[0].reshape(N, 4, 2, 4, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(N, 4, 4, 8)
    alone = compared(phases, layers[1], keep="frequencies", variance=0.9)
    coarse = found.svcca_by_frequency[0, 1].sel(frequency_y=slice(-2, 1), frequency_x=slice(-2, 1))
    np.testing.assert_allclose(coarse, alone.svcca_by_frequency[0, 1], rtol=0, atol=1e-6)


def test_frequencies__weigh_to_svcca() -> None:
    layers = images((4, 4, 2), (4, 4, 2))
    found = compared(*layers, keep=KINDS, variance=1.0)
    np.testing.assert_allclose(
        found.svcca_by_frequency.mean(["frequency_y", "frequency_x"]), found.svcca, rtol=0, atol=1e-6
    )


def test_frequencies__of_other_layers_there_are_none() -> None:
    found = compared(*images((4, 4, 2)), *dense(1), np.random.default_rng(0).normal(size=(N, 5, 2)), keep=KINDS)
    np.testing.assert_array_equal(found.svcca_by_frequency[1:].isnull(), True)
    np.testing.assert_array_equal(found.svcca_by_frequency[0, 1:].isnull(), True)
    assert found.correlations[1, 2].notnull().any()
    assert found.pair_status[0, 2] == PairStatus.INCOMPATIBLE_GRIDS
    assert found.correlations[0, 2].isnull().all()


# As declared, planned and refused.


def test_kept__say_what_they_are(tmp_path: Path) -> None:
    zoo = make_zoo([*images((4, 4, 2)), *dense(2)])
    dask_svcca.compare(zoo, tmp_path / "c.zarr", keep=KINDS)
    with xr.open_zarr(tmp_path / "c.zarr") as found:
        assert {"frequency_y", "frequency_x"} <= set(found.coords)
        for name in ("correlations", "svcca_by_frequency", "frequency_y", "frequency_x"):
            assert len(found[name].attrs["long_name"]) > 15
        assert parameters_of(found)["keep"] == list(KINDS)


def test_plan__counts_what_is_kept(tmp_path: Path) -> None:
    zoo = make_zoo([*images((4, 4, 2)), *dense(2, first=40)])
    budget = Budget(1, 2**30)
    plan = plan_run(zoo, tmp_path / "c.zarr", Parameters(keep=KINDS), budget)
    assert plan.details == {"correlations": (41,), "frequencies": (4, 4)}
    assert plan.to_dict()["bytes_kept_per_pair"] == 4 * (41 + 16)
    assert "up to 228 bytes per pair" in str(plan)
    assert "kept" not in str(plan_run(zoo, tmp_path / "c.zarr", Parameters(), budget)).splitlines()[-1]


def test_plan__refuses_to_keep_what_cannot_fit() -> None:
    shape = (20_000, 8000)
    wide = [
        Representation(
            RepresentationName("net", "step", f"{layer:02}"),
            ("example", "neuron"),
            shape,
            np.dtype("float32"),
            500,
            None,
            None,
            f"digest{layer}",
        )
        for layer in range(64)
    ]
    entries = [SubspaceEntry(subspace_key(item.digest, Neurons().identity)) for item in wide]
    records = tuple(SubspaceRecord("pack", place, entry, 0, 0, 0) for place, entry in enumerate(entries))
    pack = Pack(None, "pack", records, 500, np.dtype("float32"), {})  # type: ignore[arg-type]

    def plan_of(memory: int, **options: Any) -> Any:
        index, parameters = SubspaceIndex({"pack": pack}, 500), Parameters(**options)
        return make_plan(wide, select_pairs("all", frame_of(wide)), None, index, parameters, Budget(2, memory))

    message = r"one pair of the widest representations, such as 'net/step/.*' .* needs ([\d,]+) MiB in one worker"
    with pytest.raises(MemoryLimitError, match=message) as refused:
        plan_of(PROCESS_BYTES)
    needed = re.search(message, str(refused.value))
    assert needed is not None
    # To the kilobyte, since what is kept of a few pairs is little beside their scores.
    just_enough = (int(needed[1].replace(",", "")) + 1) * 2**20
    too_little = just_enough - 2 * 2**20
    while just_enough - too_little > 2**10:
        middle = (just_enough + too_little) // 2
        try:
            assert len(plan_of(middle).tiles) > 0
            just_enough = middle
        except MemoryLimitError:
            too_little = middle
    with pytest.raises(MemoryLimitError, match=message):
        plan_of(just_enough, keep=("correlations",))


def test_compute_tile__stays_within_its_memory_with_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles_module, "STACK_BYTES", 2**16)
    monkeypatch.setattr(details_module, "DETAIL_BYTES", 2**19)
    rng = np.random.default_rng(1)
    zoo = make_zoo([rng.normal(size=(N, 8, 8, 6)).astype("float32") for _ in range(10)], tmp_path / "zoo.zarr")
    memory = 8 * 2**20
    with_memory(monkeypatch, memory)
    graph = graph_of(zoo, tmp_path / "c", variance=None, keep=KINDS)
    # At the end of a run there is no more room than for the correlations that were found: here none.
    ComparisonStore.open(tmp_path / "c", mode="r+").resize_components(8 * 8 * 6)
    for function, task in tasks_of(graph, "subspaces"):
        function(task)
    # What a process loads of Numba belongs to it, and not to the task that is first.
    solves_many()
    for task in tasks_of(graph, "tile"):
        report, peak = peak_memory(task)
        assert report.computed > 0
        assert peak < task[1].memory.peak <= memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "everything"}, "keep is some of 'correlations', 'frequencies'; got 'everything'"),
        ({"keep": "frequencies", "conv": "mean"}, "keep='frequencies' needs conv='dft', .*; got 'mean'"),
        ({"keep": "frequencies"}, "is about layers with height and width, and the zoo has no such layer yet"),
    ],
)
def test_keep__refuses_what_there_is_not(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        dask_svcca.compare(make_zoo(dense(2)), tmp_path / "c.zarr", **options)
    assert not (tmp_path / "c.zarr").exists()


def test_keep__is_added_to_an_earlier_comparison() -> None:
    zoo, store = make_zoo([*dense(2), *images((4, 4, 2), (4, 4, 3))]), MemoryStore()
    before = dask_svcca.compare(zoo, store).load()
    for keep in KINDS:
        found = dask_svcca.compare(zoo, store, keep=keep).load()
        xr.testing.assert_equal(found.svcca, before.svcca)
        assert (found.pair_status == PairStatus.DONE).all()
    fresh = dask_svcca.compare(zoo, MemoryStore(), keep=KINDS).load()
    for name in ("correlations", "svcca_by_frequency"):
        np.testing.assert_allclose(found[name], fresh[name], rtol=0, atol=1e-12)
    assert parameters_of(found)["keep"] == list(KINDS)
    # What is there stays, and is added to, where it is not asked for.
    write(zoo, dense(1, first=9), start=4)
    later = dask_svcca.compare(zoo, store).load()
    assert later.correlations[4].notnull().any("component").all()


def test_keep__larger_images_than_there_is_room_for_are_refused() -> None:
    zoo, store = make_zoo(images((4, 4, 2))), MemoryStore()
    dask_svcca.compare(zoo, store, keep="frequencies")
    write(zoo, images((4, 6, 2)), start=1)
    with pytest.raises(ParametersChangedError, match="grids up to 4 x 4, and the zoo now has a grid of 4 x 6"):
        dask_svcca.compare(zoo, store, keep="frequencies")
    with pytest.raises(InvalidActivationsError, match="height and width"):
        dask_svcca.compare(make_zoo(dense(1)), MemoryStore(), keep=("frequencies",))
