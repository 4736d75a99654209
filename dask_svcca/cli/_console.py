"""What all commands share: progress, problems, and amounts as people read them."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Final

import click

from dask_svcca.cli._errors import Interrupted
from dask_svcca.errors import DaskSvccaError, OnlyEstimatesWarning
from dask_svcca.run.progress import STAGES, Bars, JsonLines, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SHOWN_PROBLEMS: Final = 5

__all__ = [
    "Bars",
    "checked_options",
    "counted",
    "echo_next",
    "echo_problems",
    "estimates_cautioned",
    "examples",
    "log_json",
    "named",
    "number",
    "progress_of",
    "results",
    "resumable",
    "seconds",
    "size",
    "table",
]


log_json = click.option("--log-json", is_flag=True, help="Log progress as JSON, a line each, in place of bars.")
"""The option of commands that run a comparison; see `progress_of`."""


def progress_of(*, as_json: bool, stages: Mapping[str, tuple[str, str]] = STAGES) -> Bars | JsonLines:
    """What shows how far a comparison is."""
    return JsonLines() if as_json else Bars(stages)


@contextlib.contextmanager
def resumable(what: str, bars: Bars | JsonLines) -> Iterator[None]:
    """On Ctrl-C, end by saying what is kept, of what these bars have counted."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"All finished {what} are kept: the same command goes on from there."
        if not bars.anything_done:
            kept = "This run has finished nothing yet; what was there before is kept. The same command starts it again."
        raise Interrupted(f"Interrupted. {kept}") from None


@contextlib.contextmanager
def estimates_cautioned() -> Iterator[None]:
    """Show as a sentence that there are estimates, and no value."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", OnlyEstimatesWarning)
        yield
    for one in said:
        if issubclass(one.category, OnlyEstimatesWarning):
            echo_caution(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@contextlib.contextmanager
def checked_options() -> Iterator[None]:
    """Show a value that is not valid as wrong use of the command."""
    try:
        yield
    except DaskSvccaError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def size(count: float) -> str:
    """Bytes for people.

    Examples
    --------
    >>> size(999), size(585_700_000), size(3.2e12)
    ('999 B', '586 MB', '3.2 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(value: float) -> str:
    """A value of a measure; one that four decimals would hide, such as a p-value, by its order of magnitude.

    Examples
    --------
    >>> number(0.51234), number(0.0), number(2.5e-7), number(float("nan"))
    ('0.5123', '0.0000', '2.5e-07', 'nan')
    """
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.4f}"


def p_number(value: float) -> str:
    """A p-value; one that is too small for a number says so.

    Examples
    --------
    >>> p_number(0.0378), p_number(2.5e-161), p_number(0.0)
    ('0.0378', '2.5e-161', '<1e-300')
    """
    return "<1e-300" if value == 0 else number(value)


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    Examples
    --------
    >>> counted(1, "representation"), counted(12345, "pair")
    ('1 representation', '12,345 pairs')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def echo_problems(problems: Mapping[str, str], noun: str) -> None:
    """Say what failed and why, a few of them, on standard error."""
    if not problems:
        return
    click.echo(click.style(f"{counted(len(problems), noun)} failed:", fg="red"), err=True)
    for name, reason in list(problems.items())[:SHOWN_PROBLEMS]:
        click.echo(f"  {named(name, reason)}", err=True)
    if len(problems) > SHOWN_PROBLEMS:
        click.echo(f"  and {len(problems) - SHOWN_PROBLEMS:,} more", err=True)


def echo_caution(sentence: str) -> None:
    """Say what to bear in mind, on standard error."""
    click.echo(f"{click.style('Caution:', fg='yellow')} {sentence}.", err=True)


def named(name: str, reason: str) -> str:
    """A reason with the name of what it is about, unless it has that already.

    Examples
    --------
    >>> named("net/c/fc", "it is constant"), named("net/c/fc", "'net/c/fc' is constant")
    ('net/c/fc: it is constant', "'net/c/fc' is constant")
    """
    return reason if name in reason else f"{name}: {reason}"


def echo_next(commands: Iterable[tuple[str, str]]) -> None:
    """Print commands that could come next, ready to run, each with what it does."""
    click.echo("\nNext:")
    for command, what in commands:
        click.echo(f"  {click.style('# ' + what, dim=True)}\n  {click.style(command, bold=True)}")


def examples(*lines: str) -> str:
    """The examples at the end of a command's help, as they are typed."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print aligned columns, those of numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for number, row in enumerate((header, *rows)):
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        click.echo(click.style("  ".join(cells).rstrip(), bold=number == 0))


def results(lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {text}")
