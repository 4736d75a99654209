"""``dask-svcca explore`` and ``dask-svcca report``: comparisons to walk through."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dask_svcca.cli._console import examples, size
from dask_svcca.cli._measures import split_measures
from dask_svcca.cli._paths import Place, check_folder
from dask_svcca.patterns import RULE

if TYPE_CHECKING:
    from dask_svcca.explore.server import Explorer


@click.command(
    epilog=examples(
        "dask-svcca explore comparison.zarr",
        "dask-svcca explore mean.zarr dft.zarr --port 8790 --no-browser",
    )
)
@click.argument("comparisons", type=Place(), nargs=-1, required=True, metavar="COMPARISON...")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="The port [default: a free one].")
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
def explore(comparisons: tuple[str, ...], *, port: int, no_browser: bool) -> None:
    """Walk through one COMPARISON or several in the browser: models, then checkpoints, then layers, then one pair.

    A server on this machine alone reads what is looked at. Its address has a token: keep it to yourself. Overviews of
    large comparisons are computed once, and kept beside the comparison, in a folder whose name ends in .explore.
    Ctrl-C ends it.
    """
    from dask_svcca.explore.server import Explorer  # noqa: PLC0415 - Tornado is imported when it is needed

    explorer = Explorer(comparisons, port=port)
    click.echo(explorer.address)
    click.echo("Ctrl-C ends it.", err=True)
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        asyncio.run(_serve(explorer, None if no_browser else Path(folder) / "explore.html"))


async def _serve(explorer: Explorer, page: Path | None) -> None:
    """Answer requests, and open the browser at a page that leads to the address."""
    if page is not None:
        # The arguments of a browser are seen by all users of this machine; a file in a folder of ours is not.
        page.write_text(f'<meta http-equiv="refresh" content="0; url={explorer.address}">', "utf-8")
        asyncio.get_running_loop().run_in_executor(None, webbrowser.open, page.as_uri())
    await explorer.serve()


@click.command(
    epilog=examples(
        "dask-svcca report comparison.zarr -o report.html",
        "dask-svcca report comparison.zarr --model 'resnet*' --measure cka -o resnets.html",
    )
)
@click.argument("comparison", type=Place())
@click.option("-o", "--output", type=click.Path(dir_okay=False), required=True, metavar="FILE", help="The page.")
@click.option("--model", multiple=True, metavar="PATTERN", help=f"Only these models: {RULE}. May be repeated.")
@click.option("--checkpoint", multiple=True, metavar="PATTERN", help="Only these checkpoints.")
@click.option("--layer", multiple=True, metavar="PATTERN", help="Only these layers.")
@click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="NAME",
    help="Measures, separated by commas or repeated [default: as many as the page has room for].",
)
def report(
    comparison: str,
    *,
    output: str,
    model: tuple[str, ...],
    checkpoint: tuple[str, ...],
    layer: tuple[str, ...],
    measures: tuple[str, ...],
) -> None:
    """Write what explore shows of a COMPARISON into one page, which needs neither a server nor a network.

    It has less than 6 MB. Where not all fits, checkpoints are left out: the first and the last of each model stay, and
    those between are spread as the logarithms of their steps are. The page says what it has.
    """
    from dask_svcca.explore.report import write_report  # noqa: PLC0415 - see `explore`

    check_folder(Path(output))
    where = {
        name: list(given) for name, given in (("model", model), ("checkpoint", checkpoint), ("layer", layer)) if given
    }
    made = write_report(comparison, Path(output), where=where, measures=split_measures(measures) or None)
    left = f" of {made.available:,}" if made.available != made.representations else ""
    click.echo(
        f"{output}: {size(made.size)}, {made.representations:,}{left} representations, {', '.join(made.measures)}"
    )
    if made.left_out:
        click.echo(f"Measures were left out for size: {', '.join(made.left_out)}; --measure chooses others.", err=True)
    if left:
        click.echo("Checkpoints were left out for size; --model, --layer and --checkpoint choose others.", err=True)
