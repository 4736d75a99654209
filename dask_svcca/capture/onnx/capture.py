"""Activations of ONNX checkpoints into a zoo."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import CaptureReport, as_dims, listing
from dask_svcca.capture._inputs import IDS, load_inputs
from dask_svcca.capture.onnx.names import Checkpoint, name_checkpoints
from dask_svcca.capture.onnx.network import open_network
from dask_svcca.capture.onnx.survey import survey_network
from dask_svcca.errors import CaptureError, MismatchedExamplesError
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from dask_svcca.capture._inputs import Inputs
    from dask_svcca.capture.onnx.network import Feeds, Network
    from dask_svcca.capture.onnx.survey import Layer
    from dask_svcca.stores._chunked import Compression
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Stored, Zoo

BATCH_BYTES = 64 * 2**20
"""Target size of all tensors of one batch, where no batch size is asked for."""


def list_layers(
    model_path: str | os.PathLike[str],
    pattern: str | Sequence[str] | None = None,
    *,
    inputs_path: str | os.PathLike[str] | None = None,
) -> list[Layer]:
    """Layers of a model that can be captured.

    These are the floating tensors that its operators compute, with up to five axes, the first of them the examples.
    Tensors that repeat another through ``Identity``, ``Dropout`` or a reshape are left out, and so are those that do
    not depend on the input. The model is run on a few examples to see which axis follows their number.

    Parameters
    ----------
    model_path : path
        An ONNX file.
    pattern : str or sequence of str, optional
        Names as for files, ``"block1.*"``; several separated by commas.
    inputs_path : path, optional
        See `load_inputs`. Without, zeros are fed, with 16 entries along axes the model leaves open.

    Returns
    -------
    list of Layer
        In the order of computation.

    Raises
    ------
    CaptureError
        Where there are no layers, saying why: a fixed batch size, or layers inside an ``If``, ``Loop`` or ``Scan``.
    MissingPackageError
        Without the extra ``onnx``.
    """
    network = open_network(model_path)
    feeds = network.zeros(3) if inputs_path is None else load_inputs(inputs_path).feeds(network.inputs)
    network.check(feeds)
    return survey_network(network, feeds).choose(pattern)


def capture_checkpoint(
    model_path: str | os.PathLike[str],
    inputs_path: str | os.PathLike[str],
    zoo_store: StoreLike,
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    step: float | None = None,
    layers: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    compression: Compression = "lz4",
    dtype: Stored | None = None,
) -> CaptureReport:
    """Write the activations of one ONNX file to a zoo.

    Layers the zoo already has are left alone, so that an interrupted capture goes on where it stopped. Any number of
    checkpoints can be captured at the same time.

    Parameters
    ----------
    model_path : path
    inputs_path : path
        The zoo's examples: see `load_inputs`.
    zoo_store : path, zarr store, or URL
        Made by `create_zoo`.
    model, checkpoint, step : optional
        By default as in `name_checkpoints`; where both names are given, there is no step without ``step``.
    layers : str or sequence of str, optional
        As in `list_layers`; all by default.
    batch_size : int, optional
        Examples computed at a time; by default as many as keep all tensors of the model within 64 MB.
    compression : {"lz4", "zstd", "none"}
        How the stored activations are compressed.
    dtype : {"float16", "float32", "float64"}, optional
        See `Zoo.write`.

    Returns
    -------
    CaptureReport

    Raises
    ------
    CaptureError
        Where model and inputs do not fit, or the model hides its layers.
    MismatchedExamplesError
        Where the inputs are not the zoo's examples.
    MissingPackageError
        Without the extra ``onnx``.
    """
    started = time.perf_counter()
    if batch_size is not None and batch_size < 1:
        raise CaptureError(f"batch_size must be at least 1, or None for a size that fits; got {batch_size}")
    named = _named(model_path, model, checkpoint, step)
    inputs = load_inputs(inputs_path)
    network = open_network(model_path)
    feeds = inputs.feeds(network.inputs)
    network.check(feeds)
    survey = survey_network(network, feeds)
    chosen = survey.choose(layers)
    nbytes = 0
    with open_zoo(zoo_store, mode="r+") as zoo:
        _check_examples(zoo, inputs, network)
        missing = [layer for layer in chosen if (named.model, named.checkpoint, layer.name) not in zoo]
        size = batch_size or max(1, BATCH_BYTES // max(1, survey.nbytes_per_example))
        for batch in _batches(feeds, size) if missing else ():
            tensors = network.run([layer.name for layer in missing], batch)
            for layer in missing:
                values = as_dims(tensors[layer.name], layer.dims)
                zoo.append(
                    named.model,
                    named.checkpoint,
                    layer.name,
                    values,
                    step=named.step,
                    depth=layer.depth,
                    dims=layer.dims,
                    attrs={"op_type": layer.op_type},
                    compression=compression,
                    dtype=dtype,
                )
                nbytes += values.size * np.dtype(dtype or values.dtype).itemsize
    return CaptureReport(
        model=named.model,
        checkpoint=named.checkpoint,
        written=len(missing),
        present=len(chosen) - len(missing),
        examples=len(inputs),
        nbytes=nbytes,
        seconds=time.perf_counter() - started,
        skipped=survey.skipped,
    )


def _named(path: str | os.PathLike[str], model: str | None, checkpoint: str | None, step: float | None) -> Checkpoint:
    if model is not None and checkpoint is not None:
        return Checkpoint(str(path), model, checkpoint, step)
    (named,) = name_checkpoints([path], model=model, checkpoint=checkpoint)
    return named if step is None else replace(named, step=step)


def _check_examples(zoo: Zoo, inputs: Inputs, network: Network) -> None:
    ids = [str(value) for value in inputs.ids(network.inputs).tolist()]
    expected = [str(value) for value in zoo.examples.tolist()]
    if ids == expected:
        return
    place = next((place for place, pair in enumerate(zip(ids, expected, strict=False)) if len(set(pair)) == 2), None)
    where = (
        ""
        if place is None
        else f"; the first to differ, at {place}, is {ids[place]!r} in the inputs and {expected[place]!r} in the zoo"
    )
    hashed = (
        ""
        if IDS in inputs.arrays
        else f" (ids are hashes of {listing(network.inputs)}, since there is no array {IDS!r})"
    )
    raise MismatchedExamplesError(
        f"{inputs.path!r} has {len(ids)} examples{hashed}, the zoo at {str(zoo.root.store_path)!r} has "
        f"{len(expected)}{where}. Capture with the examples the zoo was made for, or to a zoo of its own"
    )


def _batches(feeds: Feeds, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    examples = len(next(iter(feeds.values())))
    for start in range(0, examples, size):
        yield {name: np.ascontiguousarray(array[start : start + size]) for name, array in feeds.items()}
