"""Activations of a live PyTorch model into a zoo."""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from dask_svcca.capture._common import (
    CaptureReport,
    check_begin,
    check_layers,
    listing,
    require,
    select,
)
from dask_svcca.capture.torch.batches import Feeder, check_order
from dask_svcca.capture.torch.hooks import Recorder, computing, evaluating, named_modules, unwrapped
from dask_svcca.capture.torch.passes import passes
from dask_svcca.capture.torch.records import Pool
from dask_svcca.capture.torch.work import Capture
from dask_svcca.errors import CaptureError, CaptureWarning
from dask_svcca.stores.zoo import Zoo, open_zoo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dask_svcca.stores._documents import Compression
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Stored


def capture_torch(
    model: Any,
    batches: Iterable[Any],
    *,
    zoo: Zoo | StoreLike,
    name: str,
    checkpoint: str,
    step: float | None = None,
    parent: str | None = None,
    layers: str | Sequence[str] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    inputs: Sequence[str | None] | None = None,
    ids: str | int | None = None,
    pool: Pool | None = None,
    compression: Compression = "lz4",
    dtype: Stored | None = None,
    overwrite: bool = False,
) -> CaptureReport:
    """Write what the modules of a PyTorch model put out, over all examples, to a zoo.

    The model runs in evaluation mode and without gradients; afterwards its modules are in their former mode. One
    batch is held at a time. Axes are stored in the order example, positions or tokens, neurons, in the precision in
    which they come, bfloat16 as float32. Representations that the zoo already has are left alone.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled, data-parallel and averaged models are unwrapped.
    batches : iterable
        The zoo's examples in the zoo's order: do not shuffle, do not drop the last batch. A batch is a tensor, a dict
        of keyword arguments, or of all that a model takes as one argument, or a tuple. Those entries of a tuple go to
        the model that its ``forward`` needs, and a mask if it takes one; labels stay out. An entry that could be
        either is refused: see ``inputs``.
    zoo : Zoo, path, zarr store, or URL
        Open for writing, or the place of a zoo made by `create_zoo`.
    name, checkpoint : str
        What to call the model and the checkpoint.
    step : float, optional
        Training step or epoch, for ordering checkpoints.
    parent : str, optional
        The checkpoint that the training of this one began with, as ``"model/checkpoint"``: see `Zoo.write`.
    layers : str or sequence of str, optional
        Names of modules as in ``model.named_modules()``, patterns as for files: ``"block1.*"``, several separated by
        commas. Default: all modules, blocks too, except those that only repeat the output of another.
    dims : mapping of str to sequence of str, optional
        Names of the axes of a module's output by name or pattern, where nothing else says what they are: ``example``,
        ``token``, ``head``, ``depth``, ``height``, ``width``, and ``neuron`` or ``channel``. Heads become neurons.
    inputs : sequence of str, optional
        Names of the model's arguments that the entries of a tuple are, None for one that stays out; or the keys of a
        dict that go in. Default: as ``forward`` takes them.
    ids : str or int, optional
        Key, or position in a tuple, of the ids of the examples. They are compared with the zoo's. Default: one of the
        keys ``example``, ``example_id`` and ``id``, where ``forward`` takes no such argument.
    pool : {"mean", "last", "first"}, optional
        Store one vector an example instead of one a token, without the padding that a mask tells. For batches that
        are padded to unequal lengths.
    compression : {"lz4", "zstd", "none"}
    dtype : {"float16", "float32", "float64"}, optional
        See `Zoo.write`.
    overwrite : bool
        Replace representations that the zoo has.

    Returns
    -------
    CaptureReport
        ``skipped`` names the modules that gave no representation, and why.

    Raises
    ------
    CaptureError
        Where no module matches, none gives a representation, or one gives it for some batches only; where a batch does
        not say what goes into the model; where a checkpoint would hold layers of different weights.
    MismatchedExamplesError
        Where there are more or fewer examples than in the zoo, they come in random order, have other ids or another
        mask than the zoo's, or differ from what other checkpoints of the model were fed, or in their order from what
        other models were fed.
    StoreFormatError
        Where there is no zoo at that place, or it is open for reading only.
    MissingPackageError
        Without PyTorch.

    Warns
    -----
    CaptureWarning
        Where the zoo has layers already, of other weights, inputs or values, or in another form: they are left as they
        are. Where layers have other tokens than the mask, or compute on quantised values, or an input may be a mask and
        nothing says it. The sentences are the report's ``caution`` too.

    Notes
    -----
    A module called several times in a pass gives ``name``, ``name#2`` and so on. A module that returns several
    tensors gives the first. Functions such as ``torch.nn.functional.relu`` have no hooks: make them modules. A model
    without modules inside gives one layer, called as its class.

    Axes are followed through the operations of the pass, from modules and functions that define them: a convolution,
    batch norm or pooling has channels first, a linear layer or layer norm has them last, recurrent and attention
    modules say whether examples come first. Up to three axes are otherwise (example, token, neuron); four of which
    nothing is known, such as attention heads, are skipped.

    A few examples of the first batch are run a second time, in another number and order. Modules are skipped that do
    not give the same values for them: where another axis is the examples, where values for an example depend on the
    other examples, or where they are random.

    A mask in the batches (``attention_mask``, or ``padding_mask``, which marks the padding) becomes the zoo's
    coordinate ``mask``, also where the model does not take it. So does a tensor of zeros and ones under any name where
    all that it leaves out has one and the same id; an input of any name, or a mask made inside, that the model hands to
    a module as ``key_padding_mask`` or ``attention_mask``; and the lengths of a packed sequence. A zoo has one: of a
    model that reads two sequences, such as an encoder-decoder or one of images and texts, layers of the other sequence
    are skipped where they have as many tokens. With ``pool`` each is pooled under the mask of its own, as of
    ``decoder_attention_mask``.

    Digests of the inputs and of the weights are stored with every representation, as ``inputs_digest``,
    ``inputs_set_digest``, which does not depend on the order of the examples, ``weights_digest``, and
    ``buffers_digest`` of what the model's state does not hold.

    Activations that wait for a chunk to be full take 256 MiB at most, for all layers together, beside one batch.

    Examples
    --------
    In a training loop, with a loader of held-out images and labels that does not shuffle::

        if step in (0, 10, 100, 1000):
            capture_torch(model, loader, zoo="zoo.zarr", name="mine", checkpoint=f"step{step:05d}", step=step)
    """
    torch = require("torch", "torch")
    started = time.perf_counter()
    if pool is not None and pool not in get_args(Pool):
        raise ValueError(f"pool is one of {', '.join(map(repr, get_args(Pool)))}, or None; got {pool!r}")
    for what, value in {"name": name, "checkpoint": checkpoint}.items():
        if not isinstance(value, str):
            raise CaptureError(f"{what}={value!r} is not a text: name it as in {what}={f'{what}{value}'!r}")
    check_begin(parent, name, checkpoint)
    if not isinstance(zoo, Zoo):
        zoo = open_zoo(zoo, mode="r+")
    check_order(batches, name)
    inner = unwrapped(torch, model)
    if isinstance(inner, torch.jit.ScriptModule):
        raise CaptureError(
            f"the model {name!r} is compiled by TorchScript, which takes no hooks: capture the model that it was made "
            f"of, or export it to ONNX"
        )
    modules = named_modules(torch, inner)
    chosen = computing(torch, modules) if layers is None else select(modules, layers)
    check_layers(modules, layers, f"the model {name!r}")
    if not chosen:
        raise CaptureError(f"layers={layers!r} chooses no module of the model {name!r}; it has {listing(modules)}")
    recorder = Recorder(torch, modules, frozenset(chosen), drop=layers is None)
    feeder = Feeder(torch, inner, name, inputs, ids)
    # A handle of its own: what a failure leaves half written does not stay in the caller's.
    with Zoo(zoo.root, writable=not zoo.root.read_only) as writer:
        capture = Capture(
            writer,
            name,
            checkpoint,
            inner,
            dims=dims or {},
            pool=pool,
            drop=layers is None,
            overwrite=overwrite,
            options={
                "step": step,
                "parent": parent,
                "compression": compression,
                "dtype": dtype,
                "overwrite": overwrite,
            },
        )
        with evaluating(torch, inner), recorder.attached(), writer.together():
            for feed, records in passes(
                inner,
                batches,
                feeder,
                recorder,
                complete=lambda: capture.complete,
                before=partial(capture.prepare, inner, recorder),
            ):
                if capture.take(feed, records, recorder):
                    break
            capture.finish(recorder, dropped=bool(getattr(batches, "drop_last", False)))
    caution = capture.caution
    if caution:
        warnings.warn(caution, CaptureWarning, stacklevel=2)
    zoo.refresh()
    return CaptureReport(
        model=name,
        checkpoint=checkpoint,
        written=len(capture.missing),
        present=len(capture.chosen.layers) - len(capture.missing),
        examples=zoo.n_examples,
        nbytes=capture.nbytes,
        seconds=time.perf_counter() - started,
        skipped=recorder.skipped,
        caution=caution,
    )
