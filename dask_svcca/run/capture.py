"""Capture many checkpoints: each is a task of its own, and if one fails, the others go on."""

from __future__ import annotations

import functools
import math
import numbers
import os
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dask_svcca.capture import onnx
from dask_svcca.capture._common import check_begin
from dask_svcca.errors import CaptureError, CaptureWarning, DaskSvccaError, MissingPackageError
from dask_svcca.patterns import matched
from dask_svcca.run.graphs import current_client, run_graph
from dask_svcca.stores._io import absolute
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import distributed

    from dask_svcca.capture._common import CaptureReport
    from dask_svcca.capture.onnx import Checkpoint
    from dask_svcca.stores._documents import Compression
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Stored

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with how many checkpoints are done or have failed, and how many there are."""


@dataclass
class CaptureOutcome(Generic[T]):
    """What became of the checkpoints, in the order they were given.

    Attributes
    ----------
    reports : dict
        Name of a checkpoint to what its capture returned.
    problems : dict of str to str
        Name of a checkpoint to why it could not be captured.
    seconds : float
    """

    reports: dict[str, T] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def capture_onnx(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    inputs: str | os.PathLike[str],
    zoo: StoreLike,
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    step: float | None = None,
    pattern: str | None = None,
    step_pattern: str | None = None,
    parent: str | None = None,
    layers: str | Sequence[str] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    batch_size: int | None = None,
    compression: Compression = "lz4",
    dtype: Stored | None = None,
    overwrite: bool = False,
    client: distributed.Client | None = None,
    progress: Progress | None = None,
) -> CaptureOutcome[CaptureReport]:
    r"""Capture the activations of ONNX checkpoints into a zoo, each file one checkpoint and one task.

    The layers are all floating tensors that a model computes, with the examples along the first axis, without those
    that only repeat another. Layers that the zoo has already are left alone, so that the same call goes on
    after an interruption.

    Parameters
    ----------
    paths : path, or iterable of paths
        ONNX files, at the same place on every worker.
    inputs : path
        The examples: npy, or npz with an array for each input of the models. Further arrays of an npz along the
        examples become coordinates, such as ``label``; the array ``example`` holds their ids. Without it,
        ids are hashes of what the models see.
    zoo : path, zarr store, or URL
        The zoo to write to; made if it is not there.
    model : str, optional
        Name of the model. Default: the file's name without its step, or the folder's where nothing else is in it.
        Files that differ in more than the step are models of their own.
    checkpoint : str, optional
        Name of the checkpoint, for a single file. Default: what the file's name says of the step, or all of it.
    step : float, optional
        Training step, for a single file. Default: the number behind ``step``, ``epoch``, ``iter``, ``ckpt`` or
        ``checkpoint`` in the file's name, or in its folder's; no other number is a step.
    pattern : str, optional
        How the end of a path spells names, with ``{model}``, ``{checkpoint}`` and ``{step}``.
    step_pattern : str, optional
        Regular expression that finds the step in a file's name, instead of these words: ``r"_(\d+)$"``.
    parent : str, optional
        The checkpoint that the training of these began with, as ``"model/checkpoint"``: see `Zoo.write`.
    layers : str or sequence of str, optional
        Names of tensors, or patterns: ``*`` for one level (text without dots and slashes), ``**`` for any text, ``?``
        for one character; one, several, or separated by commas. Default: all.
    dims : mapping of str to sequence of str, optional
        Names of the axes of tensors, by patterns of their names: ``{"stage*.mix": ("example", "height", "width",
        "channel")}``. For tensors of four or more axes of which operators do not say what they are; without, these are
        left out, and ``skipped`` of a report says so.
    batch_size : int, optional
        Examples computed at a time, at least 1. Default: as many as keep all tensors of a model within 64 MB.
    compression : {"lz4", "zstd", "none"}
        How the stored activations are compressed.
    dtype : {"float16", "float32", "float64"}, optional
        Type of the stored activations. Default: as they come.
    overwrite : bool
        Replace the layers that the zoo has already.
    client : distributed.Client, optional
        Default: the current client, else Dask's local scheduler, as for any Dask collection.
    progress : callable, optional
        Called with how many checkpoints are done or have failed, and how many there are.

    Returns
    -------
    CaptureOutcome
        By ``"model/checkpoint"``, ``reports`` of what was captured and ``problems`` of what could not be.

    Warns
    -----
    CaptureWarning
        Where the zoo has layers of these names that come from a model of other weights or from other inputs, or have
        another step, type or axes than this capture would give them. Where layers compute on quantised values.

    Raises
    ------
    CaptureError
        Where files cannot be named, the inputs cannot be read, or no checkpoint can be captured; where ``dims`` names
        axes that cannot be, or tensors that no model computes; where one of ``layers`` matches none of any model.
    MismatchedExamplesError
        Where the zoo is there and has other examples.
    MissingPackageError
        Without the extra ``onnx``.

    Examples
    --------
    >>> import tempfile
    >>> from dask_svcca.demo import find_networks
    >>> networks = find_networks()
    >>> files = sorted(networks.glob("cnn-s0/*.onnx"))[:2]
    >>> zoo = tempfile.mkdtemp() + "/zoo.zarr"
    >>> outcome = capture_onnx(files, networks / "examples.npz", zoo, layers="relu*,logits")
    >>> {name: report.written for name, report in outcome.reports.items()}
    {'cnn-s0/step00000': 6, 'cnn-s0/step00005': 6}
    """
    if not isinstance(inputs, str | os.PathLike):
        raise CaptureError(
            f"inputs is the path of a file that all workers can read, npy or npz; got {type(inputs).__name__}. Save "
            f"arrays first: np.save('inputs.npy', array), or np.savez('inputs.npz', name=array, ...)"
        )
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    checkpoints = name_files(
        files,
        model=model,
        checkpoint=checkpoint,
        step=step,
        parent=parent,
        pattern=pattern,
        step_pattern=step_pattern,
    )
    axes = onnx.given_axes(dims)
    if axes:
        _check_patterns(axes, checkpoints, client)
    wanted = _layers_of_each(layers or None, checkpoints, client)
    inputs_path, place = str(Path(inputs).expanduser().absolute()), absolute(zoo)
    _prepare_zoo(place, inputs_path, checkpoints, client)
    captures = {
        f"{item.model}/{item.checkpoint}": functools.partial(
            onnx.capture_checkpoint,
            item.path,
            inputs_path,
            place,
            model=item.model,
            checkpoint=item.checkpoint,
            step=item.step if step is None else step,
            parent=parent,
            layers=wanted.get(item.model),
            dims=axes,
            batch_size=batch_size,
            compression=compression,
            dtype=dtype,
            overwrite=overwrite,
        )
        for item in checkpoints
    }
    outcome = capture_each(captures, client=client, progress=progress)
    if not outcome.reports:
        raise _nothing_captured(outcome.problems, len(checkpoints))
    for report in outcome.reports.values():
        if report.caution:
            warnings.warn(report.caution, CaptureWarning, stacklevel=2)
    return outcome


def name_files(
    files: Sequence[str | os.PathLike[str]],
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    step: float | None = None,
    parent: str | None = None,
    pattern: str | None = None,
    step_pattern: str | None = None,
) -> list[Checkpoint]:
    """Names for the files of `capture_onnx`, with paths that hold in any working directory.

    Raises
    ------
    CaptureError
        Where no file is given, several would get one name, a path does not follow the pattern, a name is not text, or
        the parent is not a checkpoint, or is one of the files.
    """
    if not files:
        raise CaptureError("no model file is given; give the path of at least one ONNX file")
    if len(files) > 1 and (checkpoint is not None or step is not None):
        raise CaptureError(
            f"checkpoint and step name a single file, and {len(files):,} files are given. Let their paths name them, "
            f"with a pattern such as '{{model}}/epoch{{step}}'"
        )
    # Types that annotations rule out come all the same: checkpoint=3.
    given: dict[str, Any] = {"model": model, "checkpoint": checkpoint, "step": step}
    for what in ("model", "checkpoint"):
        if not isinstance(given[what], str | None):
            raise CaptureError(f"{what} is a name, and so text, such as {str(given[what])!r}; got {given[what]!r}")
    if given["step"] is not None and not (isinstance(given["step"], numbers.Real) and math.isfinite(given["step"])):
        raise CaptureError(f"step must be a finite number, or None for none; got {step!r}")
    absolute = [Path(file).expanduser().absolute() for file in files]
    named = onnx.name_checkpoints(
        absolute, model=model, checkpoint=checkpoint, pattern=pattern, step_pattern=step_pattern
    )
    for one in named:
        check_begin(parent, one.model, one.checkpoint)
    return named


def capture_each(
    captures: Mapping[str, Callable[[], T]],
    *,
    client: distributed.Client | None = None,
    progress: Progress | None = None,
) -> CaptureOutcome[T]:
    """Capture checkpoints, each in one task.

    Parameters
    ----------
    captures : mapping of str to callable
        What to call for each checkpoint, on a worker: without arguments, and small enough to send there. It writes to
        a store that all share, and may run more than once.
    client : distributed.Client, optional
        Default: the current client, else Dask's local scheduler, as for any Dask collection.
    progress : callable, optional

    Returns
    -------
    CaptureOutcome
        A capture that raises is among its ``problems``. No error is raised for it, so that the others go on.

    Raises
    ------
    MissingPackageError
        Where an optional package is missing, for all of them need it.

    Examples
    --------
    >>> outcome = capture_each({"good": lambda: 13, "bad": lambda: int("x")})
    >>> outcome.reports, outcome.problems
    ({'good': 13}, {'bad': "ValueError: invalid literal for int() with base 10: 'x'"})
    """
    started = time.perf_counter()
    name = uuid.uuid4().hex[:12]
    labels = {f"capture-{name}-{position}": label for position, label in enumerate(captures)}
    results: dict[str, tuple[T | None, str]] = {}

    def on_done(key: str, result: tuple[T | None, str]) -> None:
        results[labels[key]] = result
        if progress is not None:
            progress(len(results), len(captures))

    graph = {key: (_attempt, captures[label]) for key, label in labels.items()}
    run_graph(graph, list(graph), on_done, current_client(client))
    outcome: CaptureOutcome[T] = CaptureOutcome(seconds=time.perf_counter() - started)
    for label in captures:
        report, problem = results[label]
        if problem:
            outcome.problems[label] = problem
        elif report is not None:
            outcome.reports[label] = report
    return outcome


def _prepare_zoo(
    zoo: StoreLike, inputs_path: str, checkpoints: Sequence[Checkpoint], client: distributed.Client | None
) -> None:
    """Make the zoo, whose examples are what the models see.

    A model file is read on the cluster, not here: it may be large, and perhaps it can be read only there.
    """
    unread: dict[str, list[str]] = {}
    for item in checkpoints:
        unread.setdefault(item.model, []).append(item.path)
    names: dict[str, list[str]] = {name: [] for name in unread}
    problems: dict[str, str] = {}
    # The first file of a model that can be read says what its inputs are.
    while unread:
        readers = {model: functools.partial(onnx.input_names, paths[0]) for model, paths in unread.items()}
        outcome = capture_each(readers, client=client)
        names |= outcome.reports
        problems = outcome.problems | problems
        unread = {model: unread[model][1:] for model in outcome.problems if unread[model][1:]}
    readable = [inputs for inputs in names.values() if inputs]
    if not readable:
        raise _nothing_captured(problems, len(checkpoints))
    file = onnx.load_inputs(inputs_path)
    every = dict.fromkeys(name for inputs in readable for name in inputs)
    create_zoo(zoo, examples=file.ids(readable[0]), coords=file.coords([*every]), exist_ok=True)


def _check_patterns(axes: Iterable[str], checkpoints: Sequence[Checkpoint], client: distributed.Client | None) -> None:
    """Refuse names of axes for tensors that no model computes; some models may be without them."""
    outcome = capture_each(
        {item.path: functools.partial(onnx.tensor_names, item.path) for item in checkpoints}, client=client
    )
    if not outcome.reports:
        raise _nothing_captured(outcome.problems, len(checkpoints))
    where = repr(checkpoints[0].path) if len(checkpoints) == 1 else f"any of {len(checkpoints):,} files"
    onnx.check_patterns(axes, dict.fromkeys(name for names in outcome.reports.values() for name in names), where)


def _layers_of_each(
    layers: str | Sequence[str] | None, checkpoints: Sequence[Checkpoint], client: distributed.Client | None
) -> dict[str, str | Sequence[str] | None]:
    """The patterns of layers for each model: of several models, those that match what it computes.

    Raises
    ------
    CaptureError
        Where a pattern matches no tensor of any model.
    """
    first = {item.model: item.path for item in reversed(checkpoints)}
    if layers is None or len(first) == 1:
        return dict.fromkeys(first, layers)
    outcome = capture_each(
        {model: functools.partial(onnx.tensor_names, path) for model, path in first.items()}, client=client
    )
    every = dict.fromkeys(name for names in outcome.reports.values() for name in names)
    if every:
        onnx.check_layers(every, layers, f"any of {len(first):,} models")
    return {model: matched(outcome.reports.get(model, ()), layers) or layers for model in first}


def _nothing_captured(problems: Mapping[str, str], files: int) -> CaptureError:
    more = f" (and {files - 1:,} more of {files:,} files failed)" if files > 1 else ""
    return CaptureError(next(iter(problems.values())) + more)


def _attempt(capture: Callable[[], T]) -> tuple[T | None, str]:
    try:
        return capture(), ""
    except MissingPackageError:
        # Nothing can be captured here without it; another worker may have it.
        raise
    except DaskSvccaError as error:
        return None, str(error)
    except (OSError, RuntimeError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"
