"""``dask-svcca demo``: from trained networks to a finished comparison."""

from __future__ import annotations

import functools
import re
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.text import Text

from dask_svcca.analysis.identification import layer_identification
from dask_svcca.analysis.sensitivity import class_sensitivity
from dask_svcca.analysis.settling import SETTLED
from dask_svcca.cli._cluster import cluster_options, connected
from dask_svcca.cli._console import Bars, counted, echo_next, echo_problems, examples, resumable, seconds, size, table
from dask_svcca.cli._paths import quoted
from dask_svcca.demo import (
    Demo,
    architectures,
    describe_classes,
    describe_jump,
    describe_seeds,
    describe_settled,
    describe_settling,
    describe_smaller_rank,
    directions,
    dynamics_of,
    run_demo,
    settled_before,
)
from dask_svcca.explore.report import write_report
from dask_svcca.run.progress import STAGES
from dask_svcca.stores.dataset import open_comparison
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    import xarray as xr

    from dask_svcca.stores.zoo import Zoo

MAIN_LAYERS = re.compile(r"(.*\.)?(relu\d*|logits)")
"""Layers in the tables: the outputs of blocks, without the layers inside."""


@click.command(epilog=examples("dask-svcca demo", "dask-svcca demo --output /tmp/demo --workers 4"))
@click.option(
    "--output",
    type=click.Path(file_okay=False),
    default="dask-svcca-demo",
    show_default=True,
    metavar="DIR",
    help="Where the zoo and the comparison go.",
)
@cluster_options
def demo(*, output: str, workers: int | None, memory: str | None, scheduler: str | None) -> None:
    """Compare a real zoo: four small networks, trained on digits, at eleven checkpoints each.

    Captures the activations of all 44 checkpoints on 500 held-out images, compares every layer of every checkpoint
    with every other, and shows how the layers settle during training. A second run does only what is missing.
    """
    started = time.perf_counter()
    stages = {
        "capture": ("Capturing activations", "checkpoints"),
        **STAGES,
        **{f"{stage} dft": (f"{what}, dft", unit) for stage, (what, unit) in STAGES.items()},
        **{f"{stage} measures": (f"{what}, all measures", unit) for stage, (what, unit) in STAGES.items()},
    }
    bars = Bars(stages)
    with resumable("checkpoints, subspaces and tiles", bars), connected(workers, memory, scheduler) as client:
        ready = time.perf_counter() - started
        with bars:
            result = run_demo(
                output,
                client=client,
                on_capture=functools.partial(bars, "capture"),
                on_compare=bars,
                on_compare_dft=lambda stage, done, total: bars(f"{stage} dft", done, total),
                on_compare_measures=lambda stage, done, total: bars(f"{stage} measures", done, total),
            )
    _summarise(result, ready)
    outcomes = (result.captured, result.compared, result.compared_dft, result.compared_measures)
    problems = {name: reason for outcome in outcomes for name, reason in outcome.problems.items()}
    echo_problems(problems, "item")
    measured = open_comparison(result.comparison_measures)
    _show_settling(measured, open_comparison(result.comparison_dft))
    _show_findings(measured, open_zoo(result.zoo))
    _show_identification(measured)
    page = Path(output, "report.html")
    report = write_report(result.comparison, page)
    click.echo(
        f"\n{report.representations} of {counted(report.available, 'representation')} to walk through in any browser: "
        f"{page} ({size(report.size)})"
    )
    echo_next(_next_commands(Path(output)))
    if problems:
        raise SystemExit(1)


def _next_commands(output: Path) -> list[tuple[str, str]]:
    zoo, comparison, measured = (
        quoted(str(output / f"{name}.zarr")) for name in ("zoo", "comparison", "comparison-measures")
    )
    names = "--model-a cnn-s0 --model-b resnet-s0 --checkpoint-a '*630' --checkpoint-b '*630'"
    code = f"import dask_svcca; print(dask_svcca.open_comparison({str(output / 'comparison.zarr')!r}))"
    # Easier to read between double quotes, as long as the path has nothing that means something there.
    quoted_code = f'"{code}"' if comparison == str(output / "comparison.zarr") else quoted(code)
    # The report and the matrix have svcca alone.
    seeds = "--model-a cnn-s0 --model-b cnn-s1 --checkpoint-a '*630' --checkpoint-b '*630'"
    by_cka = (
        f"dask-svcca query {measured} --measure cka {seeds}",
        "which layers of two trainings are most alike by cka",
    )
    if find_spec("matplotlib") is not None:
        figure = quoted(str(output / "settling.png"))
        by_cka = (
            f"dask-svcca plot settling {measured} --measure cka --model 'cnn*' -o {figure}",
            "how layers settle by cka",
        )
    return [
        (f"dask-svcca info {zoo}", "what was captured"),
        (f"dask-svcca query {comparison} {names}", "which layers of two trained networks are most alike"),
        by_cka,
        (f"python -c {quoted_code}", "the whole matrix, as an xarray Dataset"),
    ]


def _summarise(result: Demo, ready: float) -> None:
    captured, compared = result.captured, result.compared
    reports = captured.reports.values()
    models = {report.model for report in reports}
    layers = {(report.model, report.written + report.present) for report in reports}
    click.echo(
        f"\n{counted(len(models), 'network')} x {len(reports) // len(models)} checkpoints x "
        f"{' or '.join(sorted({str(count) for _, count in layers}, key=int))} layers = "
        f"{counted(sum(report.written + report.present for report in reports), 'representation')} of "
        f"{open_zoo(result.zoo).n_examples} images"
    )
    written = sum(report.written for report in reports)
    click.echo(f"  cluster   {seconds(ready):>7}  to start")
    if written:
        click.echo(
            f"  capture   {seconds(captured.seconds):>7}  {counted(written, 'representation')}, "
            f"{size(sum(report.nbytes for report in reports))}"
        )
    else:
        click.echo(f"  capture   {seconds(captured.seconds):>7}  nothing to do, all were there")
    comparisons = (
        ("averaged over positions, all pairs", compared),
        ("by spatial frequency, each layer with its final self and across seeds", result.compared_dft),
        ("by all measures, the same layers, and all of the trained networks across seeds", result.compared_measures),
    )
    for description, outcome in comparisons:
        done = "nothing to do, all there"
        if outcome.computed:
            done = f"{counted(outcome.computed, 'pair')}, {outcome.computed / outcome.seconds:,.0f} a second"
        click.echo(f"  compare   {seconds(outcome.seconds):>7}  {done}: {description}")


def _show_settling(comparison: xr.Dataset, by_frequency: xr.Dataset) -> None:
    seeds = counted(max(map(len, architectures(comparison).values())), "seed")
    click.echo(f"\nSimilarity of each layer to itself at the end of training, mean of {seeds},")
    readings = (
        ("cka, averaged over positions", comparison, "cka"),
        ("svcca, averaged over positions", comparison, "svcca"),
        (
            "svcca, by spatial frequency (the DFT split; directions are counted over all positions)",
            by_frequency,
            "svcca",
        ),
    )
    for title, dataset, measure in readings:
        click.echo(f"\n{title}:")
        _show_tables(dynamics_of(dataset, measure), dataset)
    click.echo(
        f"\n* is within {SETTLED} of its final self at every step in every seed, often since it passes its input on, "
        f"or keeps few\n  directions, which are then alike in any network. So it need not have learnt early."
    )


def _show_tables(dynamics: dict[str, xr.Dataset], comparison: xr.Dataset) -> None:
    console = Console(highlight=False, soft_wrap=True)
    # With sixteen colours, shades would be mere stripes.
    shaded = console.color_system in {"256", "truecolor"}
    for name, found in dynamics.items():
        values_of = found["similarity_to_final"].mean("model")
        kept, early = directions(found, comparison), settled_before(found)
        main = [str(layer) for layer in values_of["layer"].to_numpy() if MAIN_LAYERS.fullmatch(str(layer))]
        header = "".join(f"{step:>6.0f}" for step in values_of["step"].to_numpy())
        heads = (f"{name:<15}", "bold"), (f"directions{'step':>8}" + header[4:], "dim")
        console.print(Text.assemble("\n", *heads))
        for layer in main:
            values = values_of.sel(layer=layer).to_numpy()
            rank, neurons = kept[layer]
            shown = f"{rank} of {neurons}" if rank <= neurons else str(rank)
            console.print(
                Text.assemble(
                    f"  {layer + ('*' if layer in early else ''):<13}{shown:>10}    ",
                    *((f"{value:>6.2f}", _shade(value) if shaded else "") for value in values),
                )
            )


def _show_findings(comparison: xr.Dataset, zoo: Zoo) -> None:
    """What these networks show, as far as the numbers go."""
    by_cka, by_svcca = dynamics_of(comparison, "cka"), dynamics_of(comparison, "svcca")
    sensitivity = class_sensitivity(comparison, zoo=zoo, where={"layer": "logits", "final": True})
    why = (
        f"The settled step of a layer is the first from which it stays within {SETTLED} of its final self. In cka, "
        f"directions count by their variance; in svcca, all that a layer keeps count the same: where it keeps few, "
        f"svcca is high from the start."
    )
    sentences = (
        f"{describe_settling(by_cka)} {describe_settling(by_svcca)} {why}",
        describe_seeds(comparison, "logits", "svcca"),
        describe_jump(by_svcca, "logits"),
        describe_settled(dynamics_of(comparison, "cka", layer="logits", blocks=20), "logits"),
        describe_classes(sensitivity),
    )
    click.echo("\nWhat these networks show:\n")
    for sentence in sentences:
        click.echo(textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  "))


def _show_identification(comparison: xr.Dataset) -> None:
    """Which measure to trust: how often each finds the layers of the tables in the other training."""
    networks = architectures(comparison)
    left_out = {str(layer) for layer in comparison["layer_a"].to_numpy() if not MAIN_LAYERS.fullmatch(str(layer))}
    found = layer_identification(comparison, "all", groups=networks, exclude=sorted({*left_out, "logits"}))
    ranked = found.sortby(found["accuracy"].mean("group"), ascending=False)
    click.echo(
        "\nWhich measure to trust? How often the layer of another seed that is most similar is the same layer.\n"
        "Looked for are only outputs of blocks, among themselves, from each seed in the other. The logits are left\n"
        "out: any training makes them alike. Standard errors are by leaving out one layer after another.\n"
    )
    tested = found["tested"].isel(measure=0).to_numpy()
    directed = [len(models) * (len(models) - 1) for models in networks.values()]
    header = [
        "",
        *(f"{name}, {count} layers both ways" for name, count in zip(networks, tested // directed, strict=True)),
    ]
    rows = [
        [name, *(f"{value:.2f} ± {error:.2f}" for value, error in zip(values, errors, strict=True))]
        for name, values, errors in zip(
            ranked["measure"].to_numpy().tolist(),
            ranked["accuracy"].to_numpy(),
            ranked["accuracy_stderr"].to_numpy(),
            strict=True,
        )
    ]
    rows.append(["(by chance)", *(f"{value:.2f}       " for value in found["chance"].isel(measure=0).to_numpy())])
    table(header, rows, right=header[1:])
    known = [name for name in ("svcca", "whitened_procrustes") if name in comparison]
    every = layer_identification(comparison, known, groups=networks, exclude=["logits"])
    click.echo("\n" + textwrap.fill(describe_smaller_rank(every, comparison), 100))


def _shade(value: float) -> str:
    """Colours for a similarity: the lighter, the higher, from 0.4 or less to 1."""
    # Three points of viridis, which people of all colour visions and greyscale printers tell apart.
    points = ((68, 1, 84), (33, 145, 140), (253, 231, 37))
    place = np.clip((value - 0.4) / 0.6, 0, 1) * 2 if np.isfinite(value) else 0.0
    index = min(int(place), 1)
    mixed = (round(a + (b - a) * (place - index)) for a, b in zip(points[index], points[index + 1], strict=True))
    return f"{'black' if place > 1 else 'white'} on rgb({','.join(map(str, mixed))})"
