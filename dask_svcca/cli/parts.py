"""``dask-svcca init``, ``part`` and ``finalise``: a job as an array of processes, with no scheduler of Dask."""

from __future__ import annotations

import click

from dask_svcca.cli._console import (
    checked_options,
    counted,
    echo_caution,
    echo_next,
    echo_problems,
    examples,
    progress_of,
    resumable,
    size,
)
from dask_svcca.cli._console import log_json as as_json_lines
from dask_svcca.cli._json import echo_json
from dask_svcca.cli._paths import File, quoted
from dask_svcca.connections import parse_memory
from dask_svcca.jobs.driver import guided, open_job
from dask_svcca.jobs.schema import read_job
from dask_svcca.run import slices
from dask_svcca.run.executors import USABLE_SHARE
from dask_svcca.run.preview import run_preview

_JOB = click.argument("job", type=File())


@click.command(
    epilog=examples(
        "dask-svcca init job.yaml --parts 32 --memory 4GiB",
        "dask-svcca part job.yaml 0",
        "dask-svcca finalise job.yaml",
    )
)
@_JOB
@click.option("--parts", type=click.IntRange(min=1), required=True, metavar="N", help="Number of processes.")
@click.option("--memory", required=True, metavar="SIZE", help="Memory that each of them is given, such as 4GiB.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def init(job: str, *, parts: int, memory: str, as_json: bool) -> None:
    """Plan the JOB that a file describes in parts, for an array job of a batch system.

    Makes the comparison, and stores what each part is to do. Again, it plans what is missing then.
    """
    described = read_job(job)
    with checked_options():
        limit = parse_memory(memory)
        zoo, parameters = open_job(described)
        if described.order != "stored":
            raise click.UsageError(
                f"order is about one run, and parts run side by side; the job says order: {described.order}. Leave it "
                f"out."
            )
        usable = int(USABLE_SHARE * limit)
        budget = slices.budget_of_parts(parts, usable, described.device)
        where, likeness = guided(described, zoo, parameters, budget=lambda: budget)
        if described.preview and likeness is not None:
            run_preview(zoo, described.comparison, parameters, likeness, budget, **where)
        plan = slices.begin(
            zoo,
            described.comparison,
            parameters,
            parts=parts,
            memory=usable,
            device=described.device,
            **where,
        )
    needed = max(plan.subspace_bytes, plan.tile_bytes)
    if as_json:
        echo_json({"parts": parts, "memory": limit, "task_memory": needed, **plan.to_dict()})
        return
    click.echo(
        f"Planned {counted(plan.pairs - plan.pairs_done, 'pair')} in {counted(parts, 'part')}, 0 to {parts - 1}: "
        f"{counted(len(plan.packs), 'pack')} of subspaces and {counted(len(plan.tiles), 'tile')}. A task takes up to "
        f"{size(needed)}, within {size(limit)} for each part."
        + (f" On the CPU (auto: {plan.fallback})." if plan.fallback else "")
    )
    echo_next(
        [
            (f"dask-svcca part {quoted(job)} 0", "each part, in any order, at the same time or not, again if it fails"),
            (f"dask-svcca finalise {quoted(job)}", "when all have ended"),
        ]
    )


@click.command(epilog=examples("dask-svcca part job.yaml 3", "dask-svcca part job.yaml $SLURM_ARRAY_TASK_ID"))
@_JOB
@click.argument("number", type=int)
@as_json_lines
def part(job: str, number: int, *, log_json: bool) -> None:
    """Do part NUMBER of a JOB that was planned with init; what is done already is left alone.

    The exit status is 1 where tasks failed, each tried three times; all else is done. The same part tries them again.
    """
    described = read_job(job)
    bars = progress_of(as_json=log_json)
    with checked_options():
        zoo, parameters = open_job(described)
        one = slices.Part(zoo, described.comparison, parameters, number, device=described.device)
    with resumable("subspaces and tiles", bars), bars:
        made, pairs = one.run(bars)
    of = f" (of 0 to {one.parts.count - 1})" if one.parts.count > 1 else ", the only one"
    click.echo(f"Part {number}{of}: made {counted(made, 'subspace')}, compared {counted(pairs, 'pair')}.")
    if one.on_cpu:
        echo_caution(
            f"{counted(len(one.on_cpu), 'task')} {'was' if len(one.on_cpu) == 1 else 'were'} computed on the CPU in "
            f"the end, since the device {described.device!r} failed. The first: {one.on_cpu[0]}"
        )
    echo_problems(one.failures, "task")
    if one.failures:
        raise SystemExit(1)


@click.command(epilog=examples("dask-svcca finalise job.yaml"))
@_JOB
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def finalise(job: str, *, as_json: bool) -> None:
    """Finish a JOB whose parts have ended, or say which of them have not done all, and what failed in them.

    The exit status is 1 where pairs are missing, or representations could not be compared.
    """
    described = read_job(job)
    with checked_options():
        zoo, parameters = open_job(described)
        where, _ = guided(described, zoo, parameters, make=False)
        outcome, unfinished = slices.conclude(
            zoo, described.comparison, parameters, pairs=where["pairs"], subspaces=described.subspaces
        )
    plan = outcome.plan
    if as_json:
        echo_json(
            {
                "pairs": plan.pairs,
                "pairs_done": plan.pairs_done,
                "unfinished": unfinished,
                "failures": outcome.failures,
                "problems": outcome.problems,
            }
        )
    else:
        click.echo(f"{plan.pairs_done:,} of {plan.pairs:,} pairs are there.")
        echo_problems(outcome.problems, "representation")
        echo_problems(outcome.failures, "task")
    if plan.pairs_done < plan.pairs:
        left = (
            f"Parts with pairs left to compare: {', '.join(map(str, unfinished))}. Run them, and then finalise."
            if unfinished
            else "All parts have done theirs, and what is missing was not planned: plan it with init."
        )
        click.echo(click.style(left, fg="red"), err=True)
    if outcome.problems or plan.pairs_done < plan.pairs:
        raise SystemExit(1)
