"""What the axes of a model's tensors are: said by its operators, and followed from one tensor to the next.

Four axes are never guessed. A convolution, batch normalisation or pooling has channels first; layer normalisation, a
product with weights and an embedding have them last; where neurons are split by a reshape, the parts are heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dask_svcca.dims import EXAMPLE, SPATIAL, SPATIAL_DIMS, TOKEN, canonical_dims
from dask_svcca.errors import CaptureError, did_you_mean
from dask_svcca.patterns import matching

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import numpy.typing as npt

Names: TypeAlias = "tuple[str, ...] | None"
"""Names of the axes of a tensor; None where operators leave them open."""

HEAD, KEY, STACK, ONE = "head", "key", "stack", "one"
"""Heads of attention; the tokens that are attended to; queries, keys and values in one array; an axis of length 1."""
AND = "+"
"""Between the names of axes that a reshape put into one, until another takes them apart."""
FEATURES = frozenset({"channel", "neuron"})
POSITIONS = frozenset({TOKEN, *SPATIAL})

RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
CHANNELS_FIRST = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"}
    | {"GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool"}
    | {"QLinearConv", "SpaceToDepth"}
)
"""Operators defined on (example, channel, position...)."""
NORMALISING = frozenset({"BatchNormalization", "GroupNormalization", "InstanceNormalization"})
CHANNELS_LAST = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "Attention"})
PRODUCTS = frozenset({"FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"})
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
REDUCING = frozenset(
    {"ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"}
    | {"ReduceProd", "ReduceSum", "ReduceSumSquare"}
)
OPAQUE = frozenset({"Einsum", "GatherElements", "GatherND", "If", "Loop", "Scan", "ScatterND", "TopK"})
"""Operators that may put any axis anywhere."""

LAST = {
    3: (EXAMPLE, TOKEN, "neuron"),
    4: (EXAMPLE, "height", "width", "channel"),
    5: (EXAMPLE, "depth", "height", "width", "channel"),
}


def first_names(ndim: int) -> Names:
    """Names of the axes of a feature map with channels first.

    Examples
    --------
    >>> first_names(4)
    ('example', 'channel', 'height', 'width')
    """
    return (EXAMPLE, "channel", *SPATIAL_DIMS[ndim]) if ndim in SPATIAL_DIMS else None


class Axes:
    """Names of the axes of all tensors of a graph.

    Parameters
    ----------
    graph : onnx.GraphProto
    shapes : mapping of str to tuple of int
        Of the tensors that were computed, and of the inputs, for a few examples.
    varying : collection of str
        Tensors that depend on the values of the inputs.
    """

    def __init__(self, graph: Any, shapes: Mapping[str, tuple[int, ...]], varying: Collection[str]) -> None:
        self._shapes = {**{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}, **shapes}
        self._varying = varying
        self._names: dict[str, Names] = {}
        # Of a tensor whose axes a reshape mixed: what it was before, for the reshape that brings it back.
        self._before: dict[str, tuple[tuple[int, ...], Names]] = {}
        self._defaults = False
        self._forward(graph)
        self._backward(graph)
        # Only now is it known which sequences are maps of a convolution further on.
        self._defaults = True
        self._before.clear()
        self._forward(graph)

    def __getitem__(self, tensor: str) -> Names:
        return self._of(tensor)

    def _of(self, tensor: str) -> Names:
        if tensor in self._names or not self._defaults:
            return self._names.get(tensor)
        ndim = self._ndim(tensor)
        if tensor in self._varying and ndim in {2, 3}:
            return (EXAMPLE, "neuron") if ndim == 2 else LAST[3]
        return None

    def _ndim(self, tensor: str) -> int:
        return len(self._shapes.get(tensor, ()))

    def _forward(self, graph: Any) -> None:
        for node in graph.node:
            for position, tensor in enumerate(node.output):
                if tensor not in self._varying or tensor not in self._shapes or self._names.get(tensor):
                    continue
                names = self._computed(node, tensor, position)
                if names is not None and len(names) == self._ndim(tensor):
                    self._names[tensor] = names
                elif tensor in self._before or node.op_type in OPAQUE | RESHAPING | PRODUCTS:
                    # Known to be unknown: not to be taken for a sequence.
                    self._names[tensor] = None

    def _backward(self, graph: Any) -> None:
        """Name what an operator takes by what it must be: images before the first convolution."""
        for node in reversed(graph.node):
            source = node.input[0] if node.input else ""
            if source not in self._varying or self._names.get(source) or source in self._before:
                continue
            names = self._names.get(node.output[0])
            if node.op_type in CHANNELS_FIRST:
                self._set(source, first_names(self._ndim(source)))
            elif node.op_type == "Transpose" and names:
                order = _order(node, len(names))
                self._set(source, tuple(names[order.index(axis)] for axis in range(len(names))))
            elif node.op_type not in OPAQUE | RESHAPING | PRODUCTS | RECURRENT | REDUCING | {"Gather"} and names:
                self._set(source, names)

    def _set(self, tensor: str, names: Names) -> None:
        if names is not None and len(names) == self._ndim(tensor):
            self._names[tensor] = names

    def _computed(self, node: Any, tensor: str, position: int) -> Names:
        kind, ndim = node.op_type, self._ndim(tensor)
        source = node.input[0] if node.input else ""
        if kind in CHANNELS_FIRST and ndim >= 3:
            if kind in NORMALISING and source in self._before:
                self._before[tensor] = self._before[source]
                return None
            return first_names(ndim)
        rules: tuple[tuple[bool, Callable[[], Names]], ...] = (
            (kind in RECURRENT, lambda: self._recurrent(node, position)),
            (kind == "Transpose", lambda: self._transposed(node, source)),
            (kind in RESHAPING, lambda: self._reshaped(source, tensor)),
            (kind in PRODUCTS, lambda: self._product(node, tensor)),
            (kind == "Gather", lambda: self._gathered(node, ndim)),
            (kind in REDUCING and ndim < self._ndim(source), lambda: self._reduced(node, source, ndim)),
            (kind in OPAQUE, lambda: None),
        )
        for holds, rule in rules:
            if holds:
                return rule()
        inherited = self._inherited(node, tensor)
        if (
            inherited is None
            and self._defaults
            and kind in CHANNELS_LAST
            and _integer(node, "axis", -1) in {-1, ndim - 1}
        ):
            return LAST.get(ndim)
        return inherited

    def _inherited(self, node: Any, tensor: str) -> Names:
        """Names of the inputs that have the output's axes; None where they disagree on the neurons."""
        shape, ndim = self._shapes[tensor], self._ndim(tensor)
        alike = [name for name in node.input if name in self._varying and self._ndim(name) == ndim]
        whole = [name for name in alike if self._shapes[name] == shape] or alike
        for name in whole:
            if name in self._before and self._shapes[name] == shape:
                self._before[tensor] = self._before[name]
        found = [names for name in whole if (names := self._of(name))]
        if len({_features(names) for names in found}) > 1:
            return None
        return found[0] if found else None

    def _transposed(self, node: Any, source: str) -> Names:
        names = self._of(source)
        return tuple(names[axis] for axis in _order(node, len(names))) if names else None

    def _recurrent(self, node: Any, position: int) -> Names:
        if position > 0:
            return (HEAD, EXAMPLE, "neuron")
        return (EXAMPLE, TOKEN, HEAD, "neuron") if _integer(node, "layout", 0) else (TOKEN, HEAD, EXAMPLE, "neuron")

    def _product(self, node: Any, tensor: str) -> Names:
        ndim = self._ndim(tensor)
        # The second factor of quantised products comes behind the first one's scale and zero point.
        left, right = node.input[0], node.input[3 if node.op_type == "QLinearMatMul" else 1]
        if right not in self._varying:
            if left in self._before:
                self._before[tensor] = self._before[left]
                return None
            names = self._of(left)
            if names is None and not self._defaults:
                return None
            return names if names and len(names) == ndim else LAST.get(ndim, (EXAMPLE, "neuron") if ndim == 2 else None)
        if left not in self._varying:
            return self._of(right) if self._ndim(right) == ndim else None
        names, other = self._of(left), self._of(right)
        if not names or not other or len(names) != ndim or len(other) != ndim or ndim < 3:
            return None
        # Queries with keys: each token against all tokens.
        last = KEY if other[-1] in POSITIONS and names[-1] in FEATURES else other[-1]
        return (*names[:-1], last)

    def _gathered(self, node: Any, ndim: int) -> Names:
        data, axis = node.input[0], _integer(node, "axis", 0)
        if data not in self._varying:
            # An embedding: rows of a table of weights.
            return LAST.get(ndim) if axis == 0 and self._ndim(data) == 2 and ndim <= 3 else None
        names = self._of(data)
        if names is None:
            return None
        if ndim == len(names) - 1:
            return tuple(name for place, name in enumerate(names) if place != axis % len(names))
        return names if ndim == len(names) else None

    def _reduced(self, node: Any, source: str, ndim: int) -> Names:
        """Names without those of the axes that are gone, which the lengths tell."""
        names = self._of(source)
        axes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), None)
        if names is None or len(names) - ndim < 1:
            return None
        if axes is not None:
            gone = {axis % len(names) for axis in axes}
            return tuple(name for place, name in enumerate(names) if place not in gone)
        # Newer operators have the axes in a tensor: pooling over all positions is what there is, or none is known.
        kept = tuple(name for name in names if name not in POSITIONS)
        return kept if len(kept) == ndim else None

    def _reshaped(self, source: str, tensor: str) -> Names:
        shape, names = self._shapes[tensor], self._of(source)
        old = self._shapes.get(source)
        if old is None:
            return None
        if source in self._before:
            # A linear layer may change the last length on the way.
            before, back = self._before[source]
            if len(shape) == len(before) and shape[:-1] == before[:-1] and (shape == before or old[-1] == shape[-1]):
                return back
        result = names and _regrouped(old, names, shape)
        if not result:
            self._before[tensor] = self._before.get(source, (old, names))
        return result or None


def _features(names: tuple[str, ...]) -> int:
    return next((place for place, name in enumerate(names) if name in FEATURES), -1)


def _regrouped(old: Sequence[int], names: Sequence[str], new: Sequence[int]) -> Names:
    """Names after a reshape, where each new axis is made of whole old ones, or neurons are split.

    Examples
    --------
    >>> _regrouped((2, 5, 12), ("example", "token", "neuron"), (2, 5, 3, 4))
    ('example', 'token', 'head', 'neuron')
    >>> _regrouped((2, 16, 4, 4), ("example", "channel", "height", "width"), (2, 16, 16))
    ('example', 'channel', 'token')

    Channels in groups, with positions among them, have no name:

    >>> _regrouped((2, 16, 4, 4), ("example", "channel", "height", "width"), (2, 4, 64)) is None
    True
    """
    result: list[str] = []
    i = j = 0
    while i < len(old) and j < len(new):
        first, start = i, j
        left, right = old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(old):
                left, i = left * old[i], i + 1
            elif right < left and j < len(new):
                right, j = right * new[j], j + 1
            else:
                return None
        whole = [name for name, size in zip(names[first:i], old[first:i], strict=True) if size != 1] or [names[first]]
        # New axes of length 1 have nothing of the old ones, unless there is no other.
        lone = [size == 1 for size in new[start:j]] if max(new[start:j]) > 1 else [False] * (j - start)
        made = _group(whole, lone.count(False), len(old))
        if made is None:
            return None
        named = iter(made)
        result += [ONE if alone else next(named) for alone in lone]
    result += [ONE] * (len(new) - len(result))
    return tuple(result)


def _group(whole: Sequence[str], count: int, ndim: int) -> list[str] | None:
    """Names that some old axes have as so many new ones."""
    if count == 1:
        return _merged(whole)
    if len(whole) == 1:
        return _split(whole[0], count, ndim)
    if count == 2 and len(whole) == 2 and whole[0] == EXAMPLE and whole[1] in FEATURES:
        # Heads beside the examples, as PyTorch's attention has them.
        return [f"{EXAMPLE}{AND}{HEAD}", "neuron"]
    return None


def _merged(whole: Sequence[str]) -> list[str] | None:
    if len(whole) == 1:
        return [whole[0]]
    if POSITIONS.issuperset(whole):
        return [TOKEN]
    if whole[0] == HEAD and FEATURES.issuperset(whole[1:]):
        return ["neuron"]
    return None if FEATURES.intersection(whole) else [AND.join(whole)]


def _split(name: str, count: int, ndim: int) -> list[str] | None:
    if name.count(AND) == count - 1:
        return name.split(AND)
    # Without tokens, neurons are spread over a map, and not split into heads.
    return [STACK, HEAD, "neuron"][-count:] if name in FEATURES and ndim >= 3 and count <= 3 else None


def _order(node: Any, ndim: int) -> list[int]:
    order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
    return order or list(reversed(range(ndim)))


def _integer(node: Any, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def given_axes(dims: Mapping[str, Iterable[str]] | None) -> dict[str, tuple[str, ...]]:
    """Names of axes that a user gives for tensors, by patterns of the tensors' names.

    Raises
    ------
    CaptureError
        Where they are not names of axes by patterns, or the examples are not the first axis.
    InvalidActivationsError
        Where a zoo could not have such axes.

    Examples
    --------
    >>> given_axes({"mix*": ["example", "channel", "height", "width"]})
    {'mix*': ('example', 'channel', 'height', 'width')}
    >>> given_axes({"mix*": ["neuron", "example"]})
    Traceback (most recent call last):
    dask_svcca.errors.CaptureError: dims of 'mix*' are ('neuron', 'example'), and only tensors with the examples ...
    """
    usual = "('example', 'height', 'width', 'channel')"
    if dims is not None and not isinstance(dims, Mapping):
        raise CaptureError(
            f"dims is a mapping of names of tensors, or patterns of them, to the names of their axes, such as "
            f"{{'mix*': {usual}}}; got {dims!r}"
        )
    axes = {}
    for pattern, given in (dims or {}).items():
        if not isinstance(pattern, str):
            raise CaptureError(f"dims has names of tensors as its keys, or patterns of them; got {pattern!r}")
        names = () if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
        if not names or not all(isinstance(name, str) for name in names):
            raise CaptureError(
                f"dims of {pattern!r} is a sequence of names, one an axis, such as {usual}; got {given!r}"
            )
        if twice := [name for name in names if names.count(name) > 1]:
            raise CaptureError(f"dims of {pattern!r} are {names!r}, with {twice[0]!r} twice; name each axis once")
        if EXAMPLE in names and names[0] != EXAMPLE:
            raise CaptureError(
                f"dims of {pattern!r} are {names!r}, and only tensors with the examples first can be captured. "
                f"Name the axes in the order in which the model has them; where its examples come later, let it "
                f"transpose them"
            )
        _, stored = as_stored(np.empty((1,) * len(names)), names)
        canonical_dims(stored, (1,) * len(stored), pattern)
        axes[pattern] = names
    return axes


def check_patterns(patterns: Iterable[str], tensors: Collection[str], where: str) -> None:
    """Refuse names of axes for tensors that are not there.

    Parameters
    ----------
    patterns : iterable of str
        See `given_axes`.
    tensors : collection of str
        Names of what is computed.
    where : str
        What computes it, in messages.

    Raises
    ------
    CaptureError
    """
    for pattern in patterns:
        if not matching(tensors, [pattern]):
            raise CaptureError(
                f"dims= (--dims) names the axes of {pattern!r}, and no such tensor is computed by {where}"
                f"{did_you_mean(pattern, tensors)}"
            )


def layer_names(
    names: Names, shape: Sequence[int], kind: str, given: Sequence[str] | None = None
) -> tuple[str, ...] | str:
    """Names of the axes of a layer, or why it cannot be one.

    Parameters
    ----------
    names : tuple of str, or None
        As operators say.
    shape : sequence of int
        The first axis is the examples.
    kind : str
        Operator that computes it.
    given : sequence of str, optional
        Names that a user gives, which hold whatever operators say.

    Examples
    --------
    >>> layer_names(("example", "channel", "height", "width"), (2, 16, 8, 8), "Conv")
    ('example', 'channel', 'height', 'width')
    >>> layer_names(("example", "channel", "height", "width"), (2, 16, 1, 1), "GlobalAveragePool")
    ('example', 'neuron')
    >>> layer_names(None, (2, 16, 8, 8), "Relu")
    'no operator says what its 4 axes are, which have the lengths (16, 8, 8) behind the examples; ...(--dims)'
    """
    if given is not None:
        return tuple(given) if len(given) == len(shape) else _misnamed(tuple(given), shape)
    if len(shape) <= 2:
        return (EXAMPLE, "neuron")
    problem = _unnamed(names, shape, kind)
    if names is None or problem:
        return problem
    if all(size == 1 for name, size in zip(names[1:], shape[1:], strict=True) if name not in FEATURES):
        return (EXAMPLE, "neuron")
    if STACK in names or ONE in names or len(set(names)) < len(names) or len(FEATURES.union({KEY}) & {*names}) != 1:
        return f"its {len(shape)} axes have no names: shape {tuple(shape)}, of which operators say {names}"
    return tuple(names)


def _misnamed(given: tuple[str, ...], shape: Sequence[int]) -> str:
    return f"dims={given!r} name {len(given)} axes, and it has {len(shape)}: shape {tuple(shape)}"


def _unnamed(names: Names, shape: Sequence[int], kind: str) -> str:
    if names is None:
        return (
            f"no operator says what its {len(shape)} axes are, which have the lengths {tuple(shape[1:])} behind the "
            f"examples; say it with dims= (--dims)"
        )
    if KEY in names and kind != "Softmax":
        return "it holds scores of attention, each token against each; the weights behind the softmax are captured"
    if names[0] != EXAMPLE or any(AND in name for name in names):
        return f"its first axis is not the examples, but {names[0]!r}"
    return ""


def as_stored(values: npt.NDArray[Any], dims: tuple[str, ...]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Activations and their axes as a zoo takes them: heads beside each other, as the neurons of a token.

    Examples
    --------
    >>> import numpy as np
    >>> values, dims = as_stored(np.zeros((2, 3, 5, 4)), ("example", "head", "token", "neuron"))
    >>> values.shape, dims
    ((2, 5, 12), ('example', 'token', 'neuron'))
    """
    if len(dims) == 2:
        return values.reshape(len(values), -1), dims
    last = [name for name in dims if name in {HEAD, KEY} or name in FEATURES]
    if HEAD not in last and KEY not in last:
        return values, dims
    last.sort(key=lambda name: name != HEAD)
    rest = [name for name in dims if name not in last]
    ordered = values.transpose([dims.index(name) for name in (*rest, *last)])
    return ordered.reshape(*ordered.shape[: len(rest)], -1), (*rest, "neuron")
