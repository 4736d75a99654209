"""Which tensors of a model are layers, what their axes are, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import check_layers, listing, select
from dask_svcca.capture.onnx.axes import Axes, given_axes, layer_names
from dask_svcca.capture.onnx.network import DTYPES, count_examples, rows_of
from dask_svcca.errors import CaptureError
from dask_svcca.patterns import matches, matching, unmatched

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.capture.onnx.network import Feeds, Network

REPEATING = frozenset({"DequantizeLinear", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose first output has the values of their first input, in the same order."""

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})

COARSEST = ("float8_e5m2", "float8_e4m3fn", "bfloat16", "float16", "float32", "float64")

NOT_EXAMPLES = "its first axis is not the examples"

LOOKED_AT = 32
"""Examples of which a tensor is looked at before it is said not to depend on them."""

SAME = 1e-2
"""Relative difference up to which two values of a tensor for one example are the same, in half precision too."""


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
        Axes of the model's tensor. The zoo has channels last, and heads as neurons of their token.
    source_dtype : str or None
        Floating type in which it is computed, where that is coarser than the type in which it is read.
    shape : tuple of int
        Lengths of the axes behind the examples.
    """

    name: str
    op_type: str
    depth: int
    dims: tuple[str, ...]
    source_dtype: str | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What a model computes, seen from running it on a few examples.

    Attributes
    ----------
    network : Network
        As it is to be run: one example at a time, where it takes no more.
    layers : list of Layer
        In the order of computation.
    skipped : dict of str to str
        Tensors that cannot be layers, and why.
    hidden : dict of str to list of str
        Nodes of control flow, and the tensors inside, which ONNX Runtime does not hand out.
    nbytes_per_example : int
        Size of all tensors that can be read.
    quantised : frozenset of str
        Tensors that are computed from quantised values of the examples.
    """

    network: Network
    layers: list[Layer]
    skipped: dict[str, str]
    hidden: dict[str, list[str]]
    nbytes_per_example: int
    quantised: frozenset[str] = frozenset()

    def choose(self, patterns: str | Sequence[str] | None) -> list[Layer]:
        """Layers whose names match; all of them without patterns.

        Raises
        ------
        CaptureError
            Where there are no such layers, or a pattern matches none, saying where the model's tensors are.
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
            raise CaptureError(f"{self.network.path!r} has no layers that can be captured.{why}{outputs}")
        left = matching(self.skipped, unmatched(names, patterns or ()))[:3]
        left_out = "".join(f" {name!r} is left out: {self.skipped[name]}." for name in left)
        check_layers(names, patterns, repr(self.network.path), f"{left_out}{explained}")
        chosen = set(select(names, patterns))
        if not chosen:
            raise CaptureError(
                f"layers={patterns!r} chooses no layer of {self.network.path!r}; it has {listing(names)}.{explained}"
            )
        return [layer for layer in self.layers if layer.name in chosen]


def survey_network(network: Network, feeds: Feeds, dims: Mapping[str, Sequence[str]] | None = None) -> Survey:
    """Run on a few examples in two orders, and see which tensors have one entry for each of them.

    A model that takes one example at a time only is run so.

    Parameters
    ----------
    network : Network
    feeds : mapping of str to array
    dims : mapping of str to sequence of str, optional
        Names of the axes of tensors, by patterns of their names, where the operators do not say them.

    Raises
    ------
    CaptureError
        Where the model cannot be run, or ``dims`` are not valid.
    """
    axes = given_axes(dims)
    one_by_one = replace(network, batch=1)
    try:
        survey = _survey(network, feeds, axes)
    except CaptureError:
        if network.batch is not None:
            raise
        try:
            return _survey(one_by_one, feeds, axes)
        except CaptureError:
            # The reason why it cannot be run on several is the one to hear.
            pass
        raise
    if network.batch is not None or not any(
        survey.skipped.get(name, "").startswith(NOT_EXAMPLES) for name in network.outputs
    ):
        return survey
    try:
        alone = _survey(one_by_one, feeds, axes)
    except CaptureError:
        return survey
    return alone if len(alone.layers) > len(survey.layers) else survey


def _survey(network: Network, feeds: Feeds, dims: Mapping[str, Sequence[str]]) -> Survey:
    count = count_examples(feeds)
    orders = [np.array(order) % count for order in _orders(network.batch, count)]
    runs = [network.run_once(network.readable, rows_of(feeds, order)) for order in orders]
    layers: list[Layer] = []
    skipped: dict[str, str] = {}
    varying = _varying(network)
    shapes = {name: array.shape for name, array in {**rows_of(feeds, orders[0]), **runs[0]}.items()}
    axes = Axes(network.graph, shapes, varying)
    precisions = _precisions(network, varying)
    mixing = any(node.op_type == "DynamicQuantizeLinear" for node in network.graph.node)
    constant = _always_the_same(network, feeds, runs)
    known = set(network.inputs)
    for node in network.graph.node:
        if _repeats(node, axes, network.types) and node.input[0] in known and node.op_type not in CONTROL_FLOW:
            known.add(node.output[0])
        for tensor in node.output:
            if tensor not in varying or tensor in known:
                continue
            kind = network.types.get(tensor, "not computed")
            if kind not in DTYPES:
                skipped[tensor] = f"it is {kind}"
                continue
            first, second = (run[tensor] for run in runs)
            problem = _problem(first, second, orders, dynamic=mixing)
            if not problem and tensor in constant:
                problem = (
                    "it is the same for every example: computed over the examples of a batch, which here is one, or "
                    "always constant"
                )
            given = next((names for pattern, names in dims.items() if matches(tensor, pattern)), None)
            names = layer_names(axes[tensor], first.shape, node.op_type, given)
            if problem or isinstance(names, str):
                skipped[tensor] = problem or str(names)
                continue
            precision = precisions.get(tensor)
            layers.append(Layer(tensor, node.op_type, len(layers), names, precision, first.shape[1:]))
            known.add(tensor)
    hidden = {
        f"{node.op_type} node {node.name or node.output[0]!r}": inside
        for node in network.graph.node
        if (inside := _tensors_inside(node))
    }
    skipped |= {node: f"no output can be attached inside, to {listing(inside)}" for node, inside in hidden.items()}
    nbytes = sum(array.nbytes for array in runs[0].values()) // len(orders[0])
    return Survey(network, layers, skipped, hidden, nbytes, _quantised(network, varying))


def _orders(batch: int | None, count: int) -> tuple[list[int], list[int]]:
    """Examples of two runs: in another order, in another number or, where that is fixed, in other company.

    Examples
    --------
    >>> _orders(None, 9), _orders(4, 9)
    (([0, 1], [1, 2, 0]), ([0, 1, 2, 3], [3, 3, 3, 0]))
    """
    if batch is None:
        return [0, 1], [1, 2, 0]
    if batch == 1:
        return [0], [1]
    # What is computed over the examples of a batch does not change where they only change places.
    others = batch // 2 + 1
    return [*range(batch)], [min(batch, count) - 1] * others + [0] * (batch - others)


def _always_the_same(network: Network, feeds: Feeds, runs: Sequence[Feeds]) -> list[str]:
    """Tensors that do not depend on the example, of a model that takes one at a time.

    What is computed over the examples of a batch, such as a softmax along them, is constant for a batch of one.
    """
    if network.batch != 1:
        return []
    rows = rows_of(feeds, slice(0, LOOKED_AT))
    if all(not array.ndim or np.array_equal(array, np.broadcast_to(array[:1], array.shape)) for array in rows.values()):
        return []
    first, second = runs
    same = [
        name
        for name, array in first.items()
        if array.dtype.kind == "f" and np.array_equal(array, second[name], equal_nan=True)
    ]
    for row in range(2, count_examples(rows)):
        if same:
            run = network.run_once(same, rows_of(rows, slice(row, row + 1)))
            same = [name for name in same if np.array_equal(first[name], run[name], equal_nan=True)]
    return same


def _problem(
    first: npt.NDArray[Any], second: npt.NDArray[Any], orders: Sequence[npt.NDArray[Any]], *, dynamic: bool
) -> str:
    """Why a tensor cannot be a layer, from its values in two runs."""
    counts = tuple(map(len, orders))
    if first.dtype.kind != "f":
        return f"it is {first.dtype}"
    if first.shape[:1] != counts[:1] or second.shape != (counts[1], *first.shape[1:]):
        words = {1: "one", 2: "two", 3: "three"}
        if counts[0] == counts[1]:
            return f"{NOT_EXAMPLES}: shapes {first.shape} and {second.shape} for {words.get(counts[0], counts[0])}"
        return f"{NOT_EXAMPLES}: shape {first.shape} for two, {second.shape} for three"
    if first.size == 0:
        return f"it is empty: shape {first.shape}"
    # Scales that are computed from all examples of a batch move values by a rounding.
    if counts[0] > 1 and not dynamic:
        places = [(i, int(np.flatnonzero(orders[1] == row)[0])) for i, row in enumerate(orders[0]) if row in orders[1]]
        a, b = (run[[pair[side] for pair in places]].astype(np.float64) for side, run in enumerate((first, second)))
        finite = np.isfinite(a) & np.isfinite(b)
        if np.linalg.norm(a[finite] - b[finite]) > SAME * np.linalg.norm(a[finite]):
            return (
                "its values for an example depend on the other examples, or change from run to run: is its first axis "
                "something else, such as time?"
            )
    return ""


def _repeats(node: Any, axes: Axes, types: Mapping[str, str]) -> bool:
    """Whether the first output has the values of the first input, for a zoo, where channels are last in any case."""
    if node.op_type == "Transpose":
        return axes[node.input[0]] is not None and axes[node.output[0]] is not None
    if node.op_type == "Cast":
        return types.get(node.input[0]) == types.get(node.output[0])
    return node.op_type in REPEATING


def _precisions(network: Network, varying: Container[str]) -> dict[str, str]:
    """Coarsest floating type on the way to each tensor, where it is coarser than that in which it is stored."""
    found: dict[str, str] = {}
    for node in network.graph.node:
        coming = [found[name] for name in node.input if name in found]
        for tensor in node.output:
            kind = network.types.get(tensor, "")
            own = network.precisions.get(tensor) or {"tensor(float16)": "float16", "tensor(float)": "float32"}.get(kind)
            if tensor in varying and (own or coming):
                coarse = min([*coming, *([own] if own else [])], key=COARSEST.index)
                found[tensor] = coarse
    stored = {tensor: DTYPES.get(kind) for tensor, kind in network.types.items()}
    return {
        tensor: name
        for tensor, name in found.items()
        if stored.get(tensor) in COARSEST and COARSEST.index(name) < COARSEST.index(str(stored[tensor]))
    }


def _quantised(network: Network, varying: Container[str]) -> frozenset[str]:
    """Tensors that come from quantised activations; weights that are quantised alone round none of them."""
    found: set[str] = set()
    for node in network.graph.node:
        if node.op_type.startswith("QLinear") or "QuantizeLinear" in node.op_type or found.intersection(node.input):
            found.update(tensor for tensor in node.output if tensor in varying)
    return frozenset(found)


def _varying(network: Network) -> set[str]:
    """Tensors that depend on the values of the input, and not only on its shape."""
    varying = set(network.inputs)
    for node in network.graph.node:
        # A body may use tensors from outside without naming them as inputs.
        if _tensors_inside(node) or (node.op_type not in {"Shape", "Size"} and varying.intersection(node.input)):
            varying.update(node.output)
    return varying - {""}


def _tensors_inside(node: Any) -> list[str]:
    """Tensors computed in the bodies of an ``If``, ``Loop`` or ``Scan``."""
    bodies = [body for attribute in node.attribute for body in (attribute.g, *attribute.graphs)]
    inner = [node for body in bodies for node in body.node]
    own = [tensor for node in inner if node.op_type != "Constant" for tensor in node.output if tensor]
    return own + [tensor for node in inner for tensor in _tensors_inside(node)]
