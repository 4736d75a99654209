"""``dask-svcca run`` and ``dask-svcca submit``: jobs from files."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import click

from dask_svcca.cli._console import checked_options, echo_next, examples, progress_of, resumable
from dask_svcca.cli._console import log_json as as_json_lines
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._paths import File
from dask_svcca.cli.compare import echo_outcome
from dask_svcca.jobs import driver
from dask_svcca.jobs import submit as submitting
from dask_svcca.jobs.records import new_id, pointers
from dask_svcca.jobs.schema import read_job
from dask_svcca.measures import load_measures

if TYPE_CHECKING:
    from collections.abc import Callable


_OPTIONS = (
    click.argument("job", type=File()),
    click.option(
        "--allow-class",
        "allowed",
        multiple=True,
        metavar="PREFIX",
        envvar="DASK_SVCCA_ALLOW_CLASS",
        help="Allow the job to start clusters of classes whose names begin so, such as dask_jobqueue. They can run any "
        "command. May be repeated.",
    ),
    click.option(
        "--measures-from",
        "modules",
        multiple=True,
        metavar="MODULE",
        help="Import this module first, which registers measures of your own. May be repeated.",
    ),
)


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


@click.command(epilog=examples("dask-svcca run job.yaml", "dask-svcca run jobs/slurm.yaml --allow-class dask_jobqueue"))
@_job_options
@click.option("--wait", is_flag=True, help="Where another run is at work on the comparison, wait for its end.")
@as_json_lines
@click.option("--id", "job_id", hidden=True)
def run(
    job: str, *, allowed: tuple[str, ...], modules: tuple[str, ...], wait: bool, log_json: bool, job_id: str | None
) -> None:
    """Run the JOB that a file describes, and wait for its end.

    What its comparison has already is not computed again: after an interruption the same command goes on.
    """
    described = read_job(job)
    with checked_options():
        for module in modules:
            load_measures(module)
    submitted = next((pointer.submitted for pointer in pointers() if pointer.id == job_id), None)
    if job_id is not None:
        driver.end_on_signals()
    bars = progress_of(as_json=log_json, stages=described.guidance.stages)
    with resumable("subspaces and tiles", bars), checked_options():
        try:
            with bars:
                outcome = driver.drive(
                    described, job_id or new_id(), submitted=submitted, allowed=allowed, wait=wait, bars=bars
                )
        except driver.Cancelled:
            click.echo("Cancelled. What is finished is kept: the same job goes on from there.", err=True)
            sys.exit(143)
    echo_outcome(outcome, described.comparison)


@click.command(epilog=examples("dask-svcca submit job.yaml", "dask-svcca submit job.yaml --json"))
@_job_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with the job's id.")
def submit(job: str, *, allowed: tuple[str, ...], modules: tuple[str, ...], as_json: bool) -> None:
    """Submit the JOB that a file describes, and return at once.

    Where it runs on this machine or starts a cluster, a process of its own drives it, which must be left alone; where
    it names a scheduler, the cluster drives it, and this machine may go. The same job again goes on where it stopped.
    """
    described = read_job(job)
    with checked_options():
        for module in modules:
            load_measures(module)
        status, before = submitting.submit(described, allowed=allowed, modules=modules)
    if as_json:
        echo_json({**status.to_dict(), "submitted_before": before})
        return
    name = status.record.id
    click.echo(f"The job {name} is at work on this comparison already." if before else f"Submitted {name}.")
    if status.record.dashboard:
        click.echo(f"The dashboard, {status.record.dashboard} , shows the cluster at work.")
    echo_next(
        [
            (f"dask-svcca status {name}", "how far it is"),
            (f"dask-svcca attach {name}", "follow it to its end; Ctrl-C leaves it alone"),
            (f"dask-svcca cancel {name}", "end it; what is finished is kept"),
        ]
    )
