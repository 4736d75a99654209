"""What people hand in: of any kind of array a zoo equals that of NumPy, or the kind is refused in a sentence."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
import zarr
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca import compat
from dask_svcca.arrays import as_given
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError
from dask_svcca.stores.zoo import batches as batches_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dask_svcca import Zoo

N = 24
NAME = ("net", "step1", "fc")
X = np.random.default_rng(0).normal(size=(N, 5)).astype("float32")
OTHER = np.random.default_rng(1).normal(size=(N, 3)).astype("float32")
PARTS = [X[:7], X[7:8], X[8:]]


@pytest.fixture
def zoo() -> Zoo:
    return dask_svcca.create_zoo(MemoryStore(), examples=[f"image{i}" for i in range(N)])


def torch_of(values: np.ndarray) -> Any:
    return pytest.importorskip("torch", reason="needs PyTorch").from_numpy(values.copy())


def jax_of(values: np.ndarray) -> Any:
    return pytest.importorskip("jax.numpy", reason="needs JAX").asarray(values)


def h5py_of(values: np.ndarray) -> Any:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    file = h5py.File(io.BytesIO(), "w")
    return file.create_dataset("x", data=values, chunks=(5, 2))


def memmap_of(values: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "x.npy", values)
    return np.load(folder / "x.npy", mmap_mode="r")


def loader_of(values: np.ndarray, **options: Any) -> Any:
    data = pytest.importorskip("torch.utils.data", reason="needs PyTorch")
    return data.DataLoader(list(torch_of(values)), batch_size=7, **options)


class Loader:
    """Batches again and again, as a loader has them."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(PARTS)


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "column-major": np.asfortranarray,
    "big-endian": lambda x: x.astype(">f4"),
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "matrix": lambda x: np.array(x).view(np.matrix),
    "mask of nothing": lambda x: np.ma.masked_array(x, mask=np.zeros(x.shape, bool)),
    "xarray": xr.DataArray,
    "variable": lambda x: xr.Variable(("neuron", "example"), x.T),
    "named otherwise": lambda x: xr.DataArray(x, dims=("image", "unit")),
    "dask": lambda x: da.from_array(x, chunks=(7, 2)),
    "dask of xarray": lambda x: xr.DataArray(x).chunk(7),
    "pandas": pd.DataFrame,
    "pandas, nullable": lambda x: pd.DataFrame(x).astype("Float32"),
    "pandas, sparse": lambda x: pd.DataFrame(x).astype(pd.SparseDtype("float32", 0)),
    "list of examples": list,
    "tuple of examples": tuple,
    "zarr": lambda x: zarr.array(x, chunks=(5, 2)),
    "h5py": h5py_of,
    "torch": torch_of,
    "torch, transposed": lambda x: torch_of(x.T).T,
    "torch, with gradient": lambda x: torch_of(x).requires_grad_(),
    "torch, parameter": lambda x: pytest.importorskip("torch").nn.Parameter(torch_of(x)),
    "list of tensors": lambda x: [torch_of(row).requires_grad_() for row in x],
    "jax": jax_of,
}
BATCHES: dict[str, Callable[[], Any]] = {
    "generator": lambda: (part for part in PARTS),
    "list": lambda: PARTS,
    "tuple": lambda: tuple(PARTS),
    "with empty ones": lambda: [X[:0], *PARTS, X[:0]],
    "loader": Loader,
    "values of a dict": lambda: dict(enumerate(PARTS)).values(),
    "numbers": lambda: iter([part.tolist() for part in PARTS]),
    "tables": lambda: (pd.DataFrame(part) for part in PARTS),
    "parts of a table": lambda: (pd.DataFrame(X).iloc[start : start + 7] for start in range(0, N, 7)),
    "dask": lambda: (da.from_array(part) for part in PARTS),
    "torch": lambda: (torch_of(part).requires_grad_() for part in PARTS),
    "torch loader": lambda: loader_of(X),
    "jax": lambda: [jax_of(part) for part in PARTS],
    "h5py": lambda: [h5py_of(X)],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_write__of_any_array_equals_the_numpy_one(zoo: Zoo, kind: str) -> None:
    zoo.write(*NAME, X)
    dtype: Any = "float32"
    zoo.write("net", "step2", "fc", ARRAYS[kind](X), dtype=dtype)
    first, second = zoo.entries()
    assert (second.dims, second.shape, second.dtype) == (first.dims, first.shape, first.dtype)
    assert second.digest == first.digest


@pytest.mark.parametrize("kind", BATCHES)
def test_write__of_any_batches_equals_the_numpy_one(zoo: Zoo, kind: str) -> None:
    zoo.write(*NAME, X)
    zoo.write("net", "step2", "fc", BATCHES[kind](), dtype="float32")
    assert len({item.digest for item in zoo.entries()}) == 1


@pytest.mark.parametrize("kind", ["h5py", "zarr", "dask"])
def test_write__of_what_is_not_in_memory_is_read_by_parts(zoo: Zoo, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "READ_BYTES", 5 * X[0].nbytes)
    written = []
    append = type(zoo)._feed
    monkeypatch.setattr(
        type(zoo), "_feed", lambda *given, **more: written.append(len(given[3].values)) or append(*given, **more)
    )
    zoo.write(*NAME, ARRAYS[kind](X))
    assert max(written) <= (7 if kind == "dask" else 5)
    np.testing.assert_array_equal(zoo[NAME], X)


def test_write__of_a_file_on_disk(zoo: Zoo, tmp_path: Path) -> None:
    zoo.write(*NAME, memmap_of(X, tmp_path))
    np.testing.assert_array_equal(zoo[NAME], X)


@pytest.mark.parametrize("kind", ARRAYS)
def test_cca__of_any_array_equals_the_numpy_one(kind: str) -> None:
    given = ARRAYS[kind](X)
    expected = dask_svcca.cca(X, OTHER)
    for found in (dask_svcca.cca(given, OTHER), dask_svcca.cca(X, ARRAYS[kind](OTHER))):
        np.testing.assert_allclose(found.correlation, expected.correlation, rtol=0, atol=1e-6)
        assert int(found.rank_x) == int(expected.rank_x)
    np.testing.assert_allclose(
        compat.get_cca_similarity(ARRAYS[kind](X.T), OTHER.T)["mean"][0],
        compat.get_cca_similarity(X.T, OTHER.T)["mean"][0],
        rtol=0,
        atol=1e-6,
    ) if kind != "variable" else None


# Refused in a sentence.


class Table:
    """Something that is not an array."""


MASKED = np.ma.masked_array(X, mask=X > 2)
NA = pd.DataFrame(X).astype("Float32").mask(X > 2)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "masked": (lambda: MASKED, r"a masked array: \d+ of 120 values are masked; fill them, x\.filled\(0\), or leave"),
    "dask of masked": (lambda: da.from_array(MASKED, chunks=7), r"a dask array of masked arrays: fill them first"),
    "missing": (lambda: NA, r"a column \d with missing values \(NA\): fill them, x\.fillna\(0\), or drop"),
    "scipy": (lambda: scipy.sparse.csr_array(X), r"a sparse array: make it dense first, for example x\.toarray\(\)"),
    "text": (lambda: "x.npy", r"the text 'x\.npy': load the array first"),
    "none": (lambda: None, "None: give an array"),
    "dict": (lambda: {"fc": X}, "a dict: give one array"),
    "dataset": (lambda: xr.Dataset({"fc": ("example", X[:, 0])}), "a Dataset: give one array"),
    "set": (lambda: {1.0, 2.0}, "a set: give one array"),
    "object": (Table, "an object of type 'Table': it is not an array"),
    "delayed": (lambda: dask.delayed(X), r"a dask Delayed\w*: pass a dask array"),
    "ragged": (lambda: [[1.0, 2.0], [1.0]], "a ragged list: give equally long rows, or arrays"),
    "list of masked": (lambda: list(MASKED), "a masked array"),
    "sparse tensor": (lambda: torch_of(X).to_sparse(), r"a sparse tensor \(torch.sparse_coo\): pass x\.to_dense\(\)"),
    "mkldnn": (
        lambda: torch_of(X.astype("float32")).to_mkldnn(),
        r"a tensor in the layout of MKL-DNN: pass x\.to_dense\(\)",
    ),
    "meta": (lambda: torch_of(X).to("meta"), "a tensor on the device 'meta': it has no values"),
    "quantised": (
        lambda: pytest.importorskip("torch").quantize_per_tensor(
            torch_of(X), 0.1, 0, pytest.importorskip("torch").qint8
        ),
        r"a quantised tensor: pass x\.dequantize\(\)",
    ),
    "nested": (
        lambda: pytest.importorskip("torch").nested.nested_tensor([torch_of(row) for row in X]),
        r"a nested tensor: pad it to one length first",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_refused__by_all_that_take_arrays(zoo: Zoo, kind: str) -> None:
    make, message = REFUSED[kind]
    x = make()
    with pytest.raises(InvalidActivationsError, match=f"cannot take activations of 'net/step1/fc' from {message}"):
        zoo.write(*NAME, x)
    with pytest.raises(InvalidActivationsError, match="net/step1/fc"):
        zoo.append(*NAME, x)
    assert (len(zoo), zoo.unfinished) == (0, [])
    with pytest.raises(InvalidActivationsError, match=f"cannot take x from {message}"):
        dask_svcca.cca(x, OTHER)
    with pytest.raises(InvalidActivationsError, match=message):
        dask_svcca.pls(OTHER, x)
    with pytest.raises(InvalidActivationsError, match=message):
        compat.get_cca_similarity(x, OTHER.T)


def test_write__a_dask_array_whose_blocks_turn_out_masked(zoo: Zoo) -> None:
    hidden = da.from_delayed(dask.delayed(lambda: MASKED)(), X.shape, X.dtype)
    with pytest.raises(InvalidActivationsError, match="a masked array"):
        zoo.write(*NAME, hidden)
    with pytest.raises(InvalidActivationsError, match="a masked array"):
        dask_svcca.cca(hidden, OTHER)
    assert zoo.unfinished == []


STRANGE = [
    np.array(X, dtype=object),
    X.astype("complex64"),
    np.arange(N * 5).reshape(N, 5),
    X > 0,
    np.full((N, 5), "text"),
    np.full((N, 5), np.datetime64("2026-01-01", "s")),
    np.zeros((N, 5), dtype=[("a", "f4")]),
    pd.DataFrame(X).astype(object),
    pd.DataFrame({"a": pd.Categorical(["a"] * N), "b": X[:, 0]}),
]


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_write__refuses_what_are_not_floating_numbers(zoo: Zoo, number: int) -> None:
    with pytest.raises(InvalidActivationsError, match=r"'net/step1/fc' are .*; write float16, float32 or float64"):
        zoo.write(*NAME, STRANGE[number])
    assert zoo.unfinished == []


@pytest.mark.parametrize("number", [0, 1, 4, 5, 6, 7, 8])
def test_cca__refuses_what_are_not_real_numbers(number: int) -> None:
    with pytest.raises(InvalidActivationsError, match=r"x holds .* values; activations are real numbers"):
        dask_svcca.cca(STRANGE[number], OTHER)


def test_write__batches_that_are_several_arrays_are_refused(zoo: Zoo) -> None:
    labels = np.zeros(7)
    for batch in ((X[:7], labels), [X[:7]], (torch_of(X[:7]), torch_of(labels)) if has_torch() else [X, X]):
        with pytest.raises(
            InvalidActivationsError, match=r"a batch of 'net/step1/fc' is a \w+ of \d arrays, and not one"
        ):
            zoo.write(*NAME, iter([batch]))


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def test_write__a_list_that_may_be_two_things_is_refused(zoo: Zoo) -> None:
    rows = [X[i : i + 1] for i in range(N)]
    with pytest.raises(InvalidActivationsError, match="batches of one example, or an example each"):
        zoo.write(*NAME, rows)
    zoo.write(*NAME, rows, dims=("example", "neuron"))
    np.testing.assert_array_equal(zoo[NAME], X)
    zoo.write("net", "2", "fc", rows, dims=("example", "token", "neuron"))
    assert zoo["net/2/fc"].shape == (N, 1, 5)
    with pytest.raises(MismatchedExamplesError, match="has 15 examples, its zoo has 24"):
        zoo.write("net", "3", "fc", [X[:7], X[:8]])
    with pytest.raises(InvalidActivationsError, match="a list of arrays with 1 and 2 axes"):
        zoo.write("net", "3", "fc", [X, X[0]])
    # Nothing but numbers: an array of three axes, as NumPy has it.
    zoo.write("net", "3", "fc", [row.tolist() for row in rows])
    assert zoo["net/3/fc"].shape == (N, 1, 5)


def test_lists__of_equal_arrays_with_two_axes_are_not_taken_for_tokens() -> None:
    halves = [X[: N // 2], X[N // 2 :]]
    message = (
        r"from a list of 2 arrays of shape \(12, 5\): they may be batches, or an example each; put batches together"
    )
    for call in (
        lambda: dask_svcca.compare({"x": halves, "y": halves}),
        lambda: dask_svcca.compare({"x": halves}, dims={"x": ("example", "neuron")}),
        lambda: dask_svcca.cca(halves, halves),
        lambda: dask_svcca.cca(OTHER, tuple(halves)),
        lambda: dask_svcca.pca(halves, dims=("example", "neuron")),
        lambda: compat.get_cca_similarity(halves, halves),
        lambda: as_given(tuple(halves), "x"),
    ):
        with pytest.raises(InvalidActivationsError, match=message):
            call()
    # An example each, said so; and rows, which cannot be batches.
    tokens = [np.stack([row, row[::-1]]) for row in X]
    expected = dask_svcca.cca(np.stack(tokens), OTHER).correlation
    np.testing.assert_array_equal(
        dask_svcca.cca(tokens, OTHER, dims=("example", "token", "neuron")).correlation, expected
    )
    assert as_given(list(X), "x").data.shape == X.shape


@pytest.mark.filterwarnings("ignore::dask_svcca.errors.FewSamplesWarning")
@pytest.mark.parametrize("foreign", [("unit", "image"), ("image", "unit")])
def test_dims__say_which_axis_has_the_ids(zoo: Zoo, foreign: tuple[str, str]) -> None:
    order = np.random.default_rng(3).permutation(N)
    ids = np.array(list(zoo.examples), dtype=object)
    named = xr.DataArray(
        X[order], dims=("image", "unit"), coords={"image": ids[order], "unit": [f"u{i}" for i in range(5)]}
    ).transpose(*foreign)
    table = named.to_pandas()
    dims = ("example", "neuron") if foreign[0] == "image" else ("neuron", "example")
    plain = xr.DataArray(OTHER, dims=("example", "neuron"), coords={"example": ids})
    expected = dask_svcca.cca(X, OTHER).correlation
    for number, array in enumerate((named, table, named.chunk(5))):
        zoo.write("net", f"step{number}", "fc", array, dims=dims)
        np.testing.assert_array_equal(zoo["net", f"step{number}", "fc"], X)
        found = dask_svcca.cca(plain, array, dims=dims).correlation
        np.testing.assert_allclose(found, expected, atol=1e-6)
        result = dask_svcca.compare({"a": plain, "b": array}, dims={"b": dims}, variance=None, measures="cca")
        value = float(result.cca.sel(representation_a="a", representation_b="b"))
        assert abs(value - float(expected.mean())) < 1e-6
    zoo.append("net", "parts", "fc", named.isel(image=np.argsort(order)), dims=dims)
    np.testing.assert_array_equal(zoo["net", "parts", "fc"], X)
    with pytest.raises(MismatchedExamplesError, match="where its zoo has"):
        zoo.append("net", "other", "fc", named, dims=dims)


@pytest.mark.parametrize("dims", [1, "example,neuron", ("example", 1), {"example", "neuron"}])
def test_dims__are_a_sequence_of_names(zoo: Zoo, dims: Any) -> None:
    for call in (
        lambda: zoo.write(*NAME, X, dims=dims),
        lambda: dask_svcca.cca(X, OTHER, dims=dims),
        lambda: dask_svcca.compare({"x": X}, dims={"x": dims}),
    ):
        with pytest.raises(InvalidActivationsError, match="dims is a sequence of names, one an axis"):
            call()
    with pytest.raises(InvalidActivationsError, match="dims= is a mapping of names of arrays"):
        dask_svcca.compare({"x": X}, dims=1)  # type: ignore[arg-type]
    with pytest.raises(
        InvalidActivationsError, match="dims= names 'z', and there is no such array; there are 'x', 'y'"
    ):
        dask_svcca.compare({"x": X, "y": X}, dims={"z": ("example", "neuron")})


class RandomSampler:
    """As a loader has it that shuffles."""


def test_write__refuses_a_loader_that_shuffles(zoo: Zoo) -> None:
    loader = Loader()
    loader.sampler = RandomSampler()  # type: ignore[attr-defined]
    with pytest.raises(InvalidActivationsError, match="a loader with a RandomSampler: it shuffles the examples; load"):
        zoo.write(*NAME, loader)


def test_write__refuses_a_torch_loader_that_shuffles(zoo: Zoo) -> None:
    with pytest.raises(InvalidActivationsError, match="it shuffles the examples"):
        zoo.write(*NAME, loader_of(X, shuffle=True))
    sampler = pytest.importorskip("torch").utils.data.BatchSampler(
        pytest.importorskip("torch").utils.data.RandomSampler(X), 7, drop_last=False
    )
    loader = pytest.importorskip("torch").utils.data.DataLoader(list(torch_of(X)), batch_sampler=sampler)
    with pytest.raises(InvalidActivationsError, match="it shuffles the examples"):
        zoo.write(*NAME, loader)


# Dask arrays of which several blocks need the same work.


class Load:
    """A load of everything that counts how often it is called."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def whole(self) -> np.ndarray:
        self.calls.append(-1)
        return X

    def part(self, start: int) -> np.ndarray:
        self.calls.append(start)
        return X[start : start + 6]


def from_one(load: Load) -> Any:
    return da.from_delayed(dask.delayed(load.whole)(), X.shape, X.dtype)


def from_parts(load: Load) -> Any:
    parts = [da.from_delayed(dask.delayed(load.part)(start), (6, 5), X.dtype) for start in range(0, N, 6)]
    return da.concatenate(parts)


def in_slices(x: Any) -> Any:
    return da.concatenate([x[start : start + 6] for start in range(0, N, 6)])


def centred(x: Any) -> Any:
    return x - x.mean(axis=0)


SHARED: dict[str, Callable[[Load], Any]] = {
    "rechunked": lambda load: from_one(load).rechunk((5, 2)),
    "sliced": lambda load: in_slices(from_one(load)),
    "less its mean": lambda load: centred(from_parts(load)) + X.mean(axis=0),
    "turned twice": lambda load: from_parts(load)[::-1][::-1].rechunk((5, 5)),
    "xarray, turned": lambda load: xr.DataArray(
        from_parts(load)[np.random.default_rng(2).permutation(N)],
        dims=("example", "neuron"),
        coords={"example": [f"image{i}" for i in np.random.default_rng(2).permutation(N)]},
    ),
}


@pytest.mark.parametrize("kind", SHARED)
def test_write__of_dask_arrays_does_shared_work_once(zoo: Zoo, kind: str) -> None:
    load = Load()
    with dask.config.set(scheduler="synchronous"):
        zoo.write(*NAME, SHARED[kind](load))
    assert len(load.calls) == len(set(load.calls))
    np.testing.assert_allclose(zoo[NAME], X, rtol=0, atol=1e-6)


def test_write__of_dask_arrays_shared_work_is_done_as_memory_allows(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load()
    # Room for two blocks of five examples at a time.
    monkeypatch.setattr(batches_module, "available_memory", lambda: 4 * 10 * X[0].nbytes)
    zoo.write(*NAME, from_one(load).rechunk((5, 5)))
    assert len(load.calls) == 3
    np.testing.assert_array_equal(zoo[NAME], X)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_write__of_dask_arrays_that_share_nothing_streams(
    zoo: Zoo, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, seen = Load(), []
    feed = type(zoo)._feed
    monkeypatch.setattr(type(zoo), "_feed", lambda *given, **more: seen.append(len(load.calls)) or feed(*given, **more))
    with dask.config.set(scheduler=scheduler):
        zoo.write(*NAME, from_parts(load) * np.float32(2))
    assert seen == [1, 2, 3, 4]
    np.testing.assert_array_equal(zoo[NAME], 2 * X)
