"""A model file, opened so that ONNX Runtime hands out every tensor."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.capture._common import require, weights_digest
from dask_svcca.capture._inputs import STATE
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]

OPEN_AXIS = 16
"""Length given to axes the model leaves open, where there are no inputs to look at."""

# Other types (bfloat16, text, sequences) have no NumPy array.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "bool", "int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}

NARROW = {
    "tensor(bfloat16)": "bfloat16",
    "tensor(float8e4m3fn)": "float8_e4m3fn",
    "tensor(float8e5m2)": "float8_e5m2",
}
"""Floating types without a NumPy array, which are read as float32, and what they are called."""

QUANTISING = {"QLinearConv": (6, 7), "QLinearMatMul": (6, 7), "QLinearAdd": (6, 7)}
"""Operators that give integers for numbers, and where among their inputs the scale and the zero point are."""


@dataclass(frozen=True)
class Network:
    """A model with all its tensors as outputs.

    Attributes
    ----------
    path : str
    graph : onnx.GraphProto
    session : onnxruntime.InferenceSession
    types : mapping of str to str
        Name of a tensor to its type, as ONNX Runtime calls it; ``tensor(float)`` for what is read as such.
    read_as : mapping of str to str
        Tensors without a NumPy array of numbers, and the output that is read instead.
    precisions : mapping of str to str
        Floating type in which a tensor is computed, where that is not the type in which it is read.
    batch : int or None
        Number of examples that the model takes at a time, where it takes no other.
    weights_digest : str
        Tells models of other weights apart.
    outputs : tuple of str
        Names of the outputs that the model has by itself.
    """

    path: str
    graph: Any
    session: Any
    types: Mapping[str, str]
    read_as: Mapping[str, str] = field(default_factory=dict)
    precisions: Mapping[str, str] = field(default_factory=dict)
    batch: int | None = None
    weights_digest: str = ""
    outputs: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [entry.name for entry in self.session.get_inputs()]

    @property
    def states(self) -> list[str]:
        """Names of the inputs that are zeros where the examples have none: states that a model starts from."""
        entries = self.session.get_inputs()
        return [entry.name for entry in entries[1:] if "float" in entry.type and STATE.search(entry.name)]

    @property
    def readable(self) -> list[str]:
        """Names of the tensors that have a NumPy array."""
        return [name for name, kind in self.types.items() if kind in DTYPES]

    def zeros(self, examples: int) -> dict[str, npt.NDArray[Any]]:
        """Zeros as inputs for a number of examples; inputs that are not numbers are left out."""
        return {
            entry.name: np.zeros(
                (examples, *(size if isinstance(size, int) else OPEN_AXIS for size in entry.shape[1:]))
                if entry.shape
                else (),
                dtype,
            )
            for entry in self.session.get_inputs()
            if (dtype := DTYPES.get(entry.type)) and entry.name not in self.states
        }

    def check(self, feeds: Feeds) -> None:
        """Refuse inputs of another type or shape than the model's.

        Raises
        ------
        CaptureError
        """
        for entry in self.session.get_inputs():
            if entry.name not in feeds:
                if entry.name in self.states:
                    continue
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} is {entry.type}, for which zeros cannot be made up. Give a "
                    f"file of inputs"
                )
            array = feeds[entry.name]
            expected = DTYPES.get(entry.type)
            if expected is not None and array.dtype != expected:
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} is {expected}, and the array given for it is "
                    f"{array.dtype}. {_remedy(expected)}"
                )
            if not entry.shape and array.ndim:
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} is one number for all examples, and the array given for it "
                    f"has shape {array.shape}. Save it as one number, np.savez(file, {entry.name}=0, ...); a model "
                    f"without an axis of examples among its inputs cannot be captured"
                )
            fits = len(array.shape) == len(entry.shape) and all(
                size == wanted
                for size, wanted in list(zip(array.shape, entry.shape, strict=True))[1:]
                if isinstance(wanted, int)
            )
            if not fits:
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} has shape {entry.shape}, and the array given for it has "
                    f"shape {array.shape}. Save it with the axes the model takes"
                )
        sizes = {name: size for name, size in fixed_sizes(self.session).items() if name not in self.states}
        if len(set(sizes.values())) > 1:
            raise CaptureError(
                f"the inputs of {self.path!r} take different fixed numbers of examples: {sizes}. Export the model "
                f"again with a dynamic batch axis"
            )

    def run(self, tensors: Sequence[str], feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """Values of some tensors, for any number of examples.

        Raises
        ------
        CaptureError
            Where ONNX Runtime cannot compute them from these inputs.
        """
        if self.batch is None:
            return self.run_once(tensors, feeds)
        count = count_examples(feeds)
        parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in tensors}
        for start in range(0, count, self.batch):
            rows = np.minimum(np.arange(start, start + self.batch), count - 1)
            for name, array in self.run_once(tensors, rows_of(feeds, rows)).items():
                parts[name].append(array[: count - start])
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def run_once(self, tensors: Sequence[str], feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """Values of some tensors, for as many examples as the model takes at a time.

        Raises
        ------
        CaptureError
            Where ONNX Runtime cannot compute them from these inputs.
        """
        outputs = [self.read_as.get(name, name) for name in tensors]
        complete = {**feeds, **self._states(count_examples(feeds), feeds)}
        try:
            return dict(zip(tensors, self.session.run(outputs, complete), strict=True))
        except Exception as error:
            shapes = {name: array.shape for name, array in complete.items()}
            reason = str(error).strip()
            raise CaptureError(
                f"ONNX Runtime cannot run {self.path!r} on inputs of shape {shapes}: {reason}. Do they fit the model? "
                f"If it computes with a fixed batch size inside, export it again with a dynamic batch axis"
            ) from error

    def _states(self, count: int, feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """Zeros for the states that are not given."""
        entries = {entry.name: entry for entry in self.session.get_inputs()}
        batch_axes = {entries[name].shape[0] for name in feeds if entries[name].shape}
        return {
            name: np.zeros(
                [
                    # What is past when nothing was seen has no tokens.
                    size if isinstance(size, int) else count if size in batch_axes or size is None else 0
                    for size in entries[name].shape
                ],
                DTYPES[entries[name].type],
            )
            for name in self.states
            if name not in feeds
        }


def count_examples(feeds: Feeds) -> int:
    """Number of examples of some inputs, of which some may be one number for all."""
    return next((len(array) for array in feeds.values() if array.ndim), 0)


def rows_of(feeds: Feeds, rows: npt.NDArray[Any] | slice) -> dict[str, npt.NDArray[Any]]:
    """Inputs for some of the examples."""
    return {name: np.ascontiguousarray(array[rows]) if array.ndim else array for name, array in feeds.items()}


def fixed_sizes(session: Any) -> dict[str, int]:
    """Numbers of examples that are fixed in a model, by input."""
    return {
        entry.name: entry.shape[0] for entry in session.get_inputs() if entry.shape and isinstance(entry.shape[0], int)
    }


def _remedy(expected: str) -> str:
    if expected.startswith(("int", "uint", "bool")):
        return f"Save it with .astype({expected!r}), if that changes no value"
    return f"Scale it as for training, and save it with .astype({expected!r})"


def input_names(model_path: str | os.PathLike[str]) -> list[str]:
    """Names of the inputs of a model, which are the arrays a file of examples must have."""
    graph = _load(model_path).graph
    # Old models list their weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    return [entry.name for entry in graph.input if entry.name not in weights]


def tensor_names(model_path: str | os.PathLike[str]) -> list[str]:
    """Names of the tensors that a model computes, those inside its control flow among them."""
    return list(_computed(_load(model_path).graph))


def _computed(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield from filter(None, node.output)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _computed(body)


def open_network(path: str | os.PathLike[str], taken: Mapping[str, bool] | None = None) -> Network:
    """Open a model with all its tensors as outputs, each computed as the file says.

    Parameters
    ----------
    path : path
    taken : mapping of str to bool, optional
        Conditions of which an ``If`` is replaced by the branch that is taken.

    Raises
    ------
    CaptureError
        Where the file is not a model, or ONNX Runtime cannot load it.
    MissingPackageError
        Without the extra ``onnx``.
    """
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    model = _load(path)
    if not model.graph.node:
        raise CaptureError(f"{str(path)!r} computes nothing: its graph has no operators")
    digest = weights_digest(_weights(model.graph, Path(path).absolute().parent))
    _take_branches(onnx, model, taken or {})
    outputs = tuple(tensor.name for tensor in model.graph.output)
    exposed = set(outputs)
    for node in model.graph.node:
        for tensor in node.output:
            if tensor and tensor not in exposed:
                # ONNX Runtime infers the type.
                model.graph.output.append(onnx.ValueInfoProto(name=tensor))
                exposed.add(tensor)
    session = _session(runtime, model, path)
    types = {entry.name: entry.type for entry in session.get_outputs()}
    read_as, precisions = _read_as_floats(onnx, model, types)
    if read_as:
        session = _session(runtime, model, path)
        types |= dict.fromkeys(read_as, "tensor(float)")
    graph = model.graph
    if read_as:
        # What was added to read tensors by is not the model's.
        del graph.node[len(graph.node) - len(read_as) :]
    network = Network(str(path), graph, session, types, read_as, precisions, None, digest, outputs)
    sizes = {name: size for name, size in fixed_sizes(session).items() if name not in network.states}
    return replace(network, batch=next(iter(sizes.values()), None))


def _take_branches(onnx: Any, model: Any, taken: Mapping[str, bool]) -> None:
    """Put the nodes of the branches that are taken in the place of their ``If``, in a model that is changed."""
    graph = model.graph
    while any(node.op_type == "If" and node.input[0] in taken for node in graph.node):
        nodes = []
        for node in graph.node:
            if node.op_type != "If" or node.input[0] not in taken:
                nodes.append(node)
                continue
            name = "then_branch" if taken[node.input[0]] else "else_branch"
            branch = next(attribute.g for attribute in node.attribute if attribute.name == name)
            graph.initializer.extend(branch.initializer)
            nodes += branch.node
            nodes += [
                onnx.helper.make_node("Identity", [inner.name], [outer])
                for inner, outer in zip(branch.output, node.output, strict=True)
            ]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _session(runtime: Any, model: Any, path: str | os.PathLike[str]) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Each tensor must be what the file says, whichever others are captured with it: nothing fused or reordered.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Fatal only: what goes wrong is raised.
    options.log_severity_level = 4
    folder = str(Path(path).absolute().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CaptureError(f"ONNX Runtime cannot load {str(path)!r}: {error}") from error


def _read_as_floats(onnx: Any, model: Any, types: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Append operators that turn narrow types and quantised integers into float32."""
    read_as: dict[str, str] = {}
    precisions: dict[str, str] = {}
    added = []
    for node in model.graph.node:
        for position, tensor in enumerate(node.output):
            kind = types.get(tensor, "")
            output = f"{tensor}/float32"
            if kind in NARROW:
                added.append(onnx.helper.make_node("Cast", [tensor], [output], to=onnx.TensorProto.FLOAT))
                precisions[tensor] = NARROW[kind]
            elif node.op_type in QUANTISING and position == 0 and "int8" in kind:
                scale, *zero = (node.input[place] for place in QUANTISING[node.op_type] if place < len(node.input))
                axis = {attribute.name: attribute.i for attribute in node.attribute if attribute.name == "axis"}
                added.append(onnx.helper.make_node("DequantizeLinear", [tensor, scale, *zero], [output], **axis))
            else:
                continue
            read_as[tensor] = output
    model.graph.node.extend(added)
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in read_as.values())
    return read_as, precisions


def _load(path: str | os.PathLike[str]) -> Any:
    onnx = require("onnx", "onnx")
    try:
        # ONNX Runtime reads weights in files of their own by itself.
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise CaptureError(f"cannot read {str(path)!r} as an ONNX model: {error}") from error
    if not model.ByteSize() or not (model.graph.node or model.graph.output):
        raise CaptureError(f"cannot read {str(path)!r} as an ONNX model: it holds no graph")
    folder = Path(path).absolute().parent
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                _check_location(folder, entry.value, tensor.name, path)
            elif entry.key in {"offset", "length"} and not entry.value.isdecimal():
                raise CaptureError(
                    f"{str(path)!r} says that its weights {tensor.name!r} have the {entry.key} {entry.value!r} in "
                    f"their file: it is damaged. Export it again"
                )
    if model.functions:
        model = require("onnx.inliner", "onnx").inline_local_functions(model)
    return model


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors with values in a model: weights, those of control flow and of functions, and constants."""
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)
    yield from _tensors_of_graph(model.graph)


def _tensors_of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors_of_graph(body)


def _check_location(folder: Path, location: str, tensor: str, path: str | os.PathLike[str]) -> None:
    file = folder / location
    if not file.resolve().is_relative_to(folder.resolve()):
        raise CaptureError(
            f"{str(path)!r} has the weights {tensor!r} in {location!r}, which is outside its folder, where no file is "
            f"read. Put the weights beside the model, and export it again"
        )
    if not file.is_file():
        raise CaptureError(
            f"{str(path)!r} has the weights {tensor!r} in {location!r}, and there is no such file in {str(folder)!r}. "
            f"Copy it there: the weights of large models are in files of their own"
        )


def _weights(graph: Any, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the weights of a graph, those of constants and of files of their own among them."""
    for tensor in graph.initializer:
        yield tensor.name, tensor.SerializeToString(deterministic=True)
        external = {entry.key: entry.value for entry in tensor.external_data}
        if "location" in external:
            with (folder / external["location"]).open("rb") as file:
                file.seek(int(external.get("offset", 0)))
                yield tensor.name, file.read(int(external["length"]) if "length" in external else -1)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute:
            yield node.output[0], node.attribute[0].SerializeToString(deterministic=True)
