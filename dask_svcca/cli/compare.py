"""``dask-svcca compare``: from a zoo to a comparison."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import click

from dask_svcca.cli._cluster import WhenNeeded, budget_of, cluster_options, connected
from dask_svcca.cli._console import (
    checked_options,
    counted,
    echo_caution,
    echo_next,
    echo_problems,
    examples,
    progress_of,
    resumable,
    seconds,
)
from dask_svcca.cli._console import log_json as as_json_lines
from dask_svcca.cli._measures import split_measures
from dask_svcca.cli._paths import Place, quoted
from dask_svcca.coarse.guidance import Guidance, TileOrder
from dask_svcca.devices.names import parse_device
from dask_svcca.measures import load_measures
from dask_svcca.plan.parameters import ONLY_MASK, Keep, Match, Parameters, Precision, make_parameters
from dask_svcca.plan.selection import SELECTIONS, select_pairs
from dask_svcca.readings.choose import Convolutional, Sequential
from dask_svcca.run.advice import advise
from dask_svcca.run.compare import plan_run, run_comparison
from dask_svcca.run.executors import Here
from dask_svcca.run.forecast import forecast_run
from dask_svcca.run.preview import run_preview
from dask_svcca.run.stores import choose_mask
from dask_svcca.stores.zoo import open_zoo
from dask_svcca.variables import ESTIMATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_svcca.run.outcome import Outcome
    from dask_svcca.run.preview import Preview


class _Share(click.ParamType[float | None]):
    """A share of the variance, or 'none'."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Text to a number."""
        if value is None or str(value).lower() == "none":
            return None
        return float(click.FLOAT.convert(value, param, ctx))


class _Sizes(click.ParamType[tuple[int, ...]]):
    """Sizes of axes, such as 8x8."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Text to numbers."""
        try:
            return tuple(int(part) for part in str(value).lower().split("x"))
        except ValueError:
            self.fail(f"{value!r} is not a valid size; write it like 8x8", param, ctx)


@click.command(
    epilog=examples(
        "dask-svcca compare zoo.zarr comparison.zarr",
        "dask-svcca compare zoo.zarr comparison.zarr --dry-run",
        "dask-svcca compare zoo.zarr final.zarr --pairs final --workers 4 --worker-memory 4GiB",
        "dask-svcca compare zoo.zarr two.zarr --pairs 'between resnet vit' --scheduler tcp://10.0.0.1:8786",
        "dask-svcca compare zoo.zarr near.zarr --conv mean --pairs 'nearest 20'",
        "dask-svcca compare zoo.zarr cka.zarr --measure cka --conv mean --preview",
    )
)
@click.argument("zoo", type=Place())
@click.argument("comparison", type=Place())
@click.option(
    "--measure",
    "measures",
    multiple=True,
    default=Parameters().measures,
    show_default=True,
    metavar="NAME",
    help="Measures to compute; may be repeated, or separated by commas. 'all' stands for every measure.",
)
@click.option(
    "--measures-from",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Load measures of your own from this module, or file that ends in .py. May be repeated.",
)
@click.option(
    "--variance",
    type=_Share(),
    default=Parameters().variance,
    show_default=True,
    metavar="SHARE",
    help="Keep the directions that explain this share of the variance; 'none' keeps all.",
)
@click.option(
    "--conv",
    type=click.Choice(get_args(Convolutional)),
    default=Parameters().conv,
    show_default=True,
    help="How convolutional layers are read.",
)
@click.option(
    "--match",
    type=click.Choice(get_args(Match)),
    default=Parameters().match,
    show_default=True,
    help="With --conv dft, how layers of unequal sizes are compared.",
)
@click.option(
    "--sequence",
    type=click.Choice(get_args(Sequential)),
    default=Parameters().sequence,
    show_default=True,
    help="How layers with tokens are read.",
)
@click.option(
    "--positions",
    default=Parameters().positions,
    show_default=True,
    metavar="WHICH",
    help="Which positions are samples, where positions are: all, 'regular N' or 'random N'.",
)
@click.option(
    "--spatial-size", type=_Sizes(), metavar="HxW", help="With --conv positions, the size all layers are resampled to."
)
@click.option(
    "--mask",
    metavar="NAME",
    help="Coordinate of the zoo that is true for tokens that count [default: the zoo's only one, if it has one].",
)
@click.option("--no-mask", is_flag=True, help="Read all tokens, although the zoo has a mask.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default=Parameters().precision,
    show_default=True,
    help="Precision of scores and their products.",
)
@click.option(
    "--keep",
    multiple=True,
    type=click.Choice(get_args(Keep)),
    help="Store more of every pair: all correlations, or their mean at each spatial frequency. May be repeated.",
)
@click.option(
    "--pairs",
    default="all",
    show_default=True,
    metavar="WHICH",
    help=f"{', '.join(map(repr, SELECTIONS[:-1]))} or {SELECTIONS[-1]!r} for two models; quote names with spaces.",
)
@click.option(
    "--preview",
    is_flag=True,
    help="Estimate cka of all pairs that have no value yet, within seconds, and compute nothing.",
)
@click.option(
    "--order",
    type=click.Choice(get_args(TileOrder)),
    default="stored",
    show_default=True,
    help="Which tiles are compared first: those whose pairs are most similar, by estimate, or as they are stored.",
)
@click.option(
    "--sketches",
    type=Place(),
    metavar="STORE",
    help="Where the sketches are that 'nearest N', --preview and --order go by [default: beside the comparison].",
)
@click.option(
    "--subspaces",
    type=Place(),
    metavar="STORE",
    help="Keep the layers' directions here, for other comparisons of the zoo [default: inside the comparison].",
)
@click.option(
    "--drop-left", is_flag=True, help="Remove results of representations that have left the zoo [default: keep them]."
)
@click.option("--wait", is_flag=True, help="Where another run is at work on the comparison, wait for its end.")
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="What computes: cpu, cuda (each worker has a GPU of its own), cuda:1, auto, or torch:cpu.",
)
@cluster_options
@as_json_lines
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, and write nothing; for 'nearest N' sketches must be there."
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the plan as JSON.")
def compare(
    zoo: str,
    comparison: str,
    *,
    modules: tuple[str, ...],
    mask: str | None,
    no_mask: bool,
    pairs: str,
    preview: bool,
    order: str,
    sketches: str | None,
    subspaces: str | None,
    drop_left: bool,
    wait: bool,
    device: str,
    workers: int | None,
    memory: str | None,
    scheduler: str | None,
    log_json: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare every layer of every checkpoint of a ZOO with every other, and write a COMPARISON.

    What the comparison has already is not computed again: after an interruption, or when the zoo has grown, the same
    command does what is missing. New measures are added to those that it has.
    """
    if as_json and not dry_run:
        raise click.UsageError("--json shows the plan; use it with --dry-run.")
    if dry_run and preview:
        raise click.UsageError("--preview computes nothing that could be planned; leave out --dry-run.")
    options["measures"] = split_measures(options["measures"])
    with checked_options():
        device = parse_device(device)
        for module in modules:
            load_measures(module)
        if mask is not None and no_mask:
            raise click.UsageError("--mask names a mask, and --no-mask declines it; use one of them.")
        source = open_zoo(zoo)
        chosen = choose_mask(source, None if no_mask else mask or ONLY_MASK)
        parameters = make_parameters(**options, mask=chosen)
        guidance = Guidance.of(pairs, comparison, sketches, parameters, preview=preview, order=order)
        if len(source) and guidance.nearest is None:
            select_pairs(pairs, source.representations)
    budget = budget_of(workers, memory, scheduler, device)
    where: dict[str, Any] = {"subspaces": subspaces, "drop_left": drop_left}
    if dry_run:
        where["pairs"] = chosen_pairs = guidance.pairs(guidance.estimated(source, parameters, make=False))
        plan, found, pace = forecast_run(source, comparison, parameters, Here(budget), glance=True, **where)
        advised = advise(source, plan, parameters, pace, found, budget, pairs=chosen_pairs)
        if as_json:
            faster = [{"what": one.what, "factor": round(one.factor, 1)} for one in advised]
            click.echo(
                json.dumps({**plan.to_dict(), "seconds": found.to_dict()["seconds"], "faster": faster}, indent=2)
            )
            return
        click.echo(plan)
        click.echo(f"{'time':<16} about {seconds(found.seconds)} on {counted(found.workers, 'worker')}")
        for number, one in enumerate(advised):
            click.echo(f"{'' if number else 'faster':<16} {one}")
        return
    bars = progress_of(as_json=log_json, stages=guidance.stages)
    executor = WhenNeeded(budget, lambda: connected(workers, memory, scheduler, device, announced=False))
    kept = "subspaces and tiles" if guidance.place is None else "sketches, subspaces and tiles"
    with resumable(kept, bars), bars, executor:
        likeness = guidance.estimated(
            source,
            parameters,
            check=lambda asked: plan_run(source, comparison, parameters, budget, pairs=asked, **where),
            wait=wait,
            executor=executor,
            progress=bars,
        )
        where["wait"], where["pairs"] = wait, guidance.pairs(likeness)
        if preview and likeness is not None:
            seen = run_preview(source, comparison, parameters, likeness, budget, told=bars.say, **where)
            echo_preview(seen, likeness.problems, comparison)
            return
        first = likeness if order == "by estimate" else None
        outcome = run_comparison(
            source, comparison, parameters, likeness=first, executor=executor, progress=bars, **where
        )
    echo_outcome(outcome, comparison)


def echo_preview(found: Preview, problems: Mapping[str, str], comparison: str) -> None:
    """Say what a first look has; end with status 1 where representations could not be estimated."""
    click.echo(
        f"Estimated {counted(found.estimated, 'pair')} of {counted(found.representations, 'representation')} in "
        f"{seconds(found.seconds)}: {found.estimated:,} of {found.pairs:,} pairs have an estimate of cka and no value, "
        f"{found.done:,} are computed. The same command without --preview computes the others."
    )
    echo_problems(problems, "representation")
    if problems:
        raise SystemExit(1)
    echo_next(
        [
            (f"dask-svcca query {quoted(comparison)} --measure {ESTIMATE.name}", "pairs, by their estimates"),
            (f"dask-svcca explore {quoted(comparison)}", "the matrix, hatched where it is estimated"),
        ]
    )


def echo_outcome(outcome: Outcome, comparison: str) -> None:
    """Say what a run did, and what could come next; end with status 1 where something could not be done."""
    click.echo(summary(outcome))
    for caution in filter(None, (outcome.caution, outcome.reading_caution, outcome.device_caution)):
        echo_caution(caution)
    echo_problems(outcome.problems, "representation")
    echo_problems(outcome.failures, "block")
    if outcome.problems or outcome.failures:
        raise SystemExit(1)
    echo_next(
        [
            (f"dask-svcca info {quoted(comparison)}", "what the comparison holds"),
            (f"dask-svcca query {quoted(comparison)} --top 10", "the most similar pairs"),
        ]
    )


def summary(outcome: Outcome) -> str:
    """What a run did, in a sentence or two."""
    plan = outcome.plan
    there = plan.pairs_done + outcome.computed + outcome.settled
    left = ""
    if outcome.left:
        left = (
            f" {counted(len(outcome.left), 'representation')} left the zoo, {outcome.left[0]!r} among them: their "
            f"results are from before, and --drop-left removes them."
        )
    if plan.final:
        left += f" Taken for final: {plan.finals}."
    if plan.fallback:
        left += f" On the CPU (auto: {plan.fallback})."
    without = f"; {counted(outcome.settled, 'pair')} cannot have a value" if outcome.settled else ""
    if outcome.failed:
        without += f"; {counted(outcome.failed, 'pair')} failed, and the same command tries them again"
    removed = ""
    if plan.dropped:
        which = f"such as {plan.dropped[0]!r}" if len(plan.dropped) > 1 else repr(plan.dropped[0])
        removed = f"Removed {counted(len(plan.dropped), 'representation')} that left the zoo, {which}. "
    if not outcome.computed and not outcome.settled and not outcome.failed and there == plan.pairs:
        said = f"{removed}All" if removed else "Nothing to do: all"
        return f"{said} {plan.pairs:,} pairs of {plan.representations:,} representations are there.{left}"
    compared = f"{counted(outcome.computed, 'pair')} of {counted(plan.representations, 'representation')}"
    return (
        f"{removed}Compared {compared} in {seconds(outcome.seconds)}{without}. "
        f"{there:,} of {plan.pairs:,} pairs are there now.{left}"
    )
