"""``dask-svcca query``: pairs of a comparison, by name and value."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from dask_svcca.analysis.measured import p_values_of
from dask_svcca.analysis.query import Across, PairQuery
from dask_svcca.cli._console import counted, examples, number, p_number, table
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._listing import DEFAULT_TOP, check_form, listing
from dask_svcca.cli._measures import split_measures
from dask_svcca.cli._paths import Place
from dask_svcca.patterns import RULE
from dask_svcca.stores.dataset import open_comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

PARTS = ("model", "checkpoint", "layer")


@click.command(
    epilog=examples(
        "dask-svcca query comparison.zarr --top 10",
        "dask-svcca query comparison.zarr --model-a 'resnet*' --model-b 'cnn*' --layer-a fc --layer-b fc",
        "dask-svcca query comparison.zarr --model-a resnet-s0 --min 0.9 --csv pairs.csv",
    )
)
@click.argument("comparison", type=Place())
@click.option("--model-a", multiple=True, metavar="PATTERN", help=f"Models of the first layer: {RULE}.")
@click.option("--checkpoint-a", multiple=True, metavar="PATTERN")
@click.option("--layer-a", multiple=True, metavar="PATTERN")
@click.option(
    "--model-b", multiple=True, metavar="PATTERN", help="Models of the second layer. All patterns may be repeated."
)
@click.option("--checkpoint-b", multiple=True, metavar="PATTERN")
@click.option("--layer-b", multiple=True, metavar="PATTERN")
@click.option(
    "--across",
    type=click.Choice(get_args(Across)),
    help="Only pairs of layers of different checkpoints, or of different models [default: all pairs].",
)
@click.option("--min", "low", type=float, metavar="VALUE", help="Only values from here.")
@click.option("--max", "high", type=float, metavar="VALUE", help="Only values up to here.")
@listing
def query(
    comparison: str,
    *,
    across: Across | None,
    measures: tuple[str, ...],
    low: float | None,
    high: float | None,
    top: int | None,
    csv_file: str | None,
    as_json: bool,
    **patterns: tuple[str, ...],
) -> None:
    """List pairs of a COMPARISON, the most similar first.

    Each pair is listed once, with a directed measure once each way, and no representation with itself. Layers of one
    network are often most similar to their neighbours: --across checkpoints and --across models leave such pairs out.
    Only the rows and columns asked for are read.
    """
    check_form(csv_file, as_json=as_json)
    if not (-math.inf if low is None else low) <= (math.inf if high is None else high):
        given = " ".join(f"{name} {value:g}" for name, value in (("--min", low), ("--max", high)) if value is not None)
        raise click.UsageError(f"{given} is an empty interval: no value lies in it.")
    result = open_comparison(comparison)
    pairs = PairQuery.build(
        result,
        split_measures(measures) or None,
        a={part: patterns[f"{part}_a"] for part in PARTS if patterns[f"{part}_a"]},
        b={part: patterns[f"{part}_b"] for part in PARTS if patterns[f"{part}_b"]},
        across=across,
        low=low,
        high=high,
    )
    if as_json:
        best, total = pairs.most_similar(top)
        records = best.to_dict("records")
        names = [pairs.measure, *pairs.others]
        echo_json({"comparison": comparison, "measures": names, "matching": total, "pairs": records})
        return
    if csv_file is not None:
        _write_csv(pairs, csv_file, top)
        return
    best, total = pairs.most_similar(top or DEFAULT_TOP)
    if not total:
        said = pairs.say_estimates()
        then = f"; {said}." if said else "; 'dask-svcca info' says what is missing or failed."
        click.echo(f"No pair with a value matches{then}", err=True)
        return
    table(
        ["model", "checkpoint", "layer", "model ", "checkpoint ", "layer ", pairs.measure, *pairs.others],
        [_row(row, (pairs.measure, *pairs.others), p_values_of(result)) for _, row in best.iterrows()],
        right=(pairs.measure, *pairs.others),
    )
    within = int(((best["model_a"] == best["model_b"]) & (best["checkpoint_a"] == best["checkpoint_b"])).sum())
    if within:
        click.echo(
            f"{within:,} of these are layers of one checkpoint; --across checkpoints, or --across models, leaves such "
            f"pairs out.",
            err=True,
        )
    if total > len(best):
        click.echo(f"{len(best):,} of {counted(total, 'pair')}; more with --top N, all with --csv.", err=True)


def _row(row: pd.Series[Any], measures: Sequence[str], p_values: frozenset[str]) -> list[str]:
    names = (str(row[f"{part}_{side}"]) for side in "ab" for part in PARTS)
    return [*names, *((p_number if one in p_values else number)(row[one]) for one in measures)]


def _write_csv(pairs: PairQuery, file: str, top: int | None) -> None:
    with nullcontext(sys.stdout) if file == "-" else Path(file).open("w", encoding="utf-8", newline="") as target:
        header = True
        for frame in pairs.frames() if top is None else [pairs.most_similar(top)[0]]:
            frame.to_csv(target, index=False, header=header)
            header = False
