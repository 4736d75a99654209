"""``dask-svcca layers``: what of a model can be captured, before it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dask_svcca.capture.onnx import survey_model
from dask_svcca.cli._console import counted, examples, table
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._paths import File
from dask_svcca.cli.capture import AXES_HELP, named_axes
from dask_svcca.patterns import RULE

if TYPE_CHECKING:
    from dask_svcca.capture.onnx import Layer


@click.command(
    epilog=examples(
        "dask-svcca layers resnet18.onnx",
        "dask-svcca layers bert.onnx --inputs probe.npz --layers '**attention**'",
        "dask-svcca layers resnet18.onnx --json",
    )
)
@click.argument("model", type=File())
@click.option("--inputs", type=File(), metavar="FILE", help="The examples, as for capture [default: zeros].")
@click.option(
    "--layers",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help=f"Names of tensors: {RULE}. May be repeated, or separated by commas [default: all].",
)
@click.option("--dims", "axes", multiple=True, metavar="PATTERN=NAMES", help=AXES_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def layers(model: str, *, inputs: str | None, patterns: tuple[str, ...], axes: tuple[str, ...], as_json: bool) -> None:
    """List the layers of an ONNX MODEL that can be captured, and what is left out and why.

    Shapes are those of an example. They are seen by running the model on a few: those of --inputs, or zeros, with 16
    entries along axes that the model leaves open.
    """
    survey = survey_model(model, inputs_path=inputs, dims=named_axes(axes))
    chosen = survey.choose(patterns or None)
    if as_json:
        echo_json(
            {
                "model": model,
                "layers": [
                    {
                        "layer": layer.name,
                        "operator": layer.op_type,
                        "depth": layer.depth,
                        "dims": layer.dims,
                        "shape": layer.shape,
                        "source_dtype": layer.source_dtype,
                    }
                    for layer in chosen
                ],
                "skipped": survey.skipped,
            }
        )
        return
    table(["layer", "operator", "shape", "axes"], [_row(layer) for layer in chosen])
    if survey.skipped and not patterns:
        click.echo(f"\n{counted(len(survey.skipped), 'tensor')} left out:")
        for name, reason in survey.skipped.items():
            click.echo(f"  {name}: {reason}")


def _row(layer: Layer) -> list[str]:
    return [layer.name, layer.op_type, " x ".join(map(str, layer.shape)), ", ".join(layer.dims[1:])]
