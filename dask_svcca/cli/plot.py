"""``dask-svcca plot``: figures of a comparison."""

from __future__ import annotations

import inspect
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_svcca import plot as figures
from dask_svcca.cli._console import checked_options, estimates_cautioned, examples
from dask_svcca.cli._paths import Place, check_folder
from dask_svcca.patterns import RULE
from dask_svcca.plot._names import PARTS
from dask_svcca.plot._panes import FORMATS, make_figure, save
from dask_svcca.stores.dataset import open_comparison
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr

DPI = 150
GLYPH = "Glyph .* missing from font"


class Inches(click.ParamType[tuple[float, float]]):
    """A size as it is typed: ``7x4``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Text to width and height."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)x([0-9]+(?:\.[0-9]+)?)", str(value))
        if found is None or not all(0.5 <= float(one) <= 100 for one in found.groups()):
            self.fail(f"{value!r} is not a valid size: width x height in inches, such as 7x4.", param, ctx)
        return float(found[1]), float(found[2])


class Picture(click.Path):
    """A file to be written, whose ending says its format."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the ending."""
        file = Path(str(super().convert(value, param, ctx))).expanduser()
        if file.suffix.lower().removeprefix(".") not in FORMATS:
            endings = ", ".join(f".{one}" for one in FORMATS)
            self.fail(f"{str(value)!r} ends in none of {endings}, which say the format.", param, ctx)
        return file


@click.command(
    epilog=examples(
        "dask-svcca plot dynamics comparison.zarr --model cnn-s0 -o dynamics.png",
        "dask-svcca plot matrix comparison.zarr --final --model-a cnn-s0 --model-b resnet-s0 -o matrix.svg",
        "dask-svcca plot settling comparison.zarr --model 'cnn*' --measure cka --size 7x4 -o settling.pdf",
    )
)
@click.argument("kind", type=click.Choice(figures.__all__), metavar="KIND")
@click.argument("comparison", type=Place())
@click.option("--model", multiple=True, metavar="PATTERN", help=f"Models, on both sides: {RULE}.")
@click.option("--checkpoint", multiple=True, metavar="PATTERN")
@click.option("--layer", multiple=True, metavar="PATTERN", help="All patterns may be repeated.")
@click.option("--model-a", multiple=True, metavar="PATTERN", help="Models on the y axis alone; -b: on the x axis.")
@click.option("--checkpoint-a", multiple=True, metavar="PATTERN")
@click.option("--layer-a", multiple=True, metavar="PATTERN")
@click.option("--model-b", multiple=True, metavar="PATTERN")
@click.option("--checkpoint-b", multiple=True, metavar="PATTERN")
@click.option("--layer-b", multiple=True, metavar="PATTERN")
@click.option("--final", is_flag=True, help="Only the final checkpoint of each model.")
@click.option("--match", is_flag=True, help="Mark the best one-to-one assignment of layers, in a matrix.")
@click.option(
    "--group", "groups", multiple=True, metavar="NAME=PATTERN", help="A group and its models, for groups; repeat it."
)
@click.option("--zoo", type=Place(), metavar="ZOO", help="What was compared, for class_sensitivity and directions.")
@click.option("--labels", metavar="NAME", help="Coordinate of the zoo with the class of each example [default: label]")
@click.option("--measure", metavar="NAME", help="[default: the first of the comparison]")
@click.option(
    "-o", "--output", "file", type=Picture(dir_okay=False), required=True, metavar="FILE", help="A png, svg or pdf."
)
@click.option("--size", type=Inches(), metavar="WxH", help="In inches, such as 7x4 [default: as the panes need].")
@click.option("--dpi", type=click.IntRange(10, 1200), default=DPI, show_default=True, help="Points an inch, of a png.")
def plot(
    kind: str,
    comparison: str,
    *,
    final: bool,
    measure: str | None,
    zoo: str | None,
    labels: str | None,
    groups: tuple[str, ...],
    match: bool,
    file: Path,
    size: tuple[float, float] | None,
    dpi: int,
    **patterns: tuple[str, ...],
) -> None:
    """Draw a figure of a COMPARISON, finished or not.

    What has no value, or none yet, is grey. Each kind is a function of dask_svcca.plot, which says more about it:

    {kinds}
    """
    check_folder(file)
    draw: Callable[..., Any] = getattr(figures, kind)
    takes = inspect.signature(draw).parameters
    options: dict[str, Any] = _choices(kind, takes, patterns, final=final)
    for name, value in (("measure", measure), ("match", match), ("zoo", zoo), ("labels", labels)):
        if value:
            if name not in takes:
                raise click.UsageError(f"--{name} says nothing about {kind}.")
            options[name] = value
    if groups or "groups" in takes:
        if "groups" not in takes:
            raise click.UsageError(f"--group says nothing about {kind}.")
        options = {
            **{key: value for key, value in options.items() if key == "measure"},
            "groups": _groups(groups, options),
        }
    if "zoo" in takes:
        if not zoo:
            raise click.UsageError(f"{kind} takes --zoo, the zoo that was compared.")
        options["zoo"] = open_zoo(zoo)
    if takes.get("a") is not None and takes["a"].default is inspect.Parameter.empty:
        # What is chosen is counted by the function, which says what to choose.
        options = {"a": {}, "b": {}, **options}
    result: xr.Dataset = open_comparison(comparison)
    with checked_options(), estimates_cautioned(), _boxes_said_once():
        axes = draw(result, **options, ax=make_figure(*size) if size else None)
        save(axes, file, dpi=dpi)
    click.echo(f"{file}: {kind} of {comparison}")


@contextmanager
def _boxes_said_once() -> Iterator[None]:
    """Say once, and not for every character, that the font lacks some, which are boxes in the figure."""
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("always", GLYPH)
        yield
    lacking = set()
    for one in said:
        if re.match(GLYPH, str(one.message)):
            lacking.add(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if lacking:
        characters = "1 character" if len(lacking) == 1 else f"{len(lacking)} characters"
        click.echo(
            f"{characters} of the names are boxes in the figure, since the font has none for them; name one that has, "
            f"font.family, in a matplotlibrc file",
            err=True,
        )


def _groups(given: tuple[str, ...], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Groups of models by name, each within what the other options choose."""
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, separator, pattern = text.partition("=")
        if not (name and separator and pattern):
            raise click.UsageError(f"--group {text!r} is not a name and a pattern of models, such as seeds=cnn-s*.")
        found.setdefault(name, {**options.get("a", {}), "model": []})["model"].append(pattern)
    if not found:
        raise click.UsageError("groups takes --group NAME=PATTERN, once a group.")
    return found


def _choices(kind: str, takes: Any, patterns: dict[str, tuple[str, ...]], *, final: bool) -> dict[str, Any]:
    """What the options choose, as the function takes it: for both sides at once, or for each."""
    given: dict[str, Any] = {part: list(patterns[part]) for part in PARTS if patterns[part]}
    if final:
        given["final"] = True
    if "where" in takes:
        if sided := [f"--{name.replace('_', '-')}" for name, value in patterns.items() if value and name not in PARTS]:
            raise click.UsageError(
                f"{kind} has one choice for both sides: --model, --checkpoint and --layer, not {sided[0]}."
            )
        return {"where": given} if given else {}
    sides: dict[str, Any] = {}
    for side in "ab":
        own = {part: list(patterns[f"{part}_{side}"]) for part in PARTS if patterns[f"{part}_{side}"]}
        if chosen := {**given, **own}:
            sides[side] = chosen
    return sides


def _describe(kind: str) -> str:
    """A line of the help: what a kind draws, as its function says."""
    text = inspect.getdoc(getattr(figures, kind)) or ""
    return f"{kind:<18} {text.partition(':')[0].partition('.')[0].removeprefix('Draw ')}"


plot.help = inspect.cleandoc(plot.help or "").replace("{kinds}", "\b\n" + "\n".join(map(_describe, figures.__all__)))
