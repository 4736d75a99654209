"""``dask-svcca models``: models of a comparison beside each other, one number for each two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import numpy as np

from dask_svcca.analysis.measured import as_dataset, null_of, p_value_of, p_values_of
from dask_svcca.analysis.models import Kind, model_similarity
from dask_svcca.analysis.query import PairQuery
from dask_svcca.cli._console import counted, estimates_cautioned, examples, number, p_number, table
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._listing import DEFAULT_TOP, check_form, listing
from dask_svcca.cli._measures import split_measures
from dask_svcca.cli._paths import Place
from dask_svcca.patterns import RULE

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

PARTS = ("model", "checkpoint", "layer")


@click.command(
    epilog=examples(
        "dask-svcca models comparison.zarr --measure cka --exclude logits",
        "dask-svcca models comparison.zarr --kind transport --depth 0.2 --csv models.csv",
        "dask-svcca models comparison.zarr --model 'cnn*' --checkpoint '**' --top 50",
    )
)
@click.argument("comparison", type=Place())
@click.option(
    "--kind",
    type=click.Choice(get_args(Kind)),
    default="best",
    show_default=True,
    help="best: each layer of the first with the most similar of the second, in the mean. maximum: the most similar "
    "two. transport: the best plan that shares out layers over layers.",
)
@click.option(
    "--depth",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="VALUE",
    help="What a plan pays for a layer at the input that goes to one at the output [default: nothing].",
)
@click.option("--model", multiple=True, metavar="PATTERN", help=f"Models: {RULE}.")
@click.option(
    "--checkpoint",
    multiple=True,
    metavar="PATTERN",
    help="Checkpoints, each an entry of its own [default: the final one of each model].",
)
@click.option("--layer", multiple=True, metavar="PATTERN", help="Layers that count. All patterns may be repeated.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Layers to leave out, such as the logits.")
@listing
def models(
    comparison: str,
    *,
    kind: Kind,
    depth: float,
    exclude: tuple[str, ...],
    measures: tuple[str, ...],
    top: int | None,
    csv_file: str | None,
    as_json: bool,
    **patterns: tuple[str, ...],
) -> None:
    """List the models of a COMPARISON, each beside each other, the most similar first.

    One number for each two models, from the similarities of their layers, what the same search gives by chance, and
    how often it gives as much.
    With the kind best each pair is listed in both orders: a small network may be in a large one.
    """
    check_form(csv_file, as_json=as_json)
    if depth and kind != "transport":
        raise click.UsageError(f"--depth is for --kind transport, which makes a plan; not for {kind}.")
    with estimates_cautioned():
        found = model_similarity(
            comparison,
            measure=split_measures(measures) or None,
            kind=kind,
            where={part: patterns[part] for part in PARTS if patterns[part]},
            exclude=exclude,
            depth=depth,
        )
    result = as_dataset(found)
    names = [str(name) for name in found.data_vars if found[name].attrs.get("sense") in ("similarity", "distance")]
    shown = [one for name in names for one in (name, null_of(result, name), p_value_of(result, name)) if one]
    pairs = PairQuery.build(result, shown)
    best, total = pairs.most_similar(top if as_json or csv_file is not None else top or DEFAULT_TOP)
    best = best.drop(columns=["layer_a", "layer_b", "depth_a", "depth_b"])
    if as_json:
        echo_json(
            {
                "comparison": comparison,
                "kind": kind,
                "measures": names,
                "matching": total,
                "without": _without(found),
                "pairs": best.to_dict("records"),
            }
        )
        return
    if csv_file is not None:
        text = best.to_csv(index=False)
        if csv_file == "-":
            click.echo(text, nl=False)
        else:
            Path(csv_file).write_text(text, encoding="utf-8", newline="")
    elif total:
        parts = ("model",) if found.indexes["model_a"].is_unique else ("model", "checkpoint")
        table(
            [*parts, *(f"{part} " for part in parts), *shown],
            [_row(row, parts, shown, p_values_of(result)) for _, row in best.iterrows()],
            right=shown,
        )
    _say_what_is_left(_without(found), total, len(best))


def _say_what_is_left(without: int, total: int, listed: int) -> None:
    """What the list does not show, on standard error."""
    if without:
        click.echo(
            f"{counted(without, 'pair')} of models without a value, since pairs of their layers have none; 'dask-svcca "
            f"info' says what is missing or failed, and --layer and --exclude leave layers out.",
            err=True,
        )
    elif not total:
        click.echo(
            "There is one model, and nothing to compare it with; --checkpoint '**' takes all checkpoints.", err=True
        )
    if total > listed:
        click.echo(f"{listed:,} of {counted(total, 'pair')}; more with --top N, all with --csv.", err=True)


def _without(found: xr.Dataset) -> int:
    """Pairs of models without a value, each once and no model with itself."""
    return int(np.triu(found["missing"].to_numpy() > 0, 1).sum())


def _row(row: pd.Series[Any], parts: tuple[str, ...], shown: list[str], p_values: frozenset[str]) -> list[str]:
    names = (str(row[f"{part}_{side}"]) for side in "ab" for part in parts)
    return [*names, *((p_number if one in p_values else number)(row[one]) for one in shown)]
