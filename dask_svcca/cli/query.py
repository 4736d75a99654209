"""``dask-svcca query``: pairs of a comparison, by name and value."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_svcca.analysis.query import PARTS, PairQuery
from dask_svcca.cli._console import counted, examples, table
from dask_svcca.patterns import RULE
from dask_svcca.stores.comparison import open_comparison

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_TOP = 20


@click.command(
    epilog=examples(
        "dask-svcca query comparison.zarr --top 10",
        "dask-svcca query comparison.zarr --model-a 'resnet*' --model-b 'cnn*' --layer-a fc --layer-b fc",
        "dask-svcca query comparison.zarr --model-a resnet-s0 --min 0.9 --csv pairs.csv",
    )
)
@click.argument("comparison")
@click.option("--model-a", multiple=True, metavar="PATTERN", help=f"Models of the first layer: {RULE}.")
@click.option("--checkpoint-a", multiple=True, metavar="PATTERN")
@click.option("--layer-a", multiple=True, metavar="PATTERN")
@click.option(
    "--model-b", multiple=True, metavar="PATTERN", help="Models of the second layer. All patterns may be repeated."
)
@click.option("--checkpoint-b", multiple=True, metavar="PATTERN")
@click.option("--layer-b", multiple=True, metavar="PATTERN")
@click.option("--measure", metavar="NAME", help="Measure to list by [default: the first of the comparison].")
@click.option("--min", "low", type=float, metavar="VALUE", help="Only values from here.")
@click.option("--max", "high", type=float, metavar="VALUE", help="Only values up to here.")
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="Only the N most similar [default: 20; all with --csv]."
)
@click.option(
    "--csv",
    "csv_file",
    is_flag=False,
    flag_value="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="[FILE]",
    help="Write CSV, to standard output unless a file is named.",
)
def query(
    comparison: str,
    *,
    measure: str | None,
    low: float | None,
    high: float | None,
    top: int | None,
    csv_file: str | None,
    **patterns: tuple[str, ...],
) -> None:
    """List pairs of a COMPARISON, the most similar first.

    Each pair is listed once, and no representation with itself. Only the rows and columns asked for are read.
    """
    pairs = PairQuery.build(
        open_comparison(comparison),
        measure,
        a={part: patterns[f"{part}_a"] for part in PARTS},
        b={part: patterns[f"{part}_b"] for part in PARTS},
        low=low,
        high=high,
    )
    if csv_file is not None:
        _write_csv(pairs, csv_file, top)
        return
    best, total = pairs.most_similar(top or DEFAULT_TOP)
    if not total:
        click.echo("No pair with a value matches; 'dask-svcca info' says what is missing or failed.", err=True)
        return
    table(
        ["model", "checkpoint", "layer", "model ", "checkpoint ", "layer ", pairs.measure],
        [_row(row, pairs.measure) for _, row in best.iterrows()],
        right=(pairs.measure,),
    )
    if total > len(best):
        click.echo(f"{len(best):,} of {counted(total, 'pair')}; more with --top N, all with --csv.", err=True)


def _row(row: pd.Series[Any], measure: str) -> list[str]:
    return [*(str(row[f"{part}_{side}"]) for side in "ab" for part in PARTS), f"{row[measure]:.4f}"]


def _write_csv(pairs: PairQuery, file: str, top: int | None) -> None:
    with nullcontext(sys.stdout) if file == "-" else Path(file).open("w", encoding="utf-8", newline="") as target:
        header = True
        for frame in pairs.frames() if top is None else [pairs.most_similar(top)[0]]:
            frame.to_csv(target, index=False, header=header)
            header = False
