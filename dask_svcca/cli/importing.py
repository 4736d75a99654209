"""``dask-svcca import``: arrays from files into a zoo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pandas as pd

from dask_svcca.capture.arrays import ArrayFile, open_arrays
from dask_svcca.cli._console import checked_options, counted, echo_next, examples, size
from dask_svcca.cli._paths import File, Place, quoted
from dask_svcca.cli._storage import storage_options
from dask_svcca.dims import SPATIAL_DIMS, canonical_dims
from dask_svcca.errors import InvalidActivationsError, MismatchedExamplesError, RepresentationExistsError
from dask_svcca.examples import order_by_id
from dask_svcca.stores._io import is_group
from dask_svcca.stores.zoo import Zoo, create_zoo, open_zoo
from dask_svcca.stores.zoo.examples import example_ids
from dask_svcca.stores.zoo.parents import one_parent, parents_in

if TYPE_CHECKING:
    import numpy.typing as npt


@click.command(
    "import",
    epilog=examples(
        "dask-svcca import fc1.npy --zoo zoo.zarr --model resnet --checkpoint step100 --layer fc1 --step 100",
        "dask-svcca import layers.npz --zoo zoo.zarr --model resnet --checkpoint step100",
        "dask-svcca import conv.npy --zoo zoo.zarr --model vgg --checkpoint final --layer conv1 \\",
        "    --dims example,channel,height,width",
    ),
)
@click.argument("file", type=File())
@click.option(
    "--zoo", required=True, type=Place(), metavar="STORE", help="The zoo to write to; made if it is not there."
)
@click.option("--model", required=True, metavar="NAME", help="The network, or the training of it.")
@click.option("--checkpoint", required=True, metavar="NAME", help="When in its training; --step says the order.")
@click.option("--layer", metavar="NAME", help="Name of the layer [default: the names of the arrays of an npz].")
@click.option("--array", metavar="NAME", help="The array of an npz to take, under the name of --layer.")
@click.option("--step", type=float, metavar="NUMBER", help="Training step, to order checkpoints by.")
@click.option("--parent", metavar="MODEL/CHECKPOINT", help="The checkpoint that the training of this one began with.")
@click.option("--depth", type=float, metavar="NUMBER", help="Position in the network, to order layers by.")
@click.option(
    "--dims",
    metavar="NAMES",
    help="Names of the axes: example; neuron or channel; height, width, depth; token. By default example,neuron or "
    "example,token,neuron; arrays of more axes need them.",
)
@click.option(
    "--examples",
    "examples_file",
    type=File(),
    metavar="FILE",
    help="Ids of the examples: npy, or npz where the array example holds them and others become coordinates "
    "[default: those of the zoo; 0, 1, 2 ... of a new one]. The same in another order than the zoo's: what is imported "
    "is put in order.",
)
@storage_options
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace representations of the same name, all or none; their step and depth hold unless others are given.",
)
def import_arrays(
    file: str,
    *,
    zoo: str,
    model: str,
    checkpoint: str,
    layer: str | None,
    array: str | None,
    step: float | None,
    parent: str | None,
    depth: float | None,
    dims: str | None,
    examples_file: str | None,
    compression: Any,
    dtype: Any,
    overwrite: bool,
) -> None:
    """Import activations from an npy or npz FILE.

    The first axis is the examples, in the order all representations of the zoo have them. Files are never unpickled.
    Many files are brought in by a loop of zoo.write in Python, as the how-to page on capturing shows.
    """
    arrays = open_arrays(file)
    layers = _layers(arrays, layer, array)
    axes = None if dims is None else tuple(part.strip() for part in dims.split(","))
    along = axes.index("example") if axes is not None and "example" in axes else 0
    count = _check(arrays, layers, along, axes, f"{model}/{checkpoint}")
    target, order = _open_zoo(zoo, count, examples_file)
    if not overwrite:
        _check_absent(target, zoo, model, checkpoint, layers)
    one_parent(parents_in(target.root, model, checkpoint), parent, model, checkpoint, layers)
    nbytes = 0
    with checked_options(), target, target.together():
        for position, (name, source) in enumerate(layers.items()):
            values = arrays.load(source)
            if order is not None:
                values = np.take(values, order, axis=along)
            # The order of the arrays of an npz is most likely that of the network.
            layer_depth = depth if depth is not None or "" in arrays.headers or array is not None else position
            target.write(
                model,
                checkpoint,
                name,
                values,
                step=step,
                parent=parent,
                depth=layer_depth,
                dims=axes,
                compression=compression,
                dtype=dtype,
                overwrite=overwrite,
            )
            nbytes += values.size * np.dtype(dtype or values.dtype).itemsize
    click.echo(f"Imported {counted(len(layers), 'representation')} of {counted(count, 'example')}: {size(nbytes)}.")
    echo_next([(f"dask-svcca info {quoted(zoo)}", "what the zoo holds")])


def _layers(arrays: ArrayFile, layer: str | None, array: str | None) -> dict[str, str]:
    """Name of each layer, and of the array that holds it."""
    if "" in arrays.headers:
        if array is not None:
            raise click.UsageError(f"{arrays.path!r} holds a single array without a name; leave out --array.")
        if layer is None:
            raise click.UsageError(f"{arrays.path!r} does not say what layer it is; name it with --layer.")
        return {layer: ""}
    if layer is not None and array is None:
        if len(arrays.headers) > 1:
            names = ", ".join(map(repr, arrays.headers))
            raise click.UsageError(f"{arrays.path!r} holds several arrays, {names}; choose one with --array.")
        (array,) = arrays.headers
    return {layer or name: name for name in arrays.choose(array)}


def _check(arrays: ArrayFile, layers: dict[str, str], along: int, axes: tuple[str, ...] | None, checkpoint: str) -> int:
    """Number of examples. Layers that cannot be written are refused before the first is."""
    lengths = {}
    for layer, source in layers.items():
        shape, dtype = arrays.headers[source]
        if dtype.kind != "f":
            advice = "Choose such arrays with --array, one at a time" if source else "Save x.astype('float32')"
            if dtype.kind == "c":
                advice = "Give real and imaginary parts neurons of their own"
            raise InvalidActivationsError(
                f"the array of layer {layer!r} in {arrays.path!r} is {dtype}; activations are float16, float32 or "
                f"float64. {advice}"
            )
        if along >= len(shape):
            raise InvalidActivationsError(
                f"the array of layer {layer!r} in {arrays.path!r} has shape {shape}, too few axes for examples"
            )
        _check_axes(axes, shape, f"{checkpoint}/{layer}")
        lengths[layer] = shape[along]
    if len(set(lengths.values())) > 1:
        raise MismatchedExamplesError(
            f"the layers of {arrays.path!r} must have the same examples; their numbers are {lengths}"
        )
    return next(iter(lengths.values()))


def _check_axes(axes: tuple[str, ...] | None, shape: tuple[int, ...], label: str) -> None:
    """Refuse axes that a zoo cannot have, in the words of the options."""
    lengths = " x ".join(map(str, shape))
    if len(shape) < 2:
        raise InvalidActivationsError(
            f"activations of {label!r} have one axis, of length {lengths}, and need one of examples and one of "
            f"neurons. Save those of a single neuron with the shape ({lengths}, 1)"
        )
    if axes is None and len(shape) in {4, 5}:
        usual = ",".join(("example", "channel", *SPATIAL_DIMS[len(shape)]))
        raise InvalidActivationsError(
            f"activations of {label!r} have {len(shape)} axes, {lengths}; say what they are with --dims, for example "
            f"--dims {usual}, or with channel last"
        )
    if len(shape) > 5:
        raise InvalidActivationsError(
            f"activations of {label!r} have {len(shape)} axes, {lengths}, and a layer has at most 5: example, "
            f"channel, depth, height and width. Reshape the array"
        )
    if axes is None:
        return
    try:
        canonical_dims(axes, shape, label)
    except InvalidActivationsError as error:
        raise InvalidActivationsError(str(error).replace(f"dims={axes!r}", f"--dims {','.join(axes)}")) from error


def _open_zoo(zoo: str, count: int, examples_file: str | None) -> tuple[Zoo, npt.NDArray[np.intp] | None]:
    """The zoo, and where its examples are among those of the file; None where the order is the same."""
    if examples_file is None:
        return open_zoo(zoo, mode="r+") if is_group(zoo) else create_zoo(zoo, examples=np.arange(count)), None
    ids, coords = _examples(open_arrays(examples_file), count)
    ids = example_ids(ids)
    if len(ids) != count:
        raise MismatchedExamplesError(
            f"{examples_file!r} has ids of {len(ids)} examples, and the arrays have {count}: give one for each, in "
            f"their order"
        )
    if not is_group(zoo):
        return create_zoo(zoo, examples=ids, coords=coords, exist_ok=True), None
    target = open_zoo(zoo, mode="r+")
    return target, order_by_id(pd.Index(ids), target.examples, repr(examples_file), f"the zoo {zoo!r}")


def _examples(arrays: ArrayFile, count: int) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
    if "" in arrays.headers:
        return arrays.load(""), {}
    flat = {name: arrays.load(name) for name, (shape, _) in arrays.headers.items() if len(shape) == 1}
    return flat.pop("example", np.arange(count)), flat


def _check_absent(zoo: Zoo, place: str, model: str, checkpoint: str, layers: dict[str, str]) -> None:
    present = [layer for layer in layers if (model, checkpoint, layer) in zoo]
    if present:
        raise RepresentationExistsError(
            f"{present[0]!r} of {model!r}, {checkpoint!r} is already in the zoo {place!r}"
            + (f", and {len(present) - 1} more of these layers" if len(present) > 1 else "")
            + ". Give it another name, or replace it with --overwrite"
        )
