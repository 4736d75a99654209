"""``dask-svcca jobs``, ``status``, ``attach``, ``logs`` and ``cancel``: jobs of other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dask_svcca.cli._console import Bars, counted, examples, results, seconds, table
from dask_svcca.cli._errors import Interrupted
from dask_svcca.cli._json import echo_json
from dask_svcca.coarse.guidance import GUIDED_STAGES
from dask_svcca.errors import JobError
from dask_svcca.jobs import submit as submitting
from dask_svcca.jobs.records import ENDED, Jobs, pointers
from dask_svcca.jobs.status import Status, status_of

if TYPE_CHECKING:
    from dask_svcca.jobs.records import Record

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_JOB = click.argument("job", metavar="JOB")


@click.command(epilog=examples("dask-svcca jobs", "dask-svcca jobs s3://bucket/comparison.zarr"))
@click.argument("comparison", required=False)
@click.option("--all", "everything", is_flag=True, help="List those too that found nothing to do.")
@_JSON
def jobs(comparison: str | None, *, everything: bool, as_json: bool) -> None:
    """List the jobs that were submitted on this machine, or all of a COMPARISON.

    Jobs that found all pairs there are left out.
    """
    found: list[Status] = []
    if comparison is None:
        known = [(pointer.id, pointer.comparison, pointer) for pointer in pointers()]
    else:
        mine = {pointer.id: pointer for pointer in pointers()}
        known = [(job, comparison, mine.get(job)) for job in Jobs(comparison).ids()]  # type: ignore[misc]
    for job, place, pointer in known:
        try:
            found.append(status_of(job, place, pointer))
        except JobError:
            continue
    # The latest of a comparison stays: somebody has just asked for it.
    latest = {one.record.comparison: one.record.id for one in found}
    found = [one for one in found if everything or not _idle(one.record) or one.record.id in latest.values()]
    if as_json:
        echo_json({"jobs": [status.to_dict() for status in found]})
        return
    if not found:
        click.echo("There are no jobs. Submit one: dask-svcca submit job.yaml")
        return
    table(
        ["job", "state", "pairs", "submitted", "comparison"],
        [[one.record.id, one.state, _pairs(one.record), one.record.submitted, one.record.comparison] for one in found],
        right=["pairs"],
    )


def _idle(record: Record) -> bool:
    """Whether a job ended well and had nothing to do."""
    return record.state == "done" and not any(total for _, total in record.stages.values())


def _pairs(record: Record) -> str:
    return f"{record.pairs_done:,} of {record.pairs:,}" if record.pairs else ""


@click.command(epilog=examples("dask-svcca status 20261126-3f2a1b", "dask-svcca status comparison.zarr --json"))
@_JOB
@_JSON
def status(job: str, *, as_json: bool) -> None:
    """Show how far a JOB is: its id, or the path of its comparison.

    The comparison itself is asked: it works where the cluster has gone, and from any machine that reaches the store. A
    scheduler is asked only about a job that it has not begun within a minute.
    """
    found = submitting.status(job)
    if as_json:
        echo_json(found.to_dict())
        return
    record = found.record
    lines = [("job", record.id), ("state", found.state), ("comparison", record.comparison)]
    if record.message:
        lines.append(("", record.message))
    if record.pairs:
        lines.append(("pairs", f"{_pairs(record)} ({record.pairs_done / record.pairs:.0%})"))
    if record.pairs_failed:
        lines.append(("failed", f"{counted(record.pairs_failed, 'pair')}; submit the job again to try them again"))
    if found.state == "running" and record.pairs_per_second:
        left = "" if record.seconds_left is None else f", about {seconds(record.seconds_left)} left"
        lines.append(("rate", f"{counted(round(record.pairs_per_second), 'pair')} a second{left}"))
    lines += [(GUIDED_STAGES[name][1], f"{done:,} of {total:,}") for name, (done, total) in record.stages.items()]
    lines += [("cluster", record.cluster)] if record.cluster else []
    lines += [("dashboard", record.dashboard)] if record.dashboard and found.state in {"waiting", "running"} else []
    lines.append(("submitted", f"{record.submitted} by {record.user}" + (f" on {record.host}" if record.host else "")))
    results([line for line in lines if line[1]])


@click.command(epilog=examples("dask-svcca attach 20261126-3f2a1b", "dask-svcca attach comparison.zarr"))
@_JOB
def attach(job: str) -> None:
    """Follow a JOB to its end. Ctrl-C ends the following, not the job.

    The exit status is 0 where the job is done, 1 where pairs of it or all of it failed, it stalled or was cancelled.
    """
    bars = Bars(GUIDED_STAGES)

    shown: dict[str, tuple[int, int]] = {}

    def show(record: Record) -> None:
        for stage, (done, total) in record.stages.items():
            if shown.get(stage) != (done, total):
                bars(stage, done, total)
        shown.update(record.stages)

    try:
        with bars:
            *_, last = submitting.watch(job, show)
    except KeyboardInterrupt:
        raise Interrupted(f"Left; the job goes on. Follow it again: dask-svcca attach {job}") from None
    done = f" {_pairs(last.record)} pairs." if last.record.pairs else ""
    # Messages begin as what follows a colon does.
    why = f" {last.record.message[0].upper()}{last.record.message[1:]}." if last.record.message else ""
    click.echo(f"The job {last.record.id} is {last.state}.{done}{why}")
    if last.state != "done" or last.record.pairs_failed:
        raise SystemExit(1)


@click.command(epilog=examples("dask-svcca logs 20261126-3f2a1b", "dask-svcca logs comparison.zarr"))
@_JOB
@_JSON
def logs(job: str, *, as_json: bool) -> None:
    """Print the log of a JOB: what happened, and when."""
    lines = submitting.log_of(job)
    if as_json:
        echo_json({"lines": lines})
        return
    for line in lines:
        click.echo(line)


@click.command(epilog=examples("dask-svcca cancel 20261126-3f2a1b"))
@_JOB
@_JSON
def cancel(job: str, *, as_json: bool) -> None:
    """End a JOB. What it has finished is kept: submitted again, it goes on from there."""
    found = submitting.cancel(job)
    if as_json:
        echo_json(found.to_dict())
        return
    ending = "is cancelled" if found.state in ENDED else "was asked to end"
    click.echo(f"The job {found.record.id} {ending}. What it has finished is kept.")
