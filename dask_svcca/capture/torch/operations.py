"""What the functions of PyTorch do to the axes of their first tensor, one rule a kind of function."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from dask_svcca.dims import EXAMPLE, NEURONS, SPATIAL_DIMS, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Axes: TypeAlias = tuple[str | None, ...]
"""A name for each axis; None for one that nothing is known of, `LOST` for one that a reshape made."""

LOST = "?"

MAPS = "?maps"
"""An axis that is lost as well, of a tensor made from one with channels first: its last need not be the neurons."""

_POSITIONED = re.compile(
    r"(?:conv|conv_transpose|max_pool|avg_pool|adaptive_avg_pool|adaptive_max_pool|lp_pool|fractional_max_pool|"
    r"max_unpool)([123])d(?:_with_indices)?"
)
_CONVOLVING = re.compile(r"conv(?:_transpose)?([123])d")
_PLAIN = re.compile(r"(?<=\w)(?:\.\w+|_copy|(?<!_)_)$")
_KEEPING = frozenset(
    {"pad", "cat", "concat", "chunk", "split", "tensor_split", "narrow", "index_select", "expand", "glu", "diff"}
    | {"topk", "sort", "repeat_interleave", "tile", "rfft", "irfft", "fft", "ifft", "take_along_dim"}
)
_PROPERTIES = frozenset({"T", "H", "mT", "mH"})
_MULTIPLYING = frozenset({"matmul", "__matmul__", "addmm", "mm", "bmm"})


class Call(NamedTuple):
    """One call of a function.

    Attributes
    ----------
    torch : module
    func : callable
    name : str
    args, kwargs
    given : sequence of (tuple or None, tuple of int)
        Axes and shapes of the tensors that it was given; None where nothing followed a tensor.
    shape : tuple of int
        Shape of the tensor that it returned.
    """

    torch: Any
    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    given: Sequence[tuple[Axes | None, tuple[int, ...]]]
    shape: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of the first tensor."""
        return self.given[0][1]

    @property
    def axes(self) -> Axes:
        """Axes of the first tensor."""
        known = self.given[0][0]
        return (None,) * len(self.size) if known is None else known

    @property
    def lost(self) -> Axes:
        """Axes of a tensor of which nothing is known any more, but perhaps its examples."""
        maps = any(axes is not None and (MAPS in axes or _leads(axes)) for axes, _ in self.given)
        return (None, *[MAPS if maps else LOST] * (len(self.shape) - 1))[: len(self.shape)]


def _leads(axes: Axes) -> bool:
    """Whether the channels stand before the positions."""
    return any(axis in NEURONS for axis in axes[:-1]) and axes[-1] not in NEURONS


def follow(call: Call) -> Axes:
    """Axes of what a function returned."""
    if not call.given:
        return (None,) * len(call.shape)
    if match := _POSITIONED.fullmatch(call.name):
        return _channels_first(call, int(match[1]) + 2)
    return _RULES.get(plain_name(call.name), _same_shape)(call)


def plain_name(name: str) -> str:
    """A function's name without what says that it works in place, copies, or is a certain overload.

    Examples
    --------
    >>> [plain_name(name) for name in ("transpose_", "permute_copy", "transpose.int", "__getitem__")]
    ['transpose', 'permute', 'transpose', '__getitem__']
    """
    return _PLAIN.sub("", name)


def consumed(call: Call) -> Axes | None:
    """Axes that a convolution says its input to have; None where that has names, or it is not a convolution."""
    match = _CONVOLVING.fullmatch(call.name)
    if match is None or not call.given or len(call.size) != int(match[1]) + 2:
        return None
    first, *others = call.axes
    if not {None, LOST, MAPS}.issuperset(others):
        return None
    return (first, "channel", *SPATIAL_DIMS[len(call.size)])


def assigned(axes: Axes, index: Any, given: Axes) -> Axes:
    """Axes of a tensor of which a part is set to a value with the axes ``given``.

    Examples
    --------
    >>> assigned((None, None, None), 2, ("example", "neuron"))
    (None, 'example', 'neuron')
    >>> assigned(("example", None), (slice(None), slice(0, 3)), ("example", "neuron"))
    ('example', 'neuron')
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is Ellipsis or type(part) in {slice, int} for part in parts):
        return axes
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    at = parts.index(Ellipsis)
    parts[at : at + 1] = [slice(None)] * (len(axes) - len(parts) + 1)
    if len(given) != sum(isinstance(part, slice) for part in parts):
        return axes
    value = iter(given)
    names = [next(value) if isinstance(part, slice) else None for part in parts]
    known = EXAMPLE in names
    return tuple(
        old if new in {None, LOST, MAPS} and not (known and old == EXAMPLE) else new
        for old, new in zip(axes, names, strict=True)
    )


def _same_shape(call: Call) -> Axes:
    """Axes of the tensor of which most is known, among those with the shape of the result."""
    given, shape = [(axes, size) for axes, size in call.given if axes is not None], call.shape
    alike = [axes for axes, size in given if size == shape]
    if call.name in _KEEPING:
        alike += [axes for axes, size in given if len(size) == len(shape)]
    if call.name in _MULTIPLYING:
        alike += [axes for axes, size in given if size[:-1] == shape[:-1]]
    if not alike:
        return call.lost if given else (None,) * len(shape)
    return max(alike, key=lambda axes: sum(axis not in {None, LOST, MAPS} for axis in axes))


def _lost(call: Call) -> Axes:
    return call.lost


def _channels_first(call: Call, expected: int | None = None) -> Axes:
    axes, count = call.axes, len(call.shape)
    if expected is not None and count != expected:
        # A single image, without an axis of examples.
        return ("channel", *SPATIAL_DIMS[expected]) if count == expected - 1 else call.lost
    if len(axes) == count == 3 and axes[2] == TOKEN:
        return (axes[0], "neuron", TOKEN)
    first = EXAMPLE if axes[0] == EXAMPLE else None
    if count == 2:
        return (first, "neuron")
    return (first, "channel", *SPATIAL_DIMS[count]) if count in SPATIAL_DIMS else call.lost


def _channels_last(call: Call) -> Axes:
    axes, count = call.axes, len(call.shape)
    if len(axes) != count or count < 2:
        return (None,) * count
    *others, _ = axes
    name = "neuron" if count <= 3 else "channel"
    if any(axis in NEURONS for axis in others):
        # It mixes positions, not channels, as in an MLP-Mixer; only the order of its own axes remains.
        return (axes[0], None, None) if count == 3 else (axes[0], *[LOST] * (count - 2), name)
    if count in SPATIAL_DIMS and count > 3 and set(others[1:]) == {None}:
        return (axes[0], *SPATIAL_DIMS[count], name)
    return (*others, name)


def _normalised(call: Call) -> Axes:
    over = call.kwargs.get("normalized_shape", call.args[1] if len(call.args) > 1 else ())
    # Over several axes, as over whole maps: it does not say which are the channels.
    return _channels_last(call) if len(over) == 1 else _same_shape(call)


def _stacked(call: Call) -> Axes:
    at = (call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else 0)) % len(call.shape)
    return (*call.axes[:at], LOST, *call.axes[at:])


def _stepped(call: Call) -> Axes:
    return (call.axes[0], "neuron") if len(call.shape) == len(call.size) == 2 else call.lost


def _embedding(call: Call) -> Axes:
    if len(call.shape) == 3 and call.axes[1] is None and call.axes[0] == EXAMPLE:
        return (EXAMPLE, TOKEN, "neuron")
    if len(call.shape) <= 3:
        return (*call.axes, "neuron")
    return (*call.axes[:1], *[LOST] * (len(call.shape) - 2), "neuron")


def _unfolded(call: Call) -> Axes:
    if call.func is not call.torch.nn.functional.unfold or len(call.shape) != 3:
        return call.lost
    # Patches of images: what a patch holds stands before the patches.
    return (EXAMPLE if call.axes[0] == EXAMPLE else None, "neuron", TOKEN)


def _unknown(call: Call) -> Axes:
    return (None,) * len(call.shape)


def _moving(call: Call) -> Axes:
    # The function itself moves the axes of a tensor whose sizes number them.
    probe = call.torch.empty(tuple(range(2, 2 + len(call.size))), device="meta")
    moved = call.func(*([probe] if call.name in _PROPERTIES else [probe, *call.args[1:]]), **call.kwargs)
    return tuple(call.axes[length - 2] for length in moved.shape)


def _unsqueezed(call: Call) -> Axes:
    at = (call.kwargs["dim"] if "dim" in call.kwargs else call.args[1]) % len(call.shape)
    return (*call.axes[:at], LOST, *call.axes[at:])


def _squeezed(call: Call) -> Axes:
    kept = [axis for axis, length in zip(call.axes, call.size, strict=True) if length != 1]
    return tuple(kept) if len(kept) == len(call.shape) else call.lost


def _indexed(call: Call) -> Axes:
    index = call.args[1]
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or isinstance(part, slice | int) for part in parts):
        return call.lost
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    names: list[str | None] = []
    rest = list(call.axes)
    free = len(rest) - taken
    for part in parts:
        if part is None:
            names.append(LOST)
        elif part is Ellipsis:
            names += rest[:free]
            rest = rest[free:]
        else:
            names += rest[:1] if isinstance(part, slice) else []
            rest = rest[1:]
    return tuple(names) if len(names) == len(call.shape) else call.lost


def _dropped(call: Call) -> Axes:
    if call.shape == call.size:
        return _same_shape(call)
    dims = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    dims = (dims,) if isinstance(dims, int) else dims
    if not isinstance(dims, tuple | list) or not all(isinstance(dim, int) for dim in dims):
        return call.lost
    if len(call.shape) == len(call.axes):
        return call.axes
    gone = {dim % len(call.axes) for dim in dims}
    kept = tuple(axis for at, axis in enumerate(call.axes) if at not in gone)
    return kept if len(kept) == len(call.shape) else call.lost


def _reshaped(call: Call) -> Axes:
    """Axes after a reshape: groups of axes with equal sizes keep, merge or lose their names."""
    names: list[str | None] = []
    for old, new in _groups(call.size, call.shape):
        merged = [call.axes[at] for at in old]
        if len(merged) == new == 1:
            names += merged
        elif new == 1 and merged and not {EXAMPLE, LOST, MAPS}.intersection(merged):
            channels = any(axis in NEURONS for axis in merged)
            names.append("neuron" if channels else None if None in merged else TOKEN)
        else:
            names += [MAPS if MAPS in merged or _leads(tuple(merged)) else LOST] * new
    if names and names[0] in {LOST, MAPS}:
        names[0] = None
    if TOKEN in names:
        names = ["neuron" if axis == "channel" else axis for axis in names]
    return tuple(names)


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[range, int]]:
    """Smallest runs of axes with equal products: which axes before, and how many after.

    Examples
    --------
    >>> _groups((6, 4, 3, 2), (6, 4, 6)), _groups((6, 4), (2, 3, 4))
    ([(range(0, 1), 1), (range(1, 2), 1), (range(2, 4), 1)], [(range(0, 1), 2), (range(1, 2), 1)])
    """
    groups = []
    i = j = 0
    while i < len(before) or j < len(after):
        start, left, right = (i, j), 1, 1
        while i == start[0] or j == start[1] or left != right:
            if (left <= right or j == len(after)) and i < len(before):
                left *= before[i]
                i += 1
            elif j < len(after):
                right *= after[j]
                j += 1
            else:
                break
        groups.append((range(start[0], i), j - start[1]))
    return groups


def _rules(rule: Callable[[Call], Axes], *names: str) -> dict[str, Callable[[Call], Axes]]:
    return dict.fromkeys(names, rule)


_RULES: dict[str, Callable[[Call], Axes]] = {
    **_rules(_channels_first, "batch_norm", "group_norm", "instance_norm", "local_response_norm", "interpolate"),
    **_rules(_channels_first, "grid_sample", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    **_rules(_channels_last, "linear", "bilinear"),
    **_rules(_normalised, "layer_norm", "rms_norm"),
    **_rules(_embedding, "embedding"),
    **_rules(_moving, "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint"),
    **_rules(_moving, *_PROPERTIES),
    **_rules(_unfolded, "unfold"),
    **_rules(_unknown, "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
    **_rules(_reshaped, "flatten", "reshape", "view", "unflatten", "reshape_as", "view_as"),
    **_rules(_indexed, "__getitem__"),
    **_rules(_unsqueezed, "unsqueeze"),
    **_rules(_squeezed, "squeeze"),
    **_rules(_dropped, "mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "prod"),
    **_rules(_dropped, "select", "unbind"),
    **_rules(_stacked, "stack"),
    **_rules(_stepped, "gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell", "embedding_bag"),
    **_rules(_lost, "einsum", "tensordot", "as_strided", "fold", "rot90", "gather", "repeat"),
}
