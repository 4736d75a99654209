"""Convolutional layers and sequences, end to end: the DFT split against plain CCA of all circular translations.

The oracle translates every example every way, flattens, and does plain CCA by QR and SVD. A frequency that is not its
own conjugate has two equal eigenvalues there, one for its real and one for its imaginary part; where a variance
threshold falls between the two, plain CCA would keep an arbitrary line of their plane. The DFT split keeps both, and so
does the oracle: it never cuts between equal eigenvalues.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dask
import numpy as np
import pytest
import xarray as xr
from convolved import compare_stored, rank, related, value
from threadpoolctl import threadpool_limits
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.connections import connect
from dask_svcca.kernels.fourier import half_plane
from dask_svcca.plan import comparison as plan_module
from dask_svcca.readings import Fourier
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.dataset import store_of
from dask_svcca.stores.subspaces import SubspaceStore, subspace_key
from dask_svcca.stores.zoo import write as zoo_module
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Compared = Callable[..., xr.Dataset]


def grid_of(layer: np.ndarray) -> tuple[int, ...]:
    return layer.shape[1:-1]


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """`compare_stored`, between new local stores at each call."""
    number = count()
    return lambda layers, **options: compare_stored(
        tmp_path / f"zoo{next(number)}.zarr", tmp_path / f"comparison{next(number)}.zarr", layers, **options
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Hundreds of small problems are faster so."""
    with dask.config.set(scheduler="synchronous"), threadpool_limits(1):
        yield


# Plain CCA of all translations.


def augmented(layer: np.ndarray, cells: tuple[int, ...] | None = None) -> np.ndarray:
    """Every translation of every example, flattened; by whole cells, where a coarser grid is given."""
    grid = grid_of(layer)
    steps = [range(0, size, size // count) for size, count in zip(grid, cells or grid, strict=True)]
    axes = tuple(range(1, layer.ndim - 1))
    return np.concatenate([np.roll(layer, shift, axes).reshape(len(layer), -1) for shift in product(*steps)])


def repeated(layer: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """A dense layer beside the translations of a convolutional one: it does not see them."""
    return np.tile(layer, (int(np.prod(grid)), 1))


def leading(squares: np.ndarray, variance: float | None) -> int:
    """How many of these falling eigenvalues reach the share; never between equal ones."""
    count = int((squares > 1e-12 * squares[0]).sum())
    if variance is not None:
        count = 1 + int(np.argmax(np.cumsum(squares) >= variance * squares.sum() * (1 - 1e-12)))
    return int((squares > squares[count - 1] * (1 - 1e-9)).sum())


def plain_basis(samples: np.ndarray, variance: float | None) -> np.ndarray:
    left, singular, _ = np.linalg.svd(samples - samples.mean(axis=0), full_matrices=False)
    return np.linalg.qr(left[:, : leading(singular**2, variance)])[0]


def correlations(basis_a: np.ndarray, basis_b: np.ndarray) -> np.ndarray:
    return np.linalg.svd(basis_a.T @ basis_b, compute_uv=False)


def plain_cca(a: np.ndarray, b: np.ndarray, variance: float | None) -> np.ndarray:
    """Canonical correlations, descending."""
    return correlations(plain_basis(a, variance), plain_basis(b, variance))


GRIDS = [(6,), (5,), (4, 4), (5, 3), (4, 6), (1, 5), (2, 3, 4), (3, 3, 2)]
PRECISIONS: Any = [("float64", 1e-10), ("float32", 1e-6)]


def compared_once(layers: Mapping[str, np.ndarray]) -> Compared:
    """Comparisons of the same layers, each made when it is first asked for."""
    return cache(lambda **options: compare_stored(MemoryStore(), MemoryStore(), layers, **options))


@pytest.fixture(scope="module")
def pairs_of_one_grid() -> tuple[dict[str, np.ndarray], Compared]:
    layers = {f"{name} {grid}": layer for grid in GRIDS for name, layer in zip("xy", related(grid, grid), strict=True)}
    return layers, compared_once(layers)


@pytest.mark.parametrize("variance", [pytest.param(0.6, marks=pytest.mark.slow), 0.9, None])
@pytest.mark.parametrize("grid", GRIDS)
def test_dft__is_plain_cca_of_all_translations(
    pairs_of_one_grid: Any, grid: tuple[int, ...], variance: float | None
) -> None:
    layers, compared = pairs_of_one_grid
    x, y = names = f"x {grid}", f"y {grid}"
    bases = [plain_basis(augmented(layers[name]), variance) for name in names]
    expected = correlations(*bases).mean()
    for match, (precision, tolerance) in product(("crop", "fold"), PRECISIONS):
        result = compared(variance=variance, precision=precision, match=match)
        assert [rank(result, name) for name in names] == [basis.shape[1] for basis in bases]
        assert abs(value(result, x, y) - expected) < tolerance


def test_dft__is_the_default(compared: Compared) -> None:
    x, y = related((4, 4), (4, 4))
    expected = plain_cca(augmented(x), augmented(y), 0.99).mean()
    assert abs(value(compared({"x": x, "y": y}), "x", "y") - expected) < 1e-6


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("examples", [3, 8])
def test_dft__more_channels_than_examples(compared: Compared, examples: int) -> None:
    x, y = related((4, 3), (4, 3), examples=examples, channels=(10, 2))
    x_augmented, y_augmented = augmented(x), augmented(y)
    result = compared({"x": x, "y": y}, variance=None, precision="float64")
    assert rank(result, "x") == plain_basis(x_augmented, None).shape[1] < 10 * 12
    assert abs(value(result, "x", "y") - plain_cca(x_augmented, y_augmented, None).mean()) < 1e-10


STRIDED = [
    ((8, 8), (4, 4)),
    ((8, 8), (2, 2)),
    ((6, 4), (3, 2)),
    ((6, 6), (6, 3)),
    ((8,), (2,)),
    ((6,), (3,)),
    ((4, 4, 2), (2, 2, 2)),
]


@pytest.fixture(scope="module")
def strided_pairs() -> tuple[dict[str, np.ndarray], Compared]:
    layers = {}
    for fine, coarse in STRIDED:
        x, y = related(fine, coarse, examples=170, channels=(2, 2))
        layers |= {f"x {fine} {coarse}": x, f"y {fine} {coarse}": y}
    return layers, compared_once(layers)


@pytest.mark.parametrize("variance", [0.9, None])
@pytest.mark.parametrize(("fine", "coarse"), STRIDED)
def test_fold__is_plain_cca_of_the_translations_that_both_have(
    strided_pairs: Any, fine: tuple[int, ...], coarse: tuple[int, ...], variance: float | None
) -> None:
    layers, compared = strided_pairs
    x, y = f"x {fine} {coarse}", f"y {fine} {coarse}"
    expected = plain_cca(augmented(layers[x], coarse), augmented(layers[y]), variance).mean()
    for precision, tolerance in PRECISIONS:
        result = compared(variance=variance, precision=precision, match="fold")
        assert abs(value(result, x, y) - expected) < tolerance
        assert value(result, x, y) == value(result, y, x)


def test_fold__each_pair_meets_on_its_own_grid(compared: Compared) -> None:
    grids = {"x": (8, 4), "y": (4, 4), "z": (4, 2)}
    layers = dict(zip(grids, related(*grids.values(), examples=70, channels=(2, 3, 2)), strict=True))
    result = compared(layers, variance=0.9, precision="float64", match="fold")
    for a, b in product(layers, layers):
        cells = min(grids[a], grids[b])
        expected = plain_cca(augmented(layers[a], cells), augmented(layers[b], cells), 0.9).mean()
        assert abs(value(result, a, b) - expected) < 1e-10


# The union over frequencies, from what is stored.


def stored_directions(store: Path, key: str, variance: float | None) -> xr.Dataset:
    """What is stored of one subspace, its leading directions only."""
    subspaces = SubspaceStore.open_inside(ComparisonStore.open(store).root)
    place = subspaces.read_index().records[key]
    (pack,) = subspaces.packs([place.pack])
    assert pack is not None
    record = pack.records[place.position]
    own = xr.Dataset(
        {
            "spectrum": ("direction", pack.spectrum(record)),
            "scores": (("sample", "direction"), pack.scores(record)),
            "frequency": (("direction", "axis"), half_plane(record.entry.grid).frequency[record.entry.block]),
            "multiplicity": ("direction", record.entry.multiplicity),
        }
    )
    squares = np.sort(np.repeat(own.spectrum, own.multiplicity))[::-1]
    return own.isel(direction=own.spectrum >= squares[leading(squares, variance) - 1] * (1 - 1e-9))


def stored_correlations(a: xr.Dataset, b: xr.Dataset) -> np.ndarray:
    """Correlations at each frequency as often as it counts, descending; zeros where only one layer keeps something."""
    found: list[float] = []
    for frequency in np.unique(a.frequency, axis=0):
        at_a, at_b = ((side.frequency == frequency).all("axis").to_numpy() for side in (a, b))
        coupling = a.scores.to_numpy()[:, at_a].conj().T @ b.scores.to_numpy()[:, at_b]
        for correlation in np.linalg.svd(coupling, compute_uv=False):
            found += [correlation] * int(a.multiplicity[at_a][0])
    ranks = [int(side.multiplicity.sum()) for side in (a, b)]
    return np.sort(np.pad(found, (0, min(ranks) - len(found))))[::-1]


@pytest.mark.parametrize(
    ("grid_x", "grid_y", "variance"),
    [
        ((4, 4), (4, 4), 0.6),
        ((4, 4), (4, 4), None),
        ((5, 3), (5, 3), None),
        ((6,), (6,), None),
        ((4, 6), (2, 3), 0.6),
        ((4, 6), (2, 3), None),
        ((4, 2, 2), (2, 2, 2), None),
    ],
)
def test_dft__union_over_frequencies_is_that_of_plain_cca(
    tmp_path: Path, grid_x: tuple[int, ...], grid_y: tuple[int, ...], variance: float | None
) -> None:
    x, y = related(grid_x, grid_y, examples=40)
    store = tmp_path / "comparison.zarr"
    options: Any = {"variance": variance, "precision": "float64", "match": "fold"}
    result = compare_stored(MemoryStore(), store, {"x": x, "y": y}, **options)
    sides = []
    for name, grid in (("x", grid_x), ("y", grid_y)):
        digest, _ = str(result.subspace_a.sel(representation_a=f"m/1/{name}").item()).split(" ", maxsplit=1)
        key = subspace_key(digest, Fourier.of(grid).folded(grid_y).identity)
        sides.append(stored_directions(store, key, variance))
    found = stored_correlations(*sides)
    expected = plain_cca(augmented(x, grid_y), augmented(y), variance)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert abs(found.mean() - value(result, "x", "y")) < 1e-10


# Cropped planes.


def full_plane(layer: np.ndarray, variance: float | None) -> dict[tuple[int, ...], np.ndarray]:
    """Orthonormal scores at every frequency, by ``fftn``, of the directions that a threshold over all of them keeps."""
    grid = grid_of(layer)
    spectrum = np.fft.fftn(layer, axes=range(1, layer.ndim - 1))
    decomposed = {}
    for frequency in product(*(range(-(size // 2), (size + 1) // 2) for size in grid)):
        block = spectrum[(slice(None), *frequency)]
        left, singular, _ = np.linalg.svd(block - block.mean(axis=0) * (not any(frequency)), full_matrices=False)
        decomposed[frequency] = left, singular**2
    squares = np.sort(np.concatenate([squares for _, squares in decomposed.values()]))[::-1]
    smallest = squares[leading(squares, variance) - 1] * (1 - 1e-9)
    return {frequency: left[:, squares > smallest] for frequency, (left, squares) in decomposed.items()}


@pytest.mark.parametrize("variance", [0.7, None])
@pytest.mark.parametrize(
    ("grid_x", "grid_y"),
    [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((8, 6), (5, 4)), ((7,), (4,)), ((6, 3), (4, 5)), ((4, 3, 5), (2, 4, 3))],
)
def test_crop__is_the_mean_over_the_frequencies_of_both_full_planes(
    compared: Compared, grid_x: tuple[int, ...], grid_y: tuple[int, ...], variance: float | None
) -> None:
    x, y = (related(grid, examples=20, channels=[width])[0] for grid, width in ((grid_x, 3), (grid_y, 4)))
    result = compared({"x": x, "y": y}, variance=variance, precision="float64", match="crop")
    x_scores, y_scores = full_plane(x, variance), full_plane(y, variance)
    shared = x_scores.keys() & y_scores.keys()
    total = sum(
        np.linalg.svd(x_scores[frequency].conj().T @ y_scores[frequency], compute_uv=False).sum()
        for frequency in shared
    )
    ranks = [sum(scores[frequency].shape[1] for frequency in shared) for scores in (x_scores, y_scores)]
    assert abs(value(result, "x", "y") - total / min(ranks)) < 1e-10
    assert value(result, "x", "y") == value(result, "y", "x")
    # The ranks reported are of the whole layers.
    assert rank(result, "x") == sum(scores.shape[1] for scores in x_scores.values())


# Dense layers.


@pytest.mark.parametrize("match", ["crop", "fold"])
@pytest.mark.parametrize("variance", [0.9, None])
@pytest.mark.parametrize(("grid", "neurons"), [((4, 4), 5), ((5,), 3), ((2, 3, 2), 4), ((4, 4), 1)])
def test_dft__a_dense_layer_does_not_see_translations(
    compared: Compared, grid: tuple[int, ...], neurons: int, variance: float | None, match: Any
) -> None:
    (conv,) = related(grid, examples=30, channels=[3])
    rng = np.random.default_rng(1)
    # One neuron of it is what the paper asks of a class logit.
    dense = conv.mean(axis=tuple(range(1, conv.ndim - 1))) @ rng.normal(size=(3, neurons))
    dense += 0.1 * rng.normal(size=dense.shape)
    expected = plain_cca(augmented(conv), repeated(dense, grid), variance)
    result = compared({"conv": conv, "dense": dense}, variance=variance, precision="float64", match=match)
    assert rank(result, "dense") == len(expected) <= neurons
    assert abs(value(result, "conv", "dense") - expected.mean()) < 1e-10
    assert value(result, "dense", "conv") == value(result, "conv", "dense")


def test_dft__one_position_is_a_dense_layer(compared: Compared) -> None:
    conv, dense = related((4, 4), examples=30)[0], np.random.default_rng(2).normal(size=(30, 3))
    layers = {"conv": conv, "dense": dense, "point": dense[:, np.newaxis, np.newaxis]}
    result = compared(layers, variance=0.99, precision="float64")
    assert abs(value(result, "dense", "point") - 1) < 1e-12
    assert abs(value(result, "conv", "dense") - value(result, "conv", "point")) < 1e-12


# What must not matter.


def circular_convolution(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """As in a network, but that the edges wrap around; the kernel is (height, width, channel in, channel out)."""
    shifts = product(range(kernel.shape[0]), range(kernel.shape[1]))
    return sum(np.roll(images, shift, axis=(1, 2)) @ kernel[shift] for shift in shifts)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (7, 4)])
def test_dft__channels_mixed_change_nothing(compared: Compared, size: tuple[int, int], rectify: bool) -> None:
    rng = np.random.default_rng(3)
    layer = circular_convolution(rng.normal(size=(50, *size, 3)), rng.normal(size=(3, 3, 3, 6)))
    if rectify:
        layer = np.maximum(layer, 0)
    layer = layer.astype("float32")
    mixed = layer @ rng.normal(size=(6, 6)).astype("float32")
    assert abs(value(compared({"x": layer, "y": mixed}, variance=None), "x", "y") - 1) < 1e-7


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: np.roll(x, (1, 3), axis=(1, 2)), id="translation of the images"),
        pytest.param(lambda x: x + np.arange(3.0), id="offset of the channels"),
        pytest.param(lambda x: 1000 * x, id="scale"),
        pytest.param(lambda x: x[..., [2, 0, 1]], id="order of the channels"),
        pytest.param(lambda x: x @ np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0], id="rotation"),
    ],
)
def test_dft__a_changed_copy_is_the_same_layer(compared: Compared, change: Any) -> None:
    x, y = related((4, 6), (4, 6))
    result = compared({"x": x, "changed": change(x), "y": y}, variance=0.8, precision="float64")
    assert abs(value(result, "x", "changed") - 1) < 1e-12
    assert abs(value(result, "x", "y") - value(result, "changed", "y")) < 1e-12
    assert value(result, "x", "y") < 0.95


@pytest.mark.parametrize("match", ["crop", "fold"])
def test_dft__chunks_do_not_matter(compared: Compared, match: Any) -> None:
    x, y, z = related((8, 4), (4, 4), (8, 4), examples=700, channels=(3, 2, 4))
    layers = {"x": x, "y": y, "z": z, "dense": x[:, 0, 0]}
    whole = compared(layers, variance=0.9, precision="float64", match=match)
    with (
        patch.object(zoo_module, "CHUNK_BYTES", 100 * x[0].nbytes),
        patch.object(plan_module, "choose_chunk_samples", lambda *_: 256),
    ):
        options: Any = {"variance": 0.9, "precision": "float64", "match": match}
        for pieces in compared(layers, **options), compare_stored(MemoryStore(), MemoryStore(), layers, **options):
            index = SubspaceStore.open_inside(ComparisonStore.open(store_of(pieces)).root).read_index()
            # Even ones.
            assert {pack.chunk_samples for pack in index.packs.values()} == {234}
            np.testing.assert_allclose(pieces.svcca, whole.svcca, rtol=0, atol=1e-12)
            np.testing.assert_array_equal(pieces.rank_a, whole.rank_a)


# What does not fit is recorded, and the rest goes on.


@pytest.mark.parametrize("match", ["crop", "fold"])
def test_dft__incompatible_grids_do_not_stop_the_others(compared: Compared, match: Any) -> None:
    grids = {"a": (6, 6), "b": (4, 4), "c": (6,), "d": (6, 6)}
    layers = {name: related(grid)[0] for name, grid in grids.items()}
    result = compared(layers, variance=0.9, match=match)
    assert set(result.problem_a.to_numpy()) == {""}
    for a, b in product(grids, grids):
        fits = grids[a] == grids[b] or (match == "crop" and len(grids[a]) == len(grids[b]))
        status = value(result, a, b, "pair_status")
        assert status == (PairStatus.DONE if fits else PairStatus.INCOMPATIBLE_GRIDS)
        assert np.isnan(value(result, a, b)) == (not fits)


# A layer that is larger than the worker it goes through.


@pytest.fixture
def large_folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of a process")
def test_dft__a_layer_larger_than_its_worker(large_folder: Path) -> None:
    examples, size, channels, signals = 10_000, 32, 64, 32
    rng = np.random.default_rng(6)
    mixing = np.linalg.qr(rng.normal(size=(channels, signals)))[0].T.astype("float32")

    def batches() -> Iterator[np.ndarray]:
        for _ in range(examples // 500):
            batch = rng.standard_normal((500, size, size, signals), dtype="float32") @ mixing
            yield batch + 0.01 * rng.standard_normal(batch.shape, dtype="float32")

    def peak_memory() -> int:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    with dask_svcca.create_zoo(large_folder / "zoo.zarr", examples=range(examples)) as zoo:
        zoo.write("m", "1", "conv", batches(), dims=("example", "height", "width", "channel"))
    assert zoo.representations.nbytes.item() > 2.6e9
    with connect(workers=1, memory="2GB") as client:
        process = client.run(os.getpid)
        result = dask_svcca.compare(zoo, large_folder / "comparison.zarr", client=client).load()
        (peak,) = client.run(peak_memory).values()
        # Dask starts another worker where it has killed one.
        assert client.run(os.getpid) == process
    assert peak < 1.5e9
    assert abs(result.svcca.item() - 1) < 1e-6
    # Of 64 channels, 32 carry signal at all 1,024 frequencies.
    assert 0.98 < result.rank_a.item() / (signals * size**2) <= 1
