"""Which tensors of a model are layers, what their axes are, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import dims_of, listing, select
from dask_svcca.capture.onnx.network import DTYPES
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.capture.onnx.network import Feeds, Network

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
class Layer:
    """A tensor that can be captured.

    Attributes
    ----------
    name : str
        Name of the tensor in the model.
    op_type : str
        Operator that computes it, such as ``Conv``.
    depth : int
        Position among all layers of the model, in the order of computation.
    dims : tuple of str
        Axes of the model's tensor; the zoo has channels last.
    """

    name: str
    op_type: str
    depth: int
    dims: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """What a model computes, seen from running it on two and on three examples.

    Attributes
    ----------
    path : str
    layers : list of Layer
        In the order of computation.
    skipped : dict of str to str
        Tensors that cannot be layers, and why.
    hidden : dict of str to list of str
        Nodes of control flow, and the tensors inside, which ONNX Runtime does not hand out.
    nbytes_per_example : int
        Size of all tensors that can be read.
    """

    path: str
    layers: list[Layer]
    skipped: dict[str, str]
    hidden: dict[str, list[str]]
    nbytes_per_example: int

    def choose(self, patterns: str | Sequence[str] | None) -> list[Layer]:
        """Layers whose names match; all of them without patterns.

        Raises
        ------
        CaptureError
            Where there are no such layers, saying where the model's tensors are.
        """
        names = [layer.name for layer in self.layers]
        hidden = [f"inside {node}: {listing(inside)}" for node, inside in self.hidden.items()]
        explained = (
            f" It has tensors where no output can be attached, {'; '.join(hidden)}. Export it again without the "
            f"control flow, for example with its condition a constant"
            if hidden
            else ""
        )
        if patterns is None and all(layer.op_type in CONTROL_FLOW for layer in self.layers):
            reasons = Counter(reason.split(":")[0] for reason in self.skipped.values())
            why = explained or "".join(f" {count} tensors: {reason}." for reason, count in reasons.most_common())
            outputs = f", or choose what comes out of it with layers={','.join(names)!r}" if names else ""
            raise CaptureError(f"{self.path!r} has no layers that can be captured.{why}{outputs}")
        chosen = set(select(names, patterns))
        if not chosen:
            raise CaptureError(f"no layer of {self.path!r} matches {patterns!r}; it has {listing(names)}.{explained}")
        return [layer for layer in self.layers if layer.name in chosen]


def survey_network(network: Network, feeds: Feeds) -> Survey:
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
    return Survey(network.path, layers, skipped, hidden, sum(array.nbytes for array in two.values()) // 2)


def _axes(two: npt.NDArray[Any], three: npt.NDArray[Any], channel_axis: int | None) -> tuple[str, ...] | str:
    """Names of the axes of a tensor, or why it cannot be a layer; from its values for two and for three examples."""
    if two.dtype.kind != "f":
        return f"it is {two.dtype}"
    if two.shape[:1] != (2,) or three.shape != (3, *two.shape[1:]):
        return f"its first axis is not the examples: shape {two.shape} for two, {three.shape} for three"
    if two.size == 0:
        return f"it is empty: shape {two.shape}"
    return dims_of(two.shape, channel_axis) or f"its {two.ndim} axes have no names: shape {two.shape}"


def _varying(network: Network) -> set[str]:
    """Tensors that depend on the values of the input, and not only on its shape."""
    varying = set(network.inputs)
    for node in network.graph.node:
        # A body may use tensors from outside without naming them as inputs.
        if _tensors_inside(node) or (node.op_type not in {"Shape", "Size"} and varying.intersection(node.input)):
            varying.update(node.output)
    return varying - {""}


def _channel_axes(network: Network, ndims: Mapping[str, int]) -> dict[str, int]:
    """Axis of the channels of each feature map: 1 after convolutions, and wherever a transposition moves it."""
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
