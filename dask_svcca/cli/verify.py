"""``dask-svcca verify``: whether a store is whole."""

from __future__ import annotations

from dataclasses import asdict

import click

from dask_svcca.cli._cluster import cluster_options, connected
from dask_svcca.cli._console import Bars, counted, echo_next, examples
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._paths import Place, quoted
from dask_svcca.run.verify import verify as verify_store

SHOWN = 40
"""Largest number of damaged parts that are listed."""


@click.command(
    epilog=examples(
        "dask-svcca verify zoo.zarr",
        "dask-svcca verify comparison.zarr --repair",
        "dask-svcca verify comparison.zarr --json",
    )
)
@click.argument("store", type=Place())
@click.option("--repair", is_flag=True, help="Mark what is damaged as missing: the next compare makes it anew.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    store: str, *, repair: bool, workers: int | None, memory: str | None, scheduler: str | None, as_json: bool
) -> None:
    """Read everything in a STORE, and name what is damaged or missing: a zoo, a comparison, subspaces, or sketches.

    The exit status is 1 where something is.
    """
    bars = Bars({"checks": ("Reading", "parts")})
    with connected(workers, memory, scheduler) as client, bars:
        found = verify_store(store, repair=repair, client=client, progress=bars)
    if as_json:
        echo_json({**asdict(found), "ok": found.ok})
    else:
        for one in found.damage[:SHOWN]:
            click.echo(f"{one.what}: {one.key}: {one.problem}")
        if len(found.damage) > SHOWN:
            click.echo(f"... and {len(found.damage) - SHOWN} more; --json lists all")
        read = ", ".join(counted(count, name.removesuffix("s")) for name, count in found.checked.items())
        if found.ok:
            click.echo(f"All is whole: {read}.")
            return
        click.echo(f"{counted(len(found.damage), 'part')} damaged or missing, of {read}.")
        if found.repaired:
            again = "Make the sketches" if found.kind == "sketches" else "Compare"
            click.echo(f"They are marked as missing now. {again} again: what can be made anew is made anew.")
        elif found.kind == "zoo":
            click.echo("Capture these representations again, with overwrite.")
        else:
            maker = "sketch" if found.kind == "sketches" else "compare"
            echo_next(
                [(f"dask-svcca verify {quoted(store)} --repair", f"mark them as missing, so that {maker} makes them")]
            )
    if not found.ok:
        raise SystemExit(1)
