"""A model file, opened so that ONNX Runtime hands out every tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.capture._common import require
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True)
class Network:
    """A model with all its tensors as outputs.

    Attributes
    ----------
    path : str
    graph : onnx.GraphProto
    session : onnxruntime.InferenceSession
    types : mapping of str to str
        Name of a tensor to its type, as ONNX Runtime calls it.
    """

    path: str
    graph: Any
    session: Any
    types: Mapping[str, str]

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [entry.name for entry in self.session.get_inputs()]

    @property
    def readable(self) -> list[str]:
        """Names of the tensors that have a NumPy array."""
        return [name for name, kind in self.types.items() if kind in DTYPES]

    def zeros(self, examples: int) -> dict[str, npt.NDArray[Any]]:
        """Zeros as inputs for a number of examples; inputs that are not numbers are left out."""
        return {
            entry.name: np.zeros(
                (examples, *(size if isinstance(size, int) else OPEN_AXIS for size in entry.shape[1:])), dtype
            )
            for entry in self.session.get_inputs()
            if (dtype := DTYPES.get(entry.type))
        }

    def check(self, feeds: Feeds) -> None:
        """Refuse a fixed batch size, and inputs of another type or shape than the model's.

        Raises
        ------
        CaptureError
        """
        for entry in self.session.get_inputs():
            if not entry.shape or isinstance(entry.shape[0], int):
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} has the fixed batch size of its shape {entry.shape}. "
                    f"Export the model again with a dynamic batch axis; for torch.onnx.export: "
                    f"dynamic_shapes=({{0: torch.export.Dim('batch')}},)"
                )
            if entry.name not in feeds:
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} is {entry.type}, for which zeros cannot be made up. Give a "
                    f"file of inputs"
                )
            array = feeds[entry.name]
            expected = DTYPES.get(entry.type)
            if expected is not None and array.dtype != expected:
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} is {expected}, and the array given for it is "
                    f"{array.dtype}. Scale it as for training, and save it with .astype({expected!r})"
                )
            fits = len(array.shape) == len(entry.shape) and all(
                size == wanted for size, wanted in zip(array.shape, entry.shape, strict=True) if isinstance(wanted, int)
            )
            if not fits:
                raise CaptureError(
                    f"input {entry.name!r} of {self.path!r} has shape {entry.shape}, and the array given for it has "
                    f"shape {array.shape}. Save it with the axes the model takes"
                )

    def run(self, tensors: Sequence[str], feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """Values of some tensors.

        Raises
        ------
        CaptureError
            Where ONNX Runtime cannot compute them from these inputs.
        """
        try:
            return dict(zip(tensors, self.session.run(tensors, feeds), strict=True))
        except Exception as error:
            shapes = {name: array.shape for name, array in feeds.items()}
            reason = str(error).strip()
            raise CaptureError(
                f"ONNX Runtime cannot run {self.path!r} on inputs of shape {shapes}: {reason}. Do they fit the model? "
                f"If it computes with a fixed batch size inside, export it again with a dynamic batch axis"
            ) from error


def input_names(model_path: str | os.PathLike[str]) -> list[str]:
    """Names of the inputs of a model, which are the arrays a file of examples must have."""
    graph = _load(model_path).graph
    # Old models list their weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    return [entry.name for entry in graph.input if entry.name not in weights]


def open_network(path: str | os.PathLike[str]) -> Network:
    """Open a model with all its tensors as outputs, each computed as the file says.

    Raises
    ------
    CaptureError
        Where the file is not a model, or ONNX Runtime cannot load it.
    MissingPackageError
        Without the extra ``onnx``.
    """
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
    # Each tensor must be what the file says, whichever others are captured with it: nothing fused or reordered.
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
    return Network(str(path), model.graph, session, types)


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
