"""Activations of ONNX checkpoints into a zoo."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import (
    CaptureReport,
    captured,
    check_inputs,
    check_one_parent,
    check_order_of_inputs,
    inputs_digests,
    listing,
    other_capture,
    quantised,
)
from dask_svcca.capture._inputs import IDS, load_inputs
from dask_svcca.capture.onnx.axes import as_stored, check_patterns, given_axes
from dask_svcca.capture.onnx.branches import open_branches
from dask_svcca.capture.onnx.names import Checkpoint, name_checkpoints
from dask_svcca.capture.onnx.network import count_examples, open_network, rows_of, tensor_names
from dask_svcca.capture.onnx.survey import survey_network
from dask_svcca.dims import EXAMPLE, canonical_dims
from dask_svcca.errors import CaptureError, MismatchedExamplesError
from dask_svcca.stores._names import RepresentationName
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    import os
    from collections.abc import Container, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.capture._inputs import Inputs
    from dask_svcca.capture.onnx.network import Feeds, Network
    from dask_svcca.capture.onnx.survey import Layer, Survey
    from dask_svcca.stores._documents import Compression
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Stored, Zoo

BATCH_BYTES = 64 * 2**20
"""Target size of all tensors of one batch, where no batch size is asked for."""


def list_layers(
    model_path: str | os.PathLike[str],
    pattern: str | Sequence[str] | None = None,
    *,
    inputs_path: str | os.PathLike[str] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
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
        Names, or patterns of names, ``"block1.*"``; several separated by commas: see `dask_svcca.patterns.matches`.
    inputs_path : path, optional
        See `load_inputs`. Without, zeros are fed, with 16 entries along axes the model leaves open.
    dims : mapping of str to sequence of str, optional
        Names of the axes of tensors, by patterns of their names, where the operators do not say them.

    Returns
    -------
    list of Layer
        In the order of computation.

    Raises
    ------
    CaptureError
        Where there are no layers, saying why: for example, all are inside an ``If``, ``Loop`` or ``Scan``; or where
        ``dims`` names axes that cannot be, or tensors that are not there.
    MissingPackageError
        Without the extra ``onnx``.
    """
    return survey_model(model_path, inputs_path=inputs_path, dims=dims).choose(pattern)


def survey_model(
    model_path: str | os.PathLike[str],
    *,
    inputs_path: str | os.PathLike[str] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Survey:
    """Layers of a model, and what is left out and why; parameters are those of `list_layers`."""
    check_patterns(given_axes(dims), tensor_names(model_path) if dims else (), repr(str(model_path)))
    network = open_network(model_path)
    feeds = network.zeros(3) if inputs_path is None else load_inputs(inputs_path).feeds(network.inputs)
    network.check(feeds)
    return survey_network(open_branches(network, feeds), feeds, dims)


def capture_checkpoint(
    model_path: str | os.PathLike[str],
    inputs_path: str | os.PathLike[str],
    zoo_store: StoreLike,
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    step: float | None = None,
    parent: str | None = None,
    layers: str | Sequence[str] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    batch_size: int | None = None,
    compression: Compression = "lz4",
    dtype: Stored | None = None,
    overwrite: bool = False,
) -> CaptureReport:
    """Write the activations of one ONNX file to a zoo.

    Layers the zoo already has are left alone, so that an interrupted capture goes on where it stopped; ``caution`` of
    the report says so where they come from other weights or inputs, or have another step, type or axes. Any number of
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
    parent : str, optional
        See `Zoo.write`.
    layers : str or sequence of str, optional
        As in `list_layers`; all by default.
    dims : mapping of str to sequence of str, optional
        As in `list_layers`.
    batch_size : int, optional
        Examples computed at a time; by default as many as keep all tensors of the model within 64 MB.
    compression : {"lz4", "zstd", "none"}
        How the stored activations are compressed.
    dtype : {"float16", "float32", "float64"}, optional
        See `Zoo.write`.
    overwrite : bool
        Replace the layers that the zoo has already.

    Returns
    -------
    CaptureReport

    Raises
    ------
    CaptureError
        Where model and inputs do not fit, the model hides its layers, or layers would stand beside those of other
        weights in one checkpoint.
    MismatchedExamplesError
        Where the inputs are not the zoo's examples, or not those that another checkpoint of the model was fed.
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
    survey = survey_network(open_branches(network, feeds), feeds, dims)
    chosen = {RepresentationName(named.model, named.checkpoint, layer.name): layer for layer in survey.choose(layers)}
    fed = inputs_digests(feeds)
    digests = {"weights_digest": network.weights_digest, "inputs_digest": fed["inputs_digest"]}
    nbytes, label = 0, f"{named.model}/{named.checkpoint}"
    with open_zoo(zoo_store, mode="r+") as zoo, zoo.together():
        _check_examples(zoo, inputs, network)
        missing = {name: layer for name, layer in chosen.items() if overwrite or name not in zoo}
        given = {"step": named.step, "dtype": dtype, "parent": parent}
        options = {key: value for key, value in given.items() if value is not None}
        present = {name: layer for name, layer in chosen.items() if name not in missing}
        caution = other_capture(
            zoo, {name: {**digests, **options, **_form(layer, len(inputs))} for name, layer in present.items()}
        )
        if missing:
            _check_weights(zoo, named, missing, digests["weights_digest"])
            check_one_parent(zoo, named.model, named.checkpoint, parent, {name.layer for name in missing})
            others = captured(zoo, named.model)
            kept = (one for one in others if (one["model"], one["checkpoint"], one["layer"]) not in missing)
            check_inputs(kept, fed["inputs_digest"], label)
            check_order_of_inputs(zoo, named.model, fed, label)
        coarse = quantised([name.layer for name in missing if name.layer in survey.quantised], label)
        size = batch_size or max(1, BATCH_BYTES // max(1, survey.nbytes_per_example))
        for batch in _batches(feeds, size) if missing else ():
            tensors = survey.network.run([layer.name for layer in missing.values()], batch)
            for name, layer in missing.items():
                values, axes = as_stored(tensors[layer.name], layer.dims)
                zoo.append(
                    *name,
                    values,
                    step=named.step,
                    depth=layer.depth,
                    dims=axes,
                    attrs={"op_type": layer.op_type, **digests, **fed},
                    source_dtype=layer.source_dtype,
                    parent=parent,
                    compression=compression,
                    dtype=dtype,
                    overwrite=overwrite,
                )
                nbytes += values.size * np.dtype(dtype or values.dtype).itemsize
    return CaptureReport(
        model=named.model,
        checkpoint=named.checkpoint,
        written=len(missing),
        present=len(present),
        examples=len(inputs),
        nbytes=nbytes,
        seconds=time.perf_counter() - started,
        skipped=survey.skipped,
        caution=". ".join(filter(None, (caution, coarse))),
    )


def _named(path: str | os.PathLike[str], model: str | None, checkpoint: str | None, step: float | None) -> Checkpoint:
    if model is not None and checkpoint is not None:
        return Checkpoint(str(path), model, checkpoint, step)
    (named,) = name_checkpoints([path], model=model, checkpoint=checkpoint)
    return named if step is None else replace(named, step=step)


def _form(layer: Layer, examples: int) -> dict[str, list[Any]]:
    """Axes and shape of a layer in a zoo."""
    values, axes = as_stored(np.empty((1, *layer.shape)), layer.dims)
    sizes = {**dict(zip(axes, values.shape, strict=True)), EXAMPLE: examples}
    dims = canonical_dims(axes, values.shape, layer.name)
    return {"dims": list(dims), "shape": [sizes[dim] for dim in dims]}


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


def _check_weights(zoo: Zoo, named: Checkpoint, written: Container[RepresentationName], digest: str) -> None:
    """Refuse to write layers beside those of a model of other weights in one checkpoint."""
    others = [
        one["layer"]
        for one in captured(zoo, named.model, named.checkpoint)
        if RepresentationName(named.model, named.checkpoint, one["layer"]) not in written
        and one.get("weights_digest", digest) != digest
    ]
    if others:
        raise CaptureError(
            f"{named.model!r}, checkpoint {named.checkpoint!r}, is in the zoo already with {listing(others)}, captured "
            f"from other weights than {str(named.path)!r} has: layers of different weights would stand in one "
            f"checkpoint. Give the checkpoint another name, or capture all of its layers with overwrite=True "
            f"(--overwrite)"
        )


def _batches(feeds: Feeds, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    for start in range(0, count_examples(feeds), size):
        yield rows_of(feeds, slice(start, start + size))
