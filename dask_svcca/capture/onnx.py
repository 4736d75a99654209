"""Activations of ONNX checkpoints, computed with ONNX Runtime."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.capture._common import CaptureReport, as_dims, dims_of, listing, require, select
from dask_svcca.capture._inputs import IDS, Inputs, load_inputs
from dask_svcca.errors import CaptureError, MismatchedExamplesError
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.stores._chunked import Compression
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Stored, Zoo

    Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]

__all__ = [
    "Checkpoint",
    "Inputs",
    "Layer",
    "capture_checkpoint",
    "input_names",
    "list_layers",
    "load_inputs",
    "name_checkpoints",
]

BATCH_BYTES = 64 * 2**20
"""Aimed-at size of all tensors of one batch, when no batch size is asked for."""

OPEN_AXIS = 16
"""Length given to axes the model leaves open, where there are no inputs to look at."""

# Other types (bfloat16, text, sequences) have no NumPy array.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "bool", "int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}

REPEATING = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose first output has the values of their first input, in the same order."""

RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})

CHANNELS_FIRST = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"}
    | {"GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool"}
    | {"QLinearConv", "SpaceToDepth"}
)
"""Operators defined on (example, channel, position...)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model file, and what its activations are called in a zoo."""

    path: str
    model: str
    checkpoint: str
    step: int | None


@dataclass(frozen=True, slots=True)
class Layer:
    """A tensor that can be captured.

    Attributes
    ----------
    name : str
        Of the tensor in the model.
    op_type : str
        Operator that computes it, such as ``Conv``.
    depth : int
        Position among all layers of the model, in the order of computation.
    dims : tuple of str
        Of the model's tensor; the zoo has channels last.
    """

    name: str
    op_type: str
    depth: int
    dims: tuple[str, ...]


@dataclass(frozen=True)
class _Network:
    """A model with all its tensors as outputs."""

    path: str
    graph: Any
    session: Any
    types: Mapping[str, str]

    @property
    def inputs(self) -> list[str]:
        return [entry.name for entry in self.session.get_inputs()]

    @property
    def readable(self) -> list[str]:
        return [name for name, kind in self.types.items() if kind in DTYPES]

    def run(self, tensors: Sequence[str], feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        try:
            return dict(zip(tensors, self.session.run(tensors, feeds), strict=True))
        except Exception as error:
            shapes = {name: array.shape for name, array in feeds.items()}
            reason = str(error).strip()
            raise CaptureError(
                f"ONNX Runtime cannot run {self.path!r} on inputs of shape {shapes}: {reason}. Do they fit the model? "
                f"If it computes with a fixed batch size inside, export it again with a dynamic batch axis"
            ) from error


@dataclass(frozen=True)
class _Survey:
    """What a model computes, seen from running it on two and on three examples."""

    layers: list[Layer]
    skipped: dict[str, str]
    hidden: dict[str, list[str]]
    nbytes_per_example: int


def name_checkpoints(
    model_paths: Iterable[str | os.PathLike[str]],
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    pattern: str | None = None,
) -> list[Checkpoint]:
    """Names for model files: the model is the file's folder, the checkpoint its stem, the step the number in it.

    Parameters
    ----------
    model_paths : iterable of paths
    model, checkpoint : str, optional
        Instead of the folder, and of the stem.
    pattern : str, optional
        How the end of a path spells names, such as ``"{model}-epoch{step}"``: ``{model}`` and ``{checkpoint}`` stand
        for text within one part of the path, ``{step}`` for a number. The file's suffix may be left out.

    Returns
    -------
    list of Checkpoint

    Raises
    ------
    CaptureError
        Where two files would have the same name, or two checkpoints of a model the same step; where a path does not
        follow the pattern.

    Examples
    --------
    >>> name_checkpoints(["zoo/resnet-s0/step00100.onnx"])
    [Checkpoint(path='zoo/resnet-s0/step00100.onnx', model='resnet-s0', checkpoint='step00100', step=100)]
    >>> name_checkpoints(["zoo/vit-7.onnx"], pattern="{model}-{step}")
    [Checkpoint(path='zoo/vit-7.onnx', model='vit', checkpoint='vit-7', step=7)]
    """
    named: list[Checkpoint] = []
    taken: dict[tuple[str, str, str | int], str] = {}
    for path in model_paths:
        spelled = {} if pattern is None else _spelled(Path(path).absolute(), pattern)
        owner = model or spelled.get("model") or Path(path).absolute().parent.name
        name = checkpoint or spelled.get("checkpoint") or Path(path).stem
        # Of several numbers, as in "resnet18-step200-acc97", the one that follows the word.
        numbers = re.findall(r"(?:step|iter|epoch)\D?(\d+)", name) or re.findall(r"\d+", name)
        found = spelled.get("step") or (numbers[-1] if numbers else None)
        step = None if found is None else int(found)
        for kind, key in (("checkpoint", name), ("step", step)):
            if key is None:
                continue
            if (owner, kind, key) in taken:
                raise CaptureError(
                    f"{taken[owner, kind, key]!r} and {str(path)!r} would both be {kind} {key!r} of model {owner!r}. "
                    f"Rename one, keep the models in folders of their own, or capture them one by one under names you "
                    f"give"
                )
            taken[owner, kind, key] = str(path)
        named.append(Checkpoint(str(path), owner, name, step))
    return named


def _spelled(path: Path, pattern: str) -> dict[str, str]:
    """Parts of a path that the fields of a pattern stand for."""
    fields = {"{model}": "(?P<model>[^/]+)", "{checkpoint}": "(?P<checkpoint>[^/]+)", "{step}": r"(?P<step>\d+)"}
    pieces = re.split(r"(\{[^}]*\})", pattern)
    used = pieces[1::2]
    if not used or set(used) - fields.keys() or len(set(used)) < len(used):
        raise CaptureError(
            f"{pattern!r} is no pattern of names: it has some of {{model}}, {{checkpoint}} and {{step}}, each once, as "
            f"in '{{model}}/epoch{{step}}'"
        )
    expression = "".join(fields.get(piece) or re.escape(piece) for piece in pieces)
    found = re.search(rf"(?:^|/){expression}(?:{re.escape(path.suffix)})?$", path.as_posix())
    if found is None:
        raise CaptureError(f"{str(path)!r} does not end as {pattern!r} says. Change the pattern, or leave the file out")
    return found.groupdict()


def input_names(model_path: str | os.PathLike[str]) -> list[str]:
    """Names of the inputs of a model, which are the arrays a file of examples must have."""
    graph = _load(model_path).graph
    # Old models list their weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    return [entry.name for entry in graph.input if entry.name not in weights]


def list_layers(
    model_path: str | os.PathLike[str],
    pattern: str | Sequence[str] | None = None,
    *,
    inputs_path: str | os.PathLike[str] | None = None,
) -> list[Layer]:
    """Layers of a model that can be captured.

    These are the floating tensors its operators compute, with the examples along the first axis, of up to five axes.
    Left out are those that repeat another through ``Identity``, ``Dropout`` or a reshape, and those that do not depend
    on the input. The model is run on a few examples to see which axis follows their number.

    Parameters
    ----------
    model_path : path
        Of an ONNX file.
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
        Where there are none, saying why: a fixed batch size, or layers inside an ``If``, ``Loop`` or ``Scan``.
    ImportError
        Without the extra ``onnx``.
    """
    network = _open(model_path)
    if inputs_path is None:
        feeds = {
            entry.name: np.zeros(
                (3, *(size if isinstance(size, int) else OPEN_AXIS for size in entry.shape[1:])), dtype
            )
            for entry in network.session.get_inputs()
            if (dtype := DTYPES.get(entry.type))
        }
    else:
        feeds = load_inputs(inputs_path).feeds(network.inputs)
    _check_feeds(network, feeds)
    return _choose(network, _survey(network, feeds), pattern)


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
        As in `name_checkpoints`.
    layers : str or sequence of str, optional
        As in `list_layers`; all by default.
    batch_size : int, optional
        Examples computed at a time; by default as many as keep all tensors of the model within 64 MB.
    compression : {"lz4", "zstd", "none"}
        Of the stored activations.
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
    ImportError
        Without the extra ``onnx``.
    """
    started = time.perf_counter()
    if batch_size is not None and batch_size < 1:
        raise CaptureError(f"batch_size must be at least 1, or None for a size that fits; got {batch_size}")
    (named,) = name_checkpoints([model_path], model=model, checkpoint=checkpoint)
    inputs = load_inputs(inputs_path)
    network = _open(model_path)
    feeds = inputs.feeds(network.inputs)
    _check_feeds(network, feeds)
    survey = _survey(network, feeds)
    chosen = _choose(network, survey, layers)
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
                    step=named.step if step is None else step,
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


def _load(path: str | os.PathLike[str]) -> Any:
    onnx = require("onnx", "onnx")
    try:
        # ONNX Runtime reads weights in files of their own by itself.
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise CaptureError(f"cannot read {str(path)!r} as an ONNX model: {error}") from error
    if model.functions:
        model = require("onnx.inliner", "onnx").inline_local_functions(model)
    return model


def _open(path: str | os.PathLike[str]) -> _Network:
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    model = _load(path)
    exposed = {tensor.name for tensor in model.graph.output}
    for node in model.graph.node:
        for tensor in node.output:
            if tensor and tensor not in exposed:
                # ONNX Runtime infers the type.
                model.graph.output.append(onnx.ValueInfoProto(name=tensor))
                exposed.add(tensor)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Each tensor shall be what the file says, whichever others are captured with it: nothing fused or reordered.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Fatal only: what goes wrong is raised.
    options.log_severity_level = 4
    folder = str(Path(path).absolute().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CaptureError(f"ONNX Runtime cannot load {str(path)!r}: {error}") from error
    types = {entry.name: entry.type for entry in session.get_outputs()}
    return _Network(str(path), model.graph, session, types)


def _check_feeds(network: _Network, feeds: Feeds) -> None:
    for entry in network.session.get_inputs():
        if not entry.shape or isinstance(entry.shape[0], int):
            raise CaptureError(
                f"input {entry.name!r} of {network.path!r} has the fixed batch size of its shape {entry.shape}. Export "
                f"the model again with a dynamic batch axis; for torch.onnx.export: "
                f"dynamic_shapes=({{0: torch.export.Dim('batch')}},)"
            )
        if entry.name not in feeds:
            raise CaptureError(
                f"input {entry.name!r} of {network.path!r} is {entry.type}, for which zeros cannot be made up. Give a "
                f"file of inputs"
            )
        array = feeds[entry.name]
        expected = DTYPES.get(entry.type)
        if expected is not None and array.dtype != expected:
            raise CaptureError(
                f"input {entry.name!r} of {network.path!r} is {expected}, the array given for it {array.dtype}. Scale "
                f"it as for training, and save it with .astype({expected!r})"
            )
        fits = len(array.shape) == len(entry.shape) and all(
            size == wanted for size, wanted in zip(array.shape, entry.shape, strict=True) if isinstance(wanted, int)
        )
        if not fits:
            raise CaptureError(
                f"input {entry.name!r} of {network.path!r} has shape {entry.shape}, the array given for it "
                f"{array.shape}. Save it with the axes the model takes"
            )


def _check_examples(zoo: Zoo, inputs: Inputs, network: _Network) -> None:
    ids = [str(value) for value in inputs.ids(network.inputs).tolist()]
    expected = [str(value) for value in zoo.examples.tolist()]
    if ids == expected:
        return
    row = next((row for row, pair in enumerate(zip(ids, expected, strict=False)) if len(set(pair)) == 2), None)
    where = "" if row is None else f"; the first to differ, at {row}, is {ids[row]!r} there and {expected[row]!r} here"
    hashed = "" if IDS in inputs.arrays else f" (ids are hashes of {listing(network.inputs)}, for want of {IDS!r})"
    raise MismatchedExamplesError(
        f"{inputs.path!r} has {len(ids)} examples{hashed}, the zoo at {str(zoo.root.store_path)!r} {len(expected)}"
        f"{where}. Capture with the examples the zoo was made for, or to a zoo of its own"
    )


def _batches(feeds: Feeds, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    examples = len(next(iter(feeds.values())))
    for start in range(0, examples, size):
        yield {name: np.ascontiguousarray(array[start : start + size]) for name, array in feeds.items()}


def _survey(network: _Network, feeds: Feeds) -> _Survey:
    """Run on two and on three examples: an axis that follows both is the batch axis, whatever its name."""
    two, three = (
        network.run(network.readable, {name: array[np.arange(count) % len(array)] for name, array in feeds.items()})
        for count in (2, 3)
    )
    layers: list[Layer] = []
    skipped: dict[str, str] = {}
    varying = _varying(network)
    channel_axes = _channel_axes(network, {tensor: array.ndim for tensor, array in two.items()})
    known = set(network.inputs)
    for node in network.graph.node:
        if node.op_type in REPEATING and node.input[0] in known:
            known.add(node.output[0])
        for tensor in node.output:
            if tensor not in varying or tensor in known:
                continue
            kind = network.types[tensor]
            if kind not in DTYPES:
                skipped[tensor] = f"it is {kind}"
                continue
            axes = _axes(two[tensor], three[tensor], channel_axes.get(tensor))
            if isinstance(axes, str):
                skipped[tensor] = axes
                continue
            layers.append(Layer(tensor, node.op_type, len(layers), axes))
            known.add(tensor)
    hidden = {
        f"{node.op_type} node {node.name or node.output[0]!r}": inside
        for node in network.graph.node
        if (inside := _tensors_inside(node))
    }
    skipped |= {node: f"no output can be attached inside, to {listing(inside)}" for node, inside in hidden.items()}
    return _Survey(layers, skipped, hidden, sum(array.nbytes for array in two.values()) // 2)


def _axes(two: npt.NDArray[Any], three: npt.NDArray[Any], channel_axis: int | None) -> tuple[str, ...] | str:
    """Names of the axes of a tensor, or why it cannot be a layer; from its values for two and for three examples."""
    if two.dtype.kind != "f":
        return f"it is {two.dtype}"
    if two.shape[:1] != (2,) or three.shape != (3, *two.shape[1:]):
        return f"its first axis is not the examples: shape {two.shape} for two, {three.shape} for three"
    if two.size == 0:
        return f"it is empty: shape {two.shape}"
    return dims_of(two.shape, channel_axis) or f"its {two.ndim} axes have no names: shape {two.shape}"


def _varying(network: _Network) -> set[str]:
    """Tensors that depend on the values of the input, and not only on its shape."""
    varying = set(network.inputs)
    for node in network.graph.node:
        # A body may use tensors from outside without naming them as inputs.
        if _tensors_inside(node) or (node.op_type not in {"Shape", "Size"} and varying.intersection(node.input)):
            varying.update(node.output)
    return varying - {""}


def _channel_axes(network: _Network, ndims: Mapping[str, int]) -> dict[str, int]:
    """Where the channels of feature maps are: first behind convolutions, and wherever a transposition takes them."""
    axes: dict[str, int] = {}
    for node in network.graph.node:
        tensor = node.output[0]
        ndim = ndims.get(tensor, 0)
        inherited = [axes[source] for source in node.input if source in axes and ndims[source] == ndim]
        if node.op_type in CHANNELS_FIRST and ndim >= 3:
            axes[tensor] = 1
        elif node.op_type == "Transpose" and inherited:
            order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
            axes[tensor] = (order or list(reversed(range(ndim)))).index(inherited[0])
        elif node.op_type not in RESHAPING and inherited:
            axes[tensor] = inherited[0]
    return axes


def _tensors_inside(node: Any) -> list[str]:
    """Tensors computed in the bodies of an ``If``, ``Loop`` or ``Scan``."""
    bodies = [body for attribute in node.attribute for body in (attribute.g, *attribute.graphs)]
    inner = [node for body in bodies for node in body.node]
    own = [tensor for node in inner if node.op_type != "Constant" for tensor in node.output if tensor]
    return own + [tensor for node in inner for tensor in _tensors_inside(node)]


def _choose(network: _Network, survey: _Survey, patterns: str | Sequence[str] | None) -> list[Layer]:
    names = [layer.name for layer in survey.layers]
    hidden = [f"inside {node}: {listing(inside)}" for node, inside in survey.hidden.items()]
    explained = (
        f" It has tensors where no output can be attached, {'; '.join(hidden)}. Export it again without the control "
        f"flow, for example with its condition a constant"
        if hidden
        else ""
    )
    if patterns is None and all(layer.op_type in CONTROL_FLOW for layer in survey.layers):
        reasons = Counter(reason.split(":")[0] for reason in survey.skipped.values())
        why = explained or "".join(f" {count} tensors: {reason}." for reason, count in reasons.most_common())
        outputs = f", or choose what comes out of it with layers={','.join(names)!r}" if names else ""
        raise CaptureError(f"{network.path!r} has no layers that can be captured.{why}{outputs}")
    chosen = set(select(names, patterns))
    if not chosen:
        raise CaptureError(f"no layer of {network.path!r} matches {patterns!r}; it has {listing(names)}.{explained}")
    return [layer for layer in survey.layers if layer.name in chosen]
