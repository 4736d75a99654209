"""Hooks that record what the modules of a model put out, and how often each was called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture.torch.axes import Trace, follower, name_axes
from dask_svcca.capture.torch.records import DECODER, INSIDE, Record
from dask_svcca.capture.torch.told import Told, hear, mask_places, packed
from dask_svcca.dims import EXAMPLE, NEURONS, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dask_svcca.capture.torch.operations import Axes
    from dask_svcca.capture.torch.records import Feed

MARK = "_dask_svcca_trace"
"""Attribute that a tensor gets on its way: its `Trace`."""

THE_INPUT = "the input"

_WRAPPING = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class SequenceFirstError(Exception):
    """A module has its examples along the second axis of what is the model's input."""


def unwrapped(torch: Any, model: Any) -> Any:
    """The model inside what compiles, distributes or averages it."""
    parallel = (
        torch.nn.DataParallel,
        torch.nn.parallel.DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
    )
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif inner := next((part for name in _WRAPPING if (part := getattr(model, name, None)) is not None), None):
            model = inner
        else:
            return model


def named_modules(torch: Any, model: Any) -> dict[str, Any]:
    """Modules by name, without what wraps them; a model without modules inside goes by the name of its class."""
    modules = {}
    for path, module in model.named_modules():
        name = ".".join(part for part in path.split(".") if part not in _WRAPPING)
        if name:
            # Of a wrapper and the module inside, which have one name, the one inside comes later.
            modules[name] = module
    if not modules or isinstance(model, torch.nn.MultiheadAttention):
        return {type(model).__name__: model}
    return modules


def computing(torch: Any, modules: Mapping[str, Any]) -> list[str]:
    """Modules that compute something themselves: no lists of modules, and of attention what it puts out."""
    attention = [path for path, module in modules.items() if isinstance(module, torch.nn.MultiheadAttention)]
    return [
        path
        for path, module in modules.items()
        if getattr(type(module), "forward", None) is not torch.nn.Module.forward
        and not any(path.startswith(f"{parent}.") for parent in attention)
    ]


@dataclass
class Recorder:
    """Hooks for the modules of a model, and what they recorded in the current pass.

    Parameters
    ----------
    torch : module
    modules : dict of str to torch.nn.Module
    chosen : frozenset of str
        Names of those to record.
    drop : bool
        Do not record a tensor again that is recorded already.
    """

    torch: Any
    modules: Mapping[str, Any]
    chosen: frozenset[str]
    drop: bool
    skipped: dict[str, str] = field(default_factory=dict)
    example_axis: int = 0
    sequence_first: str = ""
    told: list[Told] = field(default_factory=list)
    _inputs: list[Any] = field(default_factory=list)
    _records: dict[str, Record] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)
    _leaf_calls: int = 0
    _examples: int = 0
    _tensors: dict[tuple[Any, ...], tuple[str, Any]] = field(default_factory=dict)
    _shallow: bool = True
    _following: bool = False

    def __post_init__(self) -> None:
        nn = self.torch.nn
        buffers = frozenset(id(buffer) for module in self.modules.values() for buffer in module.buffers())
        self._mode = follower(self.torch, MARK, buffers)
        attention = [path for path, module in self.modules.items() if isinstance(module, nn.MultiheadAttention)]
        inside = {path for path in self.modules if _below(path, attention)}
        self._leaves = {
            path
            for path, module in self.modules.items()
            if path in attention or (path not in inside and next(module.children(), None) is None)
        }
        names = {
            path: f"{type(module).__name__} {path.rpartition('.')[2]}".lower() for path, module in self.modules.items()
        }
        encoding = any("encoder" in name and "decoder" not in name for name in names.values())
        self._decoders = [path for path, name in names.items() if encoding and "decoder" in name]
        # With a padding mask such a stack computes in one fused step, which hooks inside it would break.
        self._closed = [
            path
            for path, module in self.modules.items()
            if isinstance(module, nn.TransformerEncoder) and not any(_below(name, [path]) for name in self.chosen)
        ]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks in place."""
        with ExitStack() as stack:
            for path, module in self.modules.items():
                if _below(path, self._closed):
                    continue
                if isinstance(module, self.torch.jit.ScriptModule):
                    self.skipped[path] = "it is compiled by TorchScript, which takes no hooks"
                    continue
                layout = self._sequence_layout(module)
                names = mask_places(module)
                if names or isinstance(module, self.torch.nn.RNNBase):
                    hook = module.register_forward_pre_hook(self._hear(path, names), with_kwargs=True)
                    stack.callback(hook.remove)
                if layout or path in self._closed:
                    hook = module.register_forward_pre_hook(self._before(path, layout), with_kwargs=True)
                    stack.callback(hook.remove)
                if path in self.chosen or path in self._leaves or layout or path in self._closed:
                    hook = module.register_forward_hook(self._after(path, layout))
                    stack.callback(hook.remove)
            yield

    def run(self, model: Any, feed: Feed) -> dict[str, Record]:
        """Run the model on a batch, and hand out what its modules put out."""
        self._records, self._leaf_calls, self._examples = {}, 0, feed.examples
        self._calls.clear()
        self._tensors.clear()
        self.told.clear()
        self._inputs = list(feed.tensors.values())
        self._shallow = all(tensor.ndim <= 3 for tensor in self._inputs)
        for name, tensor in feed.tensors.items():
            # Masks have the examples first, also beside tokens that come first.
            axis = 0 if name in feed.mask_names.values() else self.example_axis
            along = tensor.ndim > axis and tensor.shape[axis] == feed.examples
            axes: list[str | None] = [None] * tensor.ndim
            if along:
                axes[axis] = EXAMPLE
                if axis:
                    axes[0] = TOKEN
                elif feed.mask is not None and tensor.ndim <= 3 and tuple(tensor.shape[:2]) == feed.mask.shape:
                    axes[1] = TOKEN
            # Numbers that were rounded before they came in are exact for the model.
            sequence = frozenset({feed.sequences[name]} if name in feed.sequences else ())
            setattr(tensor, MARK, Trace(tuple(axes), "float64", sequences=sequence))
            self._tensors[_identity(tensor)] = (THE_INPUT, tensor)
        self._mode.__enter__()
        self._following = True
        try:
            model(*feed.args, **feed.kwargs)
        finally:
            self._follow(on=False)
        self._name_consumed()
        for path in self.chosen - self._calls.keys():
            self.skipped.setdefault(path, "it was not called")
        self._tensors.clear()
        self._inputs.clear()
        for layer, record in self._records.items():
            if record.values is not None:
                # One by one: a GPU need not hold those that are handed out.
                self._records[layer] = replace(record, values=_on_processor(record.values))
        return self._records

    def _follow(self, *, on: bool) -> None:
        if on and not self._following:
            self._mode.__enter__()
        elif self._following and not on:
            self._mode.__exit__(None, None, None)
        self._following = on

    def _sequence_layout(self, module: Any) -> Axes:
        """Axes of a batch of sequences, for modules that have them."""
        nn = self.torch.nn
        kinds = (nn.RNNBase, nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
        if not isinstance(module, (*kinds, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
            return ()
        inner = module.layers[0] if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder) else module
        inner = getattr(inner, "self_attn", inner)
        return (EXAMPLE, TOKEN, "neuron") if getattr(inner, "batch_first", True) else (TOKEN, EXAMPLE, "neuron")

    def _hear(self, path: str, names: tuple[str, ...]) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], None]:
        """Note what a module is told of padding, unless one around it was told."""

        def note(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            rnn = self.torch.nn.utils.rnn
            if _below(path, {one.path for one in self.told}):
                return
            if args and isinstance(args[0], rnn.PackedSequence):
                lengths = rnn.pad_packed_sequence(args[0])[1].numpy()
                turned = (self._examples, len(lengths))
                if (
                    not self.example_axis
                    and len(set(turned)) == 2
                    and any(tuple(tensor.shape[:2]) == turned for tensor in self._inputs)
                ):
                    # It holds other examples than were counted, along the other axis.
                    self.sequence_first = path
                    raise SequenceFirstError(path)
                self.told += packed(path, args[0], lengths, self._inputs, self._examples)
                return
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            self.told += hear(path, {name: given[name] for name in names if name in given}, self._examples)

        return note

    def _before(self, path: str, layout: Axes) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], None]:
        def note(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            for tensor in (*args, *kwargs.values()):
                if not isinstance(tensor, self.torch.Tensor) or tensor.is_nested or tensor.ndim != 3:
                    continue
                trace = getattr(tensor, MARK, None)
                known = (None, None, None) if trace is None else trace.axes
                if EXAMPLE in known and known[layout.index(EXAMPLE)] != EXAMPLE:
                    if layout[0] == TOKEN and self._shallow and not self.example_axis:
                        self.sequence_first = path
                        raise SequenceFirstError(path)
                    continue
                before = Trace(layout, _source(tensor)) if trace is None else trace
                setattr(tensor, MARK, Trace(layout, before.source, sequences=before.sequences))
            if path in self._closed:
                self._follow(on=False)

        return note

    def _after(self, path: str, layout: Axes) -> Callable[[Any, tuple[Any, ...], Any], None]:
        def record(_: Any, args: tuple[Any, ...], output: Any) -> None:
            self._calls[path] += 1
            if path in self._leaves:
                self._leaf_calls += 1
            if path in self._closed:
                self._follow(on=True)
                self._leaf_calls += sum(_below(leaf, [path]) for leaf in self._leaves)
            tensor = self._first_tensor(output)
            if tensor is not None and not tensor.is_nested:
                self._note(tensor, args, layout)
            if path in self.chosen:
                layer = path if self._calls[path] == 1 else f"{path}#{self._calls[path]}"
                self._take(layer, tensor, output)

        return record

    def _note(self, tensor: Any, args: tuple[Any, ...], layout: Axes) -> None:
        """Keep what is known of a tensor; a module that nothing was followed through keeps the axes with the shape."""
        trace = getattr(tensor, MARK, None)
        before = [arg for arg in args if isinstance(arg, self.torch.Tensor) and hasattr(arg, MARK)]
        source = _source(tensor) if trace is None else trace.source
        through = frozenset().union(*(getattr(arg, MARK).sequences for arg in before))
        sequences = through if trace is None else trace.sequences
        if layout and tensor.ndim == 3:
            known = [getattr(arg, MARK).axes for arg in before if arg.ndim == 3][:1]
            axes = known[0] if known and EXAMPLE in known[0] else layout
            setattr(tensor, MARK, Trace(axes, source, sequences=sequences))
        elif layout and tensor.ndim == 2:
            setattr(tensor, MARK, Trace((TOKEN, "neuron"), source, sequences=sequences))
        elif trace is None:
            alike = [getattr(arg, MARK).axes for arg in before if arg.shape == tensor.shape][:1]
            if alike:
                setattr(tensor, MARK, Trace(alike[0], source, sequences=sequences))

    def _take(self, layer: str, tensor: Any, output: Any) -> None:
        if tensor is None or tensor.is_nested:
            kind = type(output).__name__ if tensor is None else "a nested tensor"
            self.skipped[layer] = f"it returns {kind}, not a tensor" if tensor is None else f"it returns {kind}"
            return
        if not tensor.is_floating_point():
            self.skipped[layer] = f"it returns {tensor.dtype}"
            return
        if not _in_memory(tensor):
            self.skipped[layer] = "its values are not at hand while the model runs, as within torch.func.vmap"
            return
        trace = getattr(tensor, MARK, None)
        if trace is not None and trace.constant:
            self.skipped[layer] = "it does not depend on the input"
            return
        axes, source = (None, _source(tensor)) if trace is None else (trace.axes, trace.source)
        sequences = frozenset() if trace is None else trace.sequences
        if DECODER not in sequences and _below(f"{layer}.", self._decoders):
            sequences |= {INSIDE}
        depth = max(0, self._leaf_calls - 1)
        key = _identity(tensor)
        if self.drop and key in self._tensors and self._usable(self._tensors[key][1]):
            self._records[layer] = Record(layer, None, axes, source, depth, self._tensors[key][0], sequences)
            return
        # While it is held, no later tensor can lie at its place in memory.
        self._tensors[key] = (layer, tensor)
        self._records[layer] = Record(layer, self._copied(tensor), axes, source, depth, "", sequences)

    def _name_consumed(self) -> None:
        """Take over the axes that a convolution gave to what it read, of layers that had no names for them."""
        for layer, tensor in self._tensors.values():
            record, trace = self._records.get(layer), getattr(tensor, MARK, None)
            if record is None or record.values is None or trace is None or record.values.shape != tuple(tensor.shape):
                continue
            if not {*NEURONS}.intersection(record.axes or ()) and trace.axes[1:2] == ("channel",):
                self._records[layer] = replace(record, axes=trace.axes)

    def _usable(self, tensor: Any) -> bool:
        """Whether a recorded tensor is known by its axes; of one that is not, a reshape may be."""
        trace = getattr(tensor, MARK, None)
        return (
            tensor.ndim <= 3
            or not name_axes(None if trace is None else trace.axes, tensor.shape, self._examples).reason
        )

    def _copied(self, tensor: Any) -> Any:
        """Values in a type that NumPy has, exactly. Copied at once: a module that works in place may change them next.

        The copy stays on the device until the batch is whole: a GPU would stop for each that leaves it.
        """
        torch = self.torch
        exact = {torch.float16, torch.float32, torch.float64}
        dtype = tensor.dtype if tensor.dtype in exact else torch.float32
        dense = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
        return dense.to(dtype, copy=True)

    def _first_tensor(self, output: Any) -> Any:
        if isinstance(output, self.torch.nn.utils.rnn.PackedSequence):
            return None
        if isinstance(output, Mapping):
            output = tuple(output.values())
        if isinstance(output, tuple | list):
            return next((entry for entry in output if isinstance(entry, self.torch.Tensor)), None)
        return output if isinstance(output, self.torch.Tensor) else None


@contextmanager
def evaluating(torch: Any, model: Any) -> Iterator[None]:
    """A model in evaluation mode, without gradients, and run as it is written even if it is compiled."""
    training = {module: module.training for module in model.modules()}
    stance = getattr(torch.compiler, "set_stance", None)
    with ExitStack() as stack:
        if stance is not None:
            stack.enter_context(stance("force_eager"))
        stack.enter_context(torch.no_grad())
        model.eval()
        try:
            yield
        finally:
            for module, mode in training.items():
                module.training = mode


def _on_processor(tensor: Any) -> npt.NDArray[Any]:
    return np.asarray(tensor.to("cpu"))


def _below(path: str, parents: Iterable[str]) -> bool:
    return any(path.startswith(f"{parent}.") for parent in parents)


def _source(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _in_memory(tensor: Any) -> bool:
    """Whether a tensor has values of its own; within a transformation such as ``vmap`` it stands for many."""
    if str(tensor.layout) != "torch.strided":
        return True
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def _identity(tensor: Any) -> tuple[Any, ...]:
    """What two tensors have in common that hold the same values at the same place, not changed in between."""
    if str(tensor.layout) != "torch.strided" or not tensor.numel():
        return (id(tensor),)
    if tensor.is_inference():
        # It counts no changes: what repeats another is found by its values.
        return (object(),)
    # A reshape of what is contiguous has the same values in the same order.
    layout = tensor.numel() if tensor.is_contiguous() else (tuple(tensor.shape), tuple(tensor.stride()))
    return (tensor.data_ptr(), tensor._version, layout, tensor.dtype)  # noqa: SLF001 - nothing else tells it
