"""``dask-svcca info``: what is in a zoo, a comparison, or a store of subspaces or sketches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np

from dask_svcca.cli._console import SHOWN_PROBLEMS, counted, examples, named, results, size, table
from dask_svcca.cli._describe import describe, layer_rows, lineage_of, runs_of
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._paths import Place, quoted
from dask_svcca.stores._io import read_kind
from dask_svcca.stores._names import checkpoint_label
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.stores.subspaces import SubspaceStore
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    import pandas as pd

    from dask_svcca.stores.zoo import Zoo

SHOWN_IDENTITY = ("precision", "conv", "sequence", "positions", "spatial_size", "mask")

MODEL_ROWS = 40
"""Largest number of models that are listed."""


@click.command(
    epilog=examples(
        "dask-svcca info zoo.zarr",
        "dask-svcca info zoo.zarr --layers",
        "dask-svcca info comparison.zarr --timing",
        "dask-svcca info comparison.zarr --json",
    )
)
@click.argument("store", type=Place())
@click.option("--layers", is_flag=True, help="List the layers of each model of a zoo, with their shapes and axes.")
@click.option("--timing", is_flag=True, help="Show where the time of a comparison's runs went.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(store: str, *, layers: bool, timing: bool, as_json: bool) -> None:
    """Show what is in a STORE: a zoo, a comparison, subspaces that comparisons share, or sketches."""
    kind = read_kind(store)
    if timing and kind != "comparison":
        raise click.UsageError(f"--timing shows the runs of a comparison; the store {store!r} is of kind {kind!r}")
    if layers and kind != "zoo":
        raise click.UsageError(f"--layers lists the layers of a zoo; the store {store!r} is of kind {kind!r}")
    if as_json:
        echo_json({"kind": kind, "store": store, **describe(store, kind, layers=layers, timing=timing)})
    elif layers:
        _show_layers(_zoo(store))
    elif timing:
        _show_timing(ComparisonStore.open(store))
    elif kind == "comparison":
        _show_comparison(store, ComparisonStore.open(store))
    elif kind == "subspaces":
        _show_subspaces(store, SubspaceStore.open(store))
    elif kind == "sketches":
        _show_sketches(store, describe(store, kind, layers=False, timing=False))
    else:
        _show_zoo(store, _zoo(store))


def _zoo(store: str) -> Zoo:
    from dask_svcca.stores.zoo import open_zoo  # noqa: PLC0415 - it takes as long to import as a comparison to describe

    return open_zoo(store)


def _show_zoo(store: str, zoo: Zoo) -> None:
    frame = zoo.representations
    coords = ", ".join(f"{name} ({values.dtype})" for name, values in zoo.coords.items())
    results(
        [
            ("zoo", store),
            ("examples", f"{zoo.n_examples:,}" + (f", with {coords}" if coords else "")),
            ("representations", f"{len(frame):,}, {size(frame['nbytes'].sum())} before compression"),
        ]
    )
    if len(frame):
        click.echo()
        table(
            ["model", "checkpoints", "steps", "layers", "representations", "size", "activations of an example"],
            [_model_row(str(model), part) for model, part in list(frame.groupby("model", sort=False))[:MODEL_ROWS]],
            right=("checkpoints", "layers", "representations", "size"),
        )
        left = frame["model"].nunique() - MODEL_ROWS
        if left > 0:
            click.echo(f"and {counted(left, 'more model')}")
        labels = map(checkpoint_label, frame["model"], frame["checkpoint"])
        _show_lineage({label: parent for label, parent in zip(labels, frame["parent"], strict=True) if parent})
    _show_some(
        zoo.unfinished, "representation", "begun and never finished; such layers do not count, capture them again:"
    )


def _show_lineage(parents: dict[str, str]) -> None:
    """Say which trainings began with a checkpoint of another."""
    if not parents:
        return
    click.echo(f"\n{counted(len(parents), 'checkpoint')} of trainings that began with another:")
    of_model: dict[tuple[str, str], list[str]] = {}
    for label, parent in parents.items():
        of_model.setdefault((label.partition("/")[0], parent), []).append(label)
    for labels, parent in [(labels, parent) for (_, parent), labels in of_model.items()][:MODEL_ROWS]:
        click.echo(f"  {labels[0]}{f' and {len(labels) - 1:,} more' if len(labels) > 1 else ''} from {parent}")
    if len(of_model) > MODEL_ROWS:
        click.echo(f"  and {len(of_model) - MODEL_ROWS:,} more")


def _model_row(model: str, frame: pd.DataFrame) -> list[str]:
    shapes = frame.drop_duplicates("layer")["shape"].map(lambda shape: shape[1:])
    smallest, largest = min(shapes, key=np.prod), max(shapes, key=np.prod)
    steps = frame["step"].dropna()
    return [
        model,
        f"{frame['checkpoint'].nunique():,}",
        _span(steps.min(), steps.max()) if len(steps) else "",
        f"{frame['layer'].nunique():,}",
        f"{len(frame):,}",
        size(frame["nbytes"].sum()),
        _shape(smallest) if smallest == largest else f"{_shape(smallest)} to {_shape(largest)}",
    ]


def _show_layers(zoo: Zoo) -> None:
    table(
        ["model", "layer", "shape", "axes", "dtype", "checkpoints"],
        [
            [
                row["model"],
                row["layer"],
                _shape(row["shape"]),
                ", ".join(row["dims"]),
                row["dtype"],
                f"{row['checkpoints']:,}",
            ]
            for row in layer_rows(zoo)
        ],
        right=("checkpoints",),
    )


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _show_comparison(store: str, comparison: ComparisonStore) -> None:
    attributes: dict[str, Any] = dict(comparison.root.attrs)
    labels = comparison.column("representation")
    ranks, problems = comparison.column("rank"), comparison.column("problem")
    counts = comparison.count_pairs()
    total = sum(counts.values())
    missing = counts.pop(PairStatus.MISSING)
    measured = ranks[ranks > 0]
    # A rank of 0 without a problem: no measure asks for directions.
    known = ranks[problems == ""] == 0
    none = "none: no measure asks for them" if known.any() else "none yet"
    progress = "".join(
        f"; {count:,} {status.name.lower().replace('_', ' ')}"
        for status, count in counts.items()
        if count and status is not PairStatus.DONE
    )
    results(
        [
            ("comparison", store),
            ("of the zoo", str(attributes["zoo"])),
            ("examples", f"{attributes['n_examples']:,}"),
            ("representations", f"{len(labels):,} of {counted(len(set(comparison.column('model'))), 'model')}"),
            ("directions kept", _span(measured.min(), measured.max()) if len(measured) else none),
            *((name, _value(value)) for name, value in comparison.parameters.items()),
            ("subspaces", comparison.subspaces or "inside"),
            ("pairs", f"{counts[PairStatus.DONE]:,} of {total:,} done" + progress),
            *([("missing", f"{missing:,}: not asked for yet, or interrupted")] if missing else []),
        ]
    )
    _show_lineage(lineage_of(comparison))
    failed = {label: problem for label, problem in zip(labels, problems, strict=True) if problem}
    _show_some([named(label, problem) for label, problem in failed.items()], "representation", "failed:")
    if counts[PairStatus.DONE]:
        click.echo(f"\nHighest similarities: dask-svcca query {quoted(store)}")
    elif missing:
        click.echo("\nNo pair has a value yet; the command that made the comparison goes on with it.")


def _show_subspaces(store: str, subspaces: SubspaceStore) -> None:
    identity: dict[str, Any] = dict(subspaces.root.attrs["identity"])  # type: ignore[arg-type]
    index = subspaces.read_index()
    entries = [record.entry for record in index.records.values()]
    made = [entry for entry in entries if not entry.problem]
    scores = sum(
        record.entry.samples * record.entry.directions * index.packs[record.pack].dtype.itemsize
        for record in index.records.values()
    )
    directions = [entry.directions for entry in made]
    results(
        [
            ("subspaces", store),
            ("examples", f"{identity['n_examples']:,}"),
            (
                "made",
                f"{counted(len(made), 'subspace')} in {counted(len(index.packs), 'pack')}, {size(scores)} of scores",
            ),
            ("failed", f"{len(entries) - len(made):,}"),
            ("directions", _span(min(directions), max(directions)) if directions else "none yet"),
            *((name, _value(identity[name])) for name in identity if name in SHOWN_IDENTITY),
        ]
    )


def _show_sketches(store: str, found: dict[str, Any]) -> None:
    results(
        [
            ("sketches", store),
            ("examples", f"{found['examples']:,}"),
            ("representations", f"{found['representations']:,}"),
            ("numbers", f"{found['size']:,} each, seed {found['seed']}, of {found['measure']}"),
            *([("failed", f"{len(found['problems']):,}")] if found["problems"] else []),
        ]
    )
    _show_some([named(*one) for one in found["problems"].items()], "representation", "failed:")
    if found["first"]:
        click.echo(f"\nThe nearest to one: dask-svcca search {quoted(store)} {quoted(found['first'])}")


def _show_timing(comparison: ComparisonStore) -> None:
    runs = runs_of(comparison)
    if not runs:
        click.echo("No run has computed a pair yet.")
        return
    stages = sorted({stage for run in runs for stage in run["stages"]})
    table(
        ["finished", "seconds", "workers", "pairs", "pairs a second", "read", *stages, "overhead"],
        [
            [
                run["finished"],
                f"{run['seconds']:,.1f}",
                f"{run['workers']:,}" + (f" (part {run['part']})" if "part" in run else "") + _computed_on(run),
                f"{run['pairs']:,}",
                f"{run['pairs_per_second']:,.0f}",
                size(run["bytes_read"]),
                *(f"{run['stages'].get(stage, 0):,.1f}" for stage in stages),
                f"{run['overhead']:,.1f}",
            ]
            for run in runs
        ],
        right=("seconds", "workers", "pairs", "pairs a second", "read", *stages, "overhead"),
    )
    click.echo(
        "\nStages are seconds over all workers; overhead is the rest of the workers' time, waiting for cores included."
    )
    for run in runs:
        if reason := run.get("device_failure"):
            click.echo(f"{run['finished']}: {run['device']} failed, the first time since {reason}")
        if reason := run.get("fallback"):
            click.echo(f"{run['finished']}: auto was the CPU, since {reason}")


def _computed_on(run: dict[str, Any]) -> str:
    """What a run computed with, where that was not the CPU alone, or might not have been.

    Examples
    --------
    >>> _computed_on({"device": "cuda", "on_cpu": {"tiles": 2}}), _computed_on({"device": "cpu", "fallback": "no GPU"})
    (' on cuda, 2 tiles on the CPU', ' on cpu (auto)')
    >>> _computed_on({"device": "cpu"})
    ''
    """
    device = run.get("device", "cpu")
    if device == "cpu":
        return " on cpu (auto)" if run.get("fallback") else ""
    return f" on {device}" + "".join(
        f", {number:,} {stage if number > 1 else stage.removesuffix('s')} on the CPU"
        for stage, number in sorted(run.get("on_cpu", {}).items(), reverse=True)
    )


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _show_some(items: list[str], noun: str, what: str) -> None:
    if not items:
        return
    click.echo(f"\n{click.style(counted(len(items), noun), fg='red')} {what}")
    for item in items[:SHOWN_PROBLEMS]:
        click.echo(f"  {item}")
    if len(items) > SHOWN_PROBLEMS:
        click.echo(f"  and {len(items) - SHOWN_PROBLEMS:,} more")
