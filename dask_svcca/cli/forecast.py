"""``dask-svcca forecast``: what a job will take."""

from __future__ import annotations

import click

from dask_svcca.cli._console import checked_options, counted, examples, results, seconds, size
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._paths import File
from dask_svcca.jobs import driver
from dask_svcca.jobs.schema import read_job
from dask_svcca.measures import load_measures


@click.command(epilog=examples("dask-svcca forecast job.yaml", "dask-svcca forecast job.yaml --json"))
@click.argument("job", type=File())
@click.option(
    "--allow-class",
    "allowed",
    multiple=True,
    metavar="PREFIX",
    envvar="DASK_SVCCA_ALLOW_CLASS",
    help="Allow the job to start clusters of classes whose names begin so. May be repeated.",
)
@click.option("--measures-from", "modules", multiple=True, metavar="MODULE", help="Import this module first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def forecast(job: str, *, allowed: tuple[str, ...], modules: tuple[str, ...], as_json: bool) -> None:
    """Forecast what the JOB that a file describes takes: time, core-hours, bytes, memory.

    Starts or joins its cluster, and tries a few of its tasks there for a few seconds. Nothing is written to the stores.
    What is done already does not count, nor does the start of the workers. Where pairs are 'nearest N', their sketches
    must be there: dask-svcca sketch makes them.
    """
    described = read_job(job)
    with checked_options():
        for module in modules:
            load_measures(module)
        found = driver.forecast(described, allowed=allowed)
    if as_json:
        echo_json(found.to_dict())
        return
    results(
        [
            ("time", f"about {seconds(found.seconds)} on {counted(found.workers, 'worker')}"),
            ("core-hours", f"{found.core_hours:.3g}"),
            ("bytes to read", f"{size(found.bytes_read)} of activations"),
            ("bytes to write", f"{size(found.bytes_written)} of subspaces and results, before compression"),
            ("memory", f"up to {size(found.memory)} in each worker"),
        ]
    )
