"""Activations of a live PyTorch model, recorded by forward hooks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_svcca.capture._common import CaptureReport, as_dims, dims_of, listing, require, select
from dask_svcca.errors import CaptureError, MismatchedExamplesError
from dask_svcca.stores.zoo import Zoo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from dask_svcca.stores._chunked import Compression
    from dask_svcca.stores.zoo import Stored

CHANNELS_FIRST = (
    *("Conv", "BatchNorm", "SyncBatchNorm", "InstanceNorm", "GroupNorm", "LocalResponseNorm", "MaxPool", "AvgPool"),
    *("AdaptiveAvgPool", "AdaptiveMaxPool", "LPPool", "Upsample", "PixelShuffle", "PixelUnshuffle"),
)
CHANNELS_LAST = ("Linear", "Bilinear", "LayerNorm", "RMSNorm", "Embedding")
"""Beginnings of the names of torch.nn classes whose outputs have channels first, or last."""

MARK = "_dask_svcca_channel_axis"
"""Attribute that a tensor gets on its way: an activation function has its channels where its input has them."""


def capture_torch(
    model: Any,
    batches: Iterable[Any],
    *,
    zoo: Zoo,
    name: str,
    checkpoint: str,
    step: float | None = None,
    layers: str | Sequence[str] | None = None,
    compression: Compression = "lz4",
    dtype: Stored | None = None,
) -> CaptureReport:
    """Write what the modules of a PyTorch model put out, over all examples, to a zoo.

    The model runs in evaluation mode and without gradients; afterwards its modules are in their former mode. One
    batch is held at a time. Feature maps are stored channels last, everything as float32. Representations that the
    zoo already has are left alone.

    Parameters
    ----------
    model : torch.nn.Module
    batches : iterable
        The zoo's examples in the zoo's order: do not shuffle, do not drop the last batch. A batch is a tensor, a tuple
        whose first entry goes to the model (as from a loader of images and labels), or a dict of keyword arguments.
    zoo : Zoo
        Open for writing.
    name, checkpoint : str
        What to call the model and the checkpoint.
    step : float, optional
        Training step or epoch, for ordering checkpoints.
    layers : str or sequence of str, optional
        Names of modules as in ``model.named_modules()``, patterns as for files: ``"block1.*"``, several separated by
        commas. Default: all modules without modules inside.
    compression : {"lz4", "zstd", "none"}
    dtype : {"float16", "float32", "float64"}, optional
        See `Zoo.write`.

    Returns
    -------
    CaptureReport
        ``skipped`` names the modules that gave no representation, and why.

    Raises
    ------
    CaptureError
        Where no module matches, none gives a representation, or one gives it for some batches only.
    MismatchedExamplesError
        Where there are more or fewer examples than in the zoo.
    MissingPackageError
        Without PyTorch.

    Notes
    -----
    A module called several times in a pass gives ``name``, ``name#2`` and so on. A module that returns several
    tensors gives the first. Functions such as ``torch.nn.functional.relu`` have no hooks: make them modules.

    Examples
    --------
    In a training loop, with a loader of held-out images and labels that does not shuffle::

        if step in (0, 10, 100, 1000):
            capture_torch(model, loader, zoo=zoo, name="mine", checkpoint=f"step{step:05d}", step=step)
    """
    torch = require("torch", "torch")
    started = time.perf_counter()
    modules = {path: module for path, module in model.named_modules() if path}
    leaves = [path for path, module in modules.items() if next(module.children(), None) is None]
    chosen = leaves if layers is None else select(modules, layers)
    if not chosen:
        raise CaptureError(f"no module of the model {name!r} matches {layers!r}; it has {listing(modules)}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    recorder = _Recorder(torch, frozenset(chosen), frozenset(leaves))
    seen = nbytes = 0
    usable: dict[str, _Layer] = {}
    missing: dict[str, _Layer] = {}
    # A handle of its own: what a failure leaves half written does not stay in the caller's.
    with Zoo(zoo.root, writable=not zoo.root.read_only) as writer, _evaluating(model, modules, recorder):
        for batch in batches:
            examples = _feed(torch, model, batch, device)
            records = recorder.take()
            if not seen:
                usable = recorder.usable(records.values(), examples)
                if not usable:
                    reasons = [f"{layer}, {reason}" for layer, reason in recorder.skipped.items()]
                    raise CaptureError(f"no module of {name!r} gave a representation: {listing(reasons)}")
                missing = {layer: usable[layer] for layer in usable if (name, checkpoint, layer) not in writer}
            if not missing:
                break
            seen += examples
            if seen > writer.n_examples:
                break
            for layer, known in missing.items():
                record = records.get(layer)
                if record is None or len(record.values) != examples:
                    raise CaptureError(
                        f"module {layer!r} of {name!r} gave "
                        f"{'nothing' if record is None else f'{len(record.values)} rows'} for the {examples} examples "
                        f"up to {seen}, but one row per example before. Leave it out with layers="
                    )
                values = as_dims(record.values, known.dims)
                writer.append(
                    name,
                    checkpoint,
                    layer,
                    values,
                    step=step,
                    depth=known.depth,
                    dims=known.dims,
                    compression=compression,
                    dtype=dtype,
                )
                nbytes += values.size * np.dtype(dtype or values.dtype).itemsize
        if (missing or not usable) and seen != writer.n_examples:
            raise MismatchedExamplesError(
                f"the batches for {name!r} have {'at least ' if seen > writer.n_examples else ''}{seen} examples, the "
                f"zoo has {writer.n_examples}. Feed the zoo's examples, each once and in the zoo's order"
            )
    zoo.refresh()
    return CaptureReport(
        model=name,
        checkpoint=checkpoint,
        written=len(missing),
        present=len(usable) - len(missing),
        examples=zoo.n_examples,
        nbytes=nbytes,
        seconds=time.perf_counter() - started,
        skipped=recorder.skipped,
    )


@dataclass(frozen=True, slots=True)
class _Record:
    """What one call of a module put out."""

    layer: str
    values: npt.NDArray[Any]
    channel_axis: int | None
    depth: int


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the records of a layer have in common over all batches."""

    dims: tuple[str, ...]
    depth: int


@dataclass
class _Recorder:
    """Hooks for the modules of a model, and what they recorded in the current pass."""

    torch: Any
    chosen: frozenset[str]
    leaves: frozenset[str]
    skipped: dict[str, str] = field(default_factory=dict)
    _records: dict[str, _Record] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)

    def hook(self, path: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        def record(module: Any, args: tuple[Any, ...], output: Any) -> None:
            self._calls[path] += 1
            tensor = self._first_tensor(output)
            layer = path if self._calls[path] == 1 else f"{path}#{self._calls[path]}"
            if tensor is None:
                if path in self.chosen:
                    self.skipped[layer] = f"it returns {type(output).__name__}, not a tensor"
                return
            axis = _channel_axis(module, args, tensor)
            setattr(tensor, MARK, axis)
            if path not in self.chosen:
                return
            if not tensor.is_floating_point():
                self.skipped[layer] = f"it returns {tensor.dtype}"
                return
            # Copied at once: a module that works in place, such as ReLU(inplace=True), may change it next.
            values = tensor.detach().to("cpu", self.torch.float32, copy=True).numpy()
            depth = max(0, sum(self._calls[leaf] for leaf in self.leaves) - 1)
            self._records[layer] = _Record(layer, values, axis, depth)

        return record

    def take(self) -> dict[str, _Record]:
        """Hand out the records of the pass that has ended, and start afresh."""
        records, self._records = self._records, {}
        for path in self.chosen - self._calls.keys():
            self.skipped[path] = "it was not called"
        self._calls.clear()
        return records

    def usable(self, records: Iterable[_Record], examples: int) -> dict[str, _Layer]:
        """Choose the records with one row per example and axes that have names; note the others as skipped."""
        usable = {}
        for record in records:
            shape = record.values.shape
            dims = dims_of(shape, record.channel_axis)
            if shape[:1] != (examples,):
                self.skipped[record.layer] = f"its first axis is not the {examples} examples: shape {shape}"
            elif 0 in shape:
                self.skipped[record.layer] = f"it is empty: shape {shape}"
            elif dims is None:
                self.skipped[record.layer] = f"its {len(shape)} axes have no names: shape {shape}"
            else:
                usable[record.layer] = _Layer(dims, record.depth)
        return usable

    def _first_tensor(self, output: Any) -> Any:
        if isinstance(output, Mapping):
            output = tuple(output.values())
        if isinstance(output, tuple | list):
            return next((entry for entry in output if isinstance(entry, self.torch.Tensor)), None)
        return output if isinstance(output, self.torch.Tensor) else None


def _channel_axis(module: Any, args: tuple[Any, ...], output: Any) -> int | None:
    # Names alone mislead: the Conv1D of transformers is a linear layer.
    kind = next(base.__name__ for base in type(module).__mro__ if base.__module__.startswith("torch.nn."))
    if kind.startswith(CHANNELS_FIRST):
        return 1 if output.ndim >= 3 else None
    # A class derived from LayerNorm usually moves the axes itself.
    if kind == type(module).__name__ and kind.startswith(CHANNELS_LAST):
        return output.ndim - 1 if output.ndim >= 4 else None
    # What a container returns was marked by its last module, unless the container went on computing.
    for tensor in (output, *args[:1]):
        if hasattr(tensor, MARK) and tensor.shape == output.shape:
            axis: int | None = getattr(tensor, MARK)
            return axis
    return None


@contextmanager
def _evaluating(model: Any, modules: Mapping[str, Any], recorder: _Recorder) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    handles = [module.register_forward_hook(recorder.hook(path)) for path, module in modules.items()]
    model.eval()
    try:
        with recorder.torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode


def _feed(torch: Any, model: Any, batch: Any, device: Any) -> int:
    """Run the model on a batch, and return its number of examples."""
    if isinstance(batch, tuple | list):
        batch = batch[0]
    if isinstance(batch, Mapping):
        arguments = {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}
        tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
        model(**arguments)
    else:
        tensors = [torch.as_tensor(batch, device=device)]
        model(tensors[0])
    return len(tensors[0])
