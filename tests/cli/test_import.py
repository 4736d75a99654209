"""Import: arrays from files, what they may be, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runner import N, activations, run

import dask_svcca
from dask_svcca.errors import MismatchedExamplesError


def test_import__npy_and_back(folder: Path) -> None:
    x = activations(0, 3, 4, 5)
    np.save("conv.npy", x)
    result = run(
        "import conv.npy --zoo zoo.zarr --model m/1 --checkpoint c --layer l --step 7 --depth 2 "
        "--dims example,channel,height,width"
    )
    assert "Imported 1 representation of 40 examples: 9.6 kB." in result.output
    zoo = dask_svcca.open_zoo("zoo.zarr")
    stored = zoo["m/1", "c", "l"]
    assert stored.dims == ("example", "height", "width", "channel")
    assert (stored.attrs["step"], stored.attrs["depth"]) == (7, 2)
    np.testing.assert_array_equal(stored.to_numpy(), x.transpose(0, 2, 3, 1))
    assert zoo.examples.tolist() == list(range(N))


def test_import__neurons_first_where_they_are_said_to_be(folder: Path) -> None:
    x = activations(0, 3)
    np.save("across.npy", x.T)
    run("import across.npy --zoo zoo.zarr --model m --checkpoint c --layer l --dims neuron,example")
    np.testing.assert_array_equal(dask_svcca.open_zoo("zoo.zarr")["m", "c", "l"], x)


def test_import__each_array_of_an_npz_is_a_layer(folder: Path) -> None:
    np.savez("layers.npz", conv=activations(0, 2, 3), fc=activations(1, 4))
    run("import layers.npz --zoo zoo.zarr --model m --checkpoint c")
    frame = dask_svcca.open_zoo("zoo.zarr").representations
    assert frame["layer"].tolist() == ["conv", "fc"]
    assert frame["depth"].tolist() == [0, 1]


def test_import__one_array_of_an_npz(folder: Path) -> None:
    np.savez("layers.npz", conv=activations(0, 3), labels=np.arange(N))
    run("import layers.npz --zoo zoo.zarr --model m --checkpoint c --array conv --layer conv1")
    assert dask_svcca.open_zoo("zoo.zarr").representations.index.tolist() == ["m/c/conv1"]


def test_import__in_half_precision(folder: Path) -> None:
    np.save("x.npy", activations(0, 3))
    result = run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l --dtype float16")
    assert "Imported 1 representation of 40 examples: 240 B." in result.output
    assert dask_svcca.open_zoo("zoo.zarr")["m", "c", "l"].dtype == "float16"


def test_import__ids_and_coordinates(folder: Path) -> None:
    np.save("x.npy", activations(0, 3))
    np.savez("examples.npz", example=np.arange(N) + 100, label=np.arange(N) % 5, input=activations(0, 8, 8))
    run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l --examples examples.npz")
    zoo = dask_svcca.open_zoo("zoo.zarr")
    assert zoo.examples[0] == 100
    assert list(zoo.coords) == ["label"]
    other = run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l2 --examples x.npy", status=2)
    assert "Error: examples must be ids" in other.output
    np.save("ids.npy", np.arange(N))
    other = run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l2 --examples ids.npy", status=2)
    assert "'0' of 'ids.npy', at 0, is not among the examples of the zoo 'zoo.zarr'" in other.output
    np.save("ids.npy", np.arange(N - 1))
    for place in ("zoo.zarr", "new.zarr"):
        other = run(f"import x.npy --zoo {place} --model m --checkpoint c --layer l2 --examples ids.npy", status=2)
        assert f"'ids.npy' has ids of {N - 1} examples, and the arrays have {N}" in other.output


@pytest.mark.parametrize("dims", ["", " --dims neuron,example"])
def test_import__ids_in_another_order_put_the_examples_in_order(folder: Path, dims: str) -> None:
    x, order = activations(0, 3), np.random.default_rng(1).permutation(N)
    np.save("x.npy", x)
    np.save("turned.npy", x[order].T if dims else x[order])
    np.save("ids.npy", order)
    run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer a")
    run(f"import turned.npy --zoo zoo.zarr --model m --checkpoint c --layer b --examples ids.npy{dims}")
    zoo = dask_svcca.open_zoo("zoo.zarr")
    np.testing.assert_array_equal(zoo["m/c/b"], x)
    with pytest.raises(MismatchedExamplesError, match=r"the same 40 examples in another order: .*labelled"):
        dask_svcca.create_zoo("zoo.zarr", examples=order, exist_ok=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x.npy", "does not say what layer it is; name it with --layer"),
        ("x.npy --layer l --array a", "holds a single array without a name; leave out --array"),
        ("two.npz --layer l", "holds several arrays, 'a', 'b'; choose one with --array"),
        ("two.npz --array c", "has no array 'c'; it has 'a', 'b'"),
        ("integers.npy --layer l", "is int64; activations are float16, float32 or float64. Save x.astype('float32')"),
        ("complex.npy --layer l", "float64. Give real and imaginary parts neurons of their own"),
        (
            "objects.npy --layer l",
            "Error: the array of 'objects.npy' holds Python objects, which are never loaded, since they",
        ),
        ("objects.npz --array o", "array 'o' of 'objects.npz' holds Python objects"),
        ("nothing.npy --layer l", "cannot read 'nothing.npy'"),
        ("one.npy --layer l", "have one axis, of length 40, and need one of examples and one of neurons"),
        ("six.npy --layer l", "have 6 axes, 40 x 1 x 1 x 1 x 1 x 2, and a layer has at most 5"),
        ("unequal.npz", "must have the same examples; their numbers are {'a': 40, 'b': 39}"),
        (
            "x.npy --layer l --dims example,neuron,what",
            "--dims example,neuron,what do not describe the 2 axes of 'm/c/l'",
        ),
        (
            "images.npy --layer l",
            "axes, 40 x 2 x 2 x 3; say what they are with --dims, for example --dims example,channel,height,width",
        ),
        (
            "images.npy --layer l --dims example,head,token,channel",
            "--dims example,head,token,channel of 'm/c/l' have an axis 'head'",
        ),
        ("short.npy --layer l", "'m/c/l' has 39 examples, its zoo has 40"),
        ("across.npy --layer l", "and the array is 3 x 40. If its neurons come first, say so: dims="),
        ("x.npy --layer taken", "'taken' of 'm', 'c' is already in the zoo"),
    ],
)
def test_import__refuses(folder: Path, arguments: str, message: str) -> None:
    np.save("x.npy", activations(0, 3))
    run("import x.npy --zoo zoo.zarr --model m --checkpoint c --layer taken")
    np.savez("two.npz", a=activations(0, 3), b=activations(0, 3))
    np.savez("unequal.npz", a=activations(0, 3), b=activations(0, 3)[1:])
    np.save("short.npy", activations(0, 3)[1:])
    np.save("across.npy", activations(0, 3).T)
    np.save("one.npy", activations(0, 3)[:, 0])
    np.save("six.npy", activations(0, 1, 1, 1, 1, 2))
    np.save("integers.npy", np.arange(N))
    np.save("complex.npy", np.ones((N, 2), dtype=complex))
    np.save("images.npy", activations(0, 2, 2, 3))
    np.save("objects.npy", np.array([{}] * N))
    np.savez("objects.npz", o=np.array([{}] * N))
    Path("nothing.npy").write_text("nothing")
    result = run(f"import {arguments} --zoo zoo.zarr --model m --checkpoint c", status=2)
    assert message in " ".join(result.output.split())
    assert dask_svcca.open_zoo("zoo.zarr").representations.index.tolist() == ["m/c/taken"]


def test_import__overwrite(folder: Path) -> None:
    for seed, option in ((0, ""), (1, "--overwrite")):
        np.save("x.npy", activations(seed, 3))
        run(f"import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l {option}")
    np.testing.assert_array_equal(dask_svcca.open_zoo("zoo.zarr")["m", "c", "l"].to_numpy(), activations(1, 3))


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_import__a_step_that_is_not_finite(folder: Path, number: str) -> None:
    np.save("x.npy", activations(0, 3))
    result = run(f"import x.npy --zoo zoo.zarr --model m --checkpoint c --layer l --step {number}", status=2)
    assert "step must be a finite number" in result.stderr
