"""``dask-svcca capture``: activations of models into a zoo."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import click

from dask_svcca.cli._cluster import cluster_options, connected
from dask_svcca.cli._console import (
    Bars,
    counted,
    echo_caution,
    echo_next,
    echo_problems,
    examples,
    resumable,
    seconds,
    size,
)
from dask_svcca.cli._paths import File, Place, files, quoted
from dask_svcca.cli._storage import storage_options
from dask_svcca.patterns import RULE
from dask_svcca.run.capture import capture_onnx, name_files

AXES_HELP = "Axes of tensors whose operators do not say them, such as 'mix*=example,height,width,channel'."


@click.group()
def capture() -> None:
    """Capture the activations of models into a zoo."""


@capture.command(
    "onnx",
    epilog=examples(
        "dask-svcca capture onnx runs/*/*.onnx --inputs probe.npz --zoo zoo.zarr",
        "dask-svcca capture onnx vit.onnx --inputs probe.npy --zoo zoo.zarr --layers 'block*.add,logits'",
        "dask-svcca capture onnx out/*.onnx --inputs probe.npy --zoo zoo.zarr --name '{model}-epoch{step}'",
    ),
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--inputs",
    required=True,
    type=File(),
    metavar="FILE",
    help="The examples: npy, or npz with an array for each model input. In an npz, further arrays along the "
    "examples become coordinates, such as label; the array example holds their ids.",
)
@click.option(
    "--zoo", required=True, type=Place(), metavar="STORE", help="The zoo to write to; made if it is not there."
)
@click.option(
    "--model", metavar="NAME", help="Name of the model [default: the file's name without the step, or its folder]."
)
@click.option(
    "--checkpoint", metavar="NAME", help="Name of the checkpoint, for a single file [default: from its name]."
)
@click.option(
    "--step",
    type=float,
    metavar="NUMBER",
    help="Training step, for a single file [default: the number behind step, epoch, iter, ckpt or checkpoint].",
)
@click.option(
    "--parent", metavar="MODEL/CHECKPOINT", help="The checkpoint that the training of these began with, if any."
)
@click.option(
    "--name",
    "pattern",
    metavar="PATTERN",
    help="How the end of a path spells names, with {model}, {checkpoint} and {step}.",
)
@click.option(
    "--step-pattern",
    metavar="REGEX",
    help=r"Where a file's name has the step, instead of behind these words, such as '_(\d+)$'.",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help=f"Names of tensors: {RULE}. May be repeated, or separated by commas [default: all].",
)
@click.option(
    "--dims",
    "axes",
    multiple=True,
    metavar="PATTERN=NAMES",
    help=AXES_HELP,
)
@click.option("--overwrite", is_flag=True, help="Replace layers that the zoo has already.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Examples at a time [default: to fit 64 MB]."
)
@storage_options
@cluster_options
def onnx(
    models: tuple[str, ...],
    *,
    inputs: str,
    zoo: str,
    model: str | None,
    checkpoint: str | None,
    step: float | None,
    parent: str | None,
    pattern: str | None,
    step_pattern: str | None,
    layers: tuple[str, ...],
    axes: tuple[str, ...],
    overwrite: bool,
    batch_size: int | None,
    compression: Any,
    dtype: Any,
    workers: int | None,
    memory: str | None,
    scheduler: str | None,
) -> None:
    """Capture ONNX checkpoints, each file one checkpoint.

    A number in a file's name is the training step only behind step, epoch, iter, ckpt or checkpoint, as in
    resnet50-epoch3.onnx or resnet50/epoch3.onnx, which are both model resnet50, checkpoint epoch3. Files that differ in
    anything else are models of their own.

    The layers are all floating tensors that the model computes, with the examples
    along the first axis, without those that only repeat another. Layers that the zoo has already are left alone, so
    that the same command goes on after an interruption.
    """
    # Wrong names are refused before a cluster is started for them.
    paths = files(models)
    name_files(
        paths,
        model=model,
        checkpoint=checkpoint,
        step=step,
        parent=parent,
        pattern=pattern,
        step_pattern=step_pattern,
    )
    dims = named_axes(axes)
    bars = Bars({"capture": ("Capturing activations", "checkpoints")})
    with (
        # What they say is shown below.
        warnings.catch_warnings(),
        resumable("checkpoints", bars),
        connected(workers, memory, scheduler) as client,
        bars,
    ):
        warnings.simplefilter("ignore", UserWarning)
        outcome = capture_onnx(
            paths,
            inputs,
            zoo,
            model=model,
            checkpoint=checkpoint,
            step=step,
            parent=parent,
            pattern=pattern,
            step_pattern=step_pattern,
            layers=layers,
            dims=dims,
            overwrite=overwrite,
            batch_size=batch_size,
            compression=compression,
            dtype=dtype,
            client=client,
            progress=functools.partial(bars, "capture"),
        )
    reports = outcome.reports.values()
    written, present = sum(report.written for report in reports), sum(report.present for report in reports)
    click.echo(
        f"Captured {counted(written, 'representation')} of {counted(len(reports), 'checkpoint')} in "
        f"{seconds(outcome.seconds)}: {size(sum(report.nbytes for report in reports))}"
        + (f"; {counted(present, 'representation')} were there already." if present else ".")
    )
    for report in reports:
        if report.caution:
            echo_caution(report.caution)
    skipped = {name: reason for report in reports for name, reason in report.skipped.items()}
    if skipped:
        name, reason = next(iter(skipped.items()))
        click.echo(
            f"{counted(len(skipped), 'tensor')} left out, {name!r} because {reason}. "
            f"'dask-svcca layers {quoted(paths[0])}' lists all.",
            err=True,
        )
    echo_problems(outcome.problems, "checkpoint")
    if outcome.problems:
        raise SystemExit(1)
    echo_next(
        [
            (f"dask-svcca info {quoted(zoo)}", "what the zoo holds"),
            (f"dask-svcca compare {quoted(zoo)} comparison.zarr", "compare every layer with every other"),
        ]
    )


def named_axes(given: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Axes of tensors by patterns of their names, from text such as ``mix*=example,height,width,channel``.

    Examples
    --------
    >>> named_axes(("mix*=example,height,width,channel",))
    {'mix*': ('example', 'height', 'width', 'channel')}
    """
    axes = {}
    for text in given:
        pattern, separator, names = text.rpartition("=")
        if not separator or not pattern:
            raise click.UsageError(
                f"--dims {text!r} is not PATTERN=NAMES, such as 'mix*=example,height,width,channel'."
            )
        axes[pattern] = tuple(name.strip() for name in names.split(","))
    return axes
