"""``dask-svcca sketch`` and ``dask-svcca search``: layers as a few thousand numbers, and the nearest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from dask_svcca.cli._cluster import WhenNeeded, budget_of, cluster_options, connected
from dask_svcca.cli._console import (
    Bars,
    checked_options,
    counted,
    echo_next,
    echo_problems,
    examples,
    resumable,
    seconds,
    table,
)
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._paths import Place, quoted
from dask_svcca.plan.parameters import ONLY_MASK, make_parameters
from dask_svcca.readings.choose import Convolutional, Sequential
from dask_svcca.run.stores import choose_mask
from dask_svcca.sketches.family import MEASURES, Family
from dask_svcca.sketches.index import index_sketches
from dask_svcca.sketches.make import STAGES, open_kept, run_sketches
from dask_svcca.sketches.portable import export_sketches, import_sketches, merge_sketches
from dask_svcca.sketches.search import search as search_sketches
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    import xarray as xr

    from dask_svcca.sketches.make import Outcome


@click.command(
    epilog=examples(
        "dask-svcca sketch zoo.zarr sketches.zarr",
        "dask-svcca sketch zoo.zarr sketches.zarr --size 16384 --workers 4",
        "dask-svcca sketch zoo.zarr overlaps.zarr --measure overlap --subspaces comparison.zarr --conv dft",
        "dask-svcca sketch sketches.zarr --export mine.npz",
        "dask-svcca sketch theirs.zarr --import theirs.npz",
        "dask-svcca sketch both.zarr --merge sketches.zarr theirs.zarr",
        "dask-svcca sketch sketches.zarr --index sketches.index",
    )
)
@click.argument("places", nargs=-1, required=True, type=Place(), metavar="[ZOO] SKETCHES")
@click.option(
    "--measure",
    type=click.Choice(MEASURES),
    default="cka",
    show_default=True,
    help="What products of sketches estimate: linear CKA, or the overlap of subspaces.",
)
@click.option(
    "--subspaces",
    type=Place(),
    metavar="PLACE",
    help="For an overlap: a comparison of this zoo, or its shared subspaces.",
)
@click.option(
    "--variance",
    type=float,
    default=0.99,
    show_default=True,
    help="For an overlap: share of the variance that its directions explain.",
)
@click.option("--size", type=int, default=4096, show_default=True, metavar="N", help="Numbers of a sketch, even.")
@click.option("--seed", type=int, default=0, show_default=True, help="Only sketches of one seed can be compared.")
@click.option(
    "--conv",
    type=click.Choice(get_args(Convolutional)),
    default="mean",
    show_default=True,
    help="How convolutional layers are read.",
)
@click.option(
    "--sequence",
    type=click.Choice(get_args(Sequential)),
    default="mean",
    show_default=True,
    help="How layers with tokens are read.",
)
@click.option(
    "--positions",
    default="all",
    show_default=True,
    metavar="WHICH",
    help="Which positions are samples, where positions are: all, 'regular N' or 'random N'.",
)
@click.option(
    "--mask",
    metavar="NAME",
    help="Coordinate of the zoo that is true for tokens that count [default: the zoo's only one, if it has one].",
)
@click.option("--no-mask", is_flag=True, help="Read all tokens, although the zoo has a mask.")
@click.option("--wait", is_flag=True, help="Where another run is at work on the sketches, wait for its end.")
@cluster_options
@click.option("--export", "target", type=click.Path(dir_okay=False), metavar="FILE", help="Write one file to be sent.")
@click.option(
    "--import",
    "sent",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="Make SKETCHES of such a file.",
)
@click.option(
    "--merge",
    "merged",
    nargs=2,
    type=Place(),
    metavar="A B",
    help="Make SKETCHES of those at two places, of the same examples.",
)
@click.option(
    "--index",
    "folder",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Make an index of SKETCHES, for a search among ten million.",
)
def sketch(
    places: tuple[str, ...],
    *,
    measure: str,
    subspaces: str | None,
    size: int,
    seed: int,
    mask: str | None,
    no_mask: bool,
    wait: bool,
    workers: int | None,
    memory: str | None,
    scheduler: str | None,
    target: str | None,
    sent: str | None,
    merged: tuple[str, str] | None,
    folder: str | None,
    **options: Any,
) -> None:
    """Make a sketch of every layer of every checkpoint of a ZOO: numbers whose products estimate a similarity.

    Sketches that are there are not made again: after an interruption, or when the zoo has grown, the same command makes
    what is missing. Those of other people who ran the same examples can be compared with them.
    """
    alone = bool(sent or merged or target or folder)
    if len(places) > 2 or (len(places) == 1 and not alone) or (len(places) == 2 and (sent or merged)):
        raise click.UsageError(
            "Name a zoo and its sketches; or, with --import, --merge, --export or --index, the sketches alone."
        )
    if sent and merged:
        raise click.UsageError("--import and --merge both make the sketches; use one of them.")
    place = places[-1]
    if sent is not None:
        _echo_there(import_sketches(sent, place), sent)
    elif merged is not None:
        _echo_there(merge_sketches(*merged, place), " and ".join(merged))
    elif len(places) == 2:
        _make(
            places[0],
            place,
            (size, seed),
            (measure, subspaces),
            mask,
            options,
            no_mask=no_mask,
            wait=wait,
            cluster=(workers, memory, scheduler),
        )
    if target is not None:
        export_sketches(place, target)
        click.echo(f"Wrote {target}.")
    if folder is not None:
        index_sketches(place, folder)
        click.echo(f"Made the index {folder}.")


def _echo_there(sketches: xr.Dataset, of: str) -> None:
    count = counted(sketches.sizes["representation"], "sketch").replace("sketchs", "sketches")
    click.echo(f"{count} of {of} are there now.")


def _make(
    zoo: str,
    place: str,
    numbers: tuple[int, int],
    of: tuple[str, str | None],
    mask: str | None,
    options: dict[str, Any],
    *,
    no_mask: bool,
    wait: bool,
    cluster: tuple[int | None, str | None, str | None],
) -> None:
    with checked_options():
        if mask is not None and no_mask:
            raise click.UsageError("--mask names a mask, and --no-mask declines it; use one of them.")
        source = open_zoo(zoo)
        family = Family(*numbers)
        chosen = choose_mask(source, None if no_mask else mask or ONLY_MASK)
        parameters = make_parameters("cka", **options, mask=chosen)
        kept = open_kept(*of, parameters)
    bars = Bars(STAGES)
    executor = WhenNeeded(budget_of(*cluster), lambda: connected(*cluster, announced=False))
    with resumable("sketches", bars), bars:
        outcome = run_sketches(source, place, parameters, family, kept, wait=wait, executor=executor, progress=bars)
    click.echo(_summary(outcome))
    echo_problems(outcome.problems, "representation")
    if outcome.problems:
        raise SystemExit(1)
    label = source.entries()[0].label
    echo_next([(f"dask-svcca search {quoted(place)} {quoted(label)}", "the layers that are most similar to one")])


def _summary(outcome: Outcome) -> str:
    if not outcome.made:
        return f"Nothing to do: the sketches of {counted(outcome.representations, 'representation')} are there."
    return (
        f"Made the sketches of {outcome.made:,} of {counted(outcome.representations, 'representation')} in "
        f"{seconds(outcome.seconds)}."
    )


@click.command(
    epilog=examples(
        "dask-svcca search sketches.zarr resnet-s0/step00630/block3.relu2",
        "dask-svcca search sketches.zarr resnet-s0/step00630/block3.relu2 --zoo zoo.zarr --top 20",
    )
)
@click.argument("sketches", type=Place())
@click.argument("name")
@click.option("--zoo", type=Place(), metavar="ZOO", help="Rank the best by exact values, from these activations.")
@click.option(
    "--subspaces", type=Place(), metavar="PLACE", help="Rank the best by exact values, from a comparison's subspaces."
)
@click.option(
    "--index", type=click.Path(file_okay=False, exists=True), metavar="FOLDER", help="Find the nearest by an index."
)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with a record for each layer.")
def search(
    sketches: str,
    name: str,
    *,
    zoo: str | None,
    subspaces: str | None,
    index: str | None,
    top: int,
    as_json: bool,
) -> None:
    """List the layers that are most similar to that of a NAME, model/checkpoint/layer, among SKETCHES.

    With the zoo, or with subspaces, values are exact; without, they are estimates, with their standard errors. The last
    column is what layers of these spectra have by chance.
    """
    found = search_sketches(sketches, name, top=top, zoo=zoo, subspaces=subspaces, index=index)
    if as_json:
        echo_json({"sketches": sketches, "query": name, "nearest": found.reset_index().to_dict("records")})
        return
    measure = next(name for name in MEASURES if f"{name}_error" in found)
    titles = {measure: measure, f"{measure}_estimate": "estimate", f"{measure}_error": "error"}
    titles[f"null_{measure}"] = "by chance"
    shown = [name for name in titles if name in found]
    numbers = [titles[name] for name in shown]
    columns = found[shown].to_numpy()
    table(
        ["representation", *numbers],
        [
            [str(label), *("" if value != value else f"{value:.3f}" for value in row)]  # noqa: PLR0124 - NaN
            for label, row in zip(found.index, columns, strict=True)
        ],
        right=numbers,
    )
