"""``dask-svcca judge``: what each measure of a comparison finds that it should find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from dask_svcca.analysis.judging import judge_measures
from dask_svcca.cli._console import checked_options, counted, examples, table
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._measures import split_measures
from dask_svcca.cli._paths import Place, check_folder, quoted
from dask_svcca.patterns import RULE

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr

PARTS = ("model", "layer")


@click.command(
    epilog=examples(
        "dask-svcca judge comparison.zarr --exclude logits",
        "dask-svcca judge comparison.zarr --group true='true-*' --group shuffled='shuffled-*'",
        "dask-svcca judge comparison.zarr --measure svcca,cka --blocks 10 --csv measures.csv",
    )
)
@click.argument("comparison", type=Place())
@click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="NAME",
    help="Measures to judge; may be repeated, or separated by commas [default: all of the comparison].",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME=PATTERN",
    help="Models that should be more alike than those of another group; two groups or more. A name may be repeated.",
)
@click.option("--model", multiple=True, metavar="PATTERN", help=f"Models to look for, and among: {RULE}.")
@click.option("--layer", multiple=True, metavar="PATTERN", help="Layers that count. All patterns may be repeated.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Layers to leave out, such as the logits.")
@click.option(
    "--blocks",
    type=click.IntRange(min=2),
    metavar="N",
    help="Leave out N blocks of examples in turn, for errors over examples as well [default: over layers alone].",
)
@click.option("--relatives", is_flag=True, help="Look among models too of which one began with the other.")
@click.option(
    "--csv",
    "csv_file",
    is_flag=False,
    flag_value="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="[FILE]",
    help="Write CSV, to standard output unless a file is named.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with a record for each measure.")
def judge(
    comparison: str,
    *,
    measures: tuple[str, ...],
    groups: tuple[str, ...],
    exclude: tuple[str, ...],
    blocks: int | None,
    relatives: bool,
    csv_file: str | None,
    as_json: bool,
    **patterns: tuple[str, ...],
) -> None:
    """Judge the measures of a COMPARISON: what each finds that it should find, beside chance.

    How often the layer of another training that is most similar is the same layer, and, with --group, how often two
    models of one group are more similar than two of different groups. Each layer is looked for in each other model
    whose layers have the same names. Errors are standard errors, by leaving out one layer, or one model, after another.
    """
    if as_json and csv_file is not None:
        raise click.UsageError("--json and --csv are two forms of the same; use one.")
    if csv_file not in {None, "-"}:
        check_folder(Path(str(csv_file)))
    with checked_options():
        found = judge_measures(
            comparison,
            split_measures(measures) or "all",
            groups=_named(groups) or None,
            exclude=exclude,
            where={part: patterns[part] for part in PARTS if patterns[part]},
            blocks=blocks,
            relatives=relatives,
        )
    best = np.nan_to_num(found["identification"].mean("architecture").to_numpy(), nan=-1.0)
    found = found.isel(measure=np.argsort(-best, kind="stable"))
    frame = found.to_dataframe(dim_order=["measure", "architecture"]).reset_index()
    if as_json:
        echo_json({"comparison": comparison, "judged": frame.to_dict("records")})
    elif csv_file is not None:
        text = frame.to_csv(index=False)
        if csv_file == "-":
            click.echo(text, nl=False)
        else:
            Path(csv_file).write_text(text, encoding="utf-8", newline="")
    else:
        _show(found)
    _say_what_is_left(found)


def _named(groups: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Patterns of models by the name of their group."""
    found: dict[str, dict[str, list[str]]] = {}
    for text in groups:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            raise click.UsageError(f"--group {text!r} is not a name and a pattern of models; write it like true='a-*'.")
        found.setdefault(name, {"model": []})["model"].append(pattern)
    if len(found) == 1:
        (name,) = found
        raise click.UsageError(
            f"--group names one group, {name!r}, and judge compares it with another. Name a second one, as in "
            f"--group {name}={quoted(found[name]['model'][0])} --group other='b-*'."
        )
    return found


def _show(found: xr.Dataset) -> None:
    if not int(found["identification_tested"].max()):
        click.echo(
            "No layer could be looked for: that takes two trainings of one architecture, and all pairs of their layers "
            "with values. Estimates and selected pairs are not enough."
        )
        if "separation" not in found:
            return
    heads, columns = [], []
    for place, name in enumerate(found["architecture"].to_numpy().tolist()):
        one = found.isel(architecture=place)
        if not int(one["identification_tested"].max()):
            continue
        heads.append(f"{_headed(name)}, {counted(int(one['identification_tested'].max()), 'layer')} looked for")
        shares = one["identification"].to_numpy(), one["identification_stderr"].to_numpy()
        columns.append([*map(_with_error, *shares), _alone(float(one["identification_chance"].max()))])
    if "separation" in found:
        heads.append("groups told apart")
        shares = found["separation"].to_numpy(), found["separation_stderr"].to_numpy()
        columns.append([*map(_with_error, *shares), _alone(0.5)])
    names = [*map(str, found["measure"].to_numpy()), "(by chance)"]
    table(["", *heads], [list(row) for row in zip(names, *columns, strict=True)], right=heads)


def _headed(models: str) -> str:
    """Name of an architecture at the head of a column.

    Examples
    --------
    >>> _headed("cnn-s0, cnn-s1"), _headed("cnn-s0, cnn-s1, cnn-s2, cnn-s3")
    ('cnn-s0, cnn-s1', 'cnn-s0, cnn-s1 and 2 more')
    """
    names = models.split(", ")
    return ", ".join(names[:2]) + (f" and {len(names) - 2:,} more" if len(names) > 2 else "")


def _with_error(value: float, error: float) -> str:
    """A share and its standard error.

    Examples
    --------
    >>> _with_error(0.5, 0.125), _with_error(0.5, np.nan), _with_error(np.nan, np.nan)
    ('0.50 ± 0.12', '0.50       ', '          -')
    """
    if np.isnan(value):
        return f"{'-':>11}"
    return _alone(value) if np.isnan(error) else f"{value:.2f} ± {error:.2f}"


def _alone(value: float) -> str:
    return f"{value:.2f}       "


def _say_what_is_left(found: xr.Dataset) -> None:
    """What was not judged, on standard error."""
    relatives = int(found["identification_relatives"].isel(measure=0).sum())
    if relatives:
        click.echo(
            f"{counted(relatives, 'pair')} of models left out, of which one began with the other, or both with one; "
            f"--relatives takes them.",
            err=True,
        )
    missing = found["identification_missing"].sum("architecture")
    for name, count in zip(missing["measure"].to_numpy().tolist(), missing.to_numpy().tolist(), strict=True):
        if count:
            click.echo(
                f"{name}: {counted(count, 'layer')} not looked for, since pairs of the two models were not selected or "
                f"are not computed yet.",
                err=True,
            )
