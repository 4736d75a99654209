"""What all commands share: bars or plain lines of progress, and amounts as people read them."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from dask_svcca.cli._errors import Interrupted
from dask_svcca.errors import DaskSvccaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

LINE_SECONDS: Final = 30
"""Time between two lines of progress, where there is no terminal to draw bars in."""

SHOWN_PROBLEMS: Final = 5


@contextlib.contextmanager
def resumable(what: str) -> Iterator[None]:
    """On Ctrl-C, end by saying what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted. {what} are kept: the same command goes on from there.") from None


@contextlib.contextmanager
def checked_options() -> Iterator[None]:
    """Show a value that is not valid as wrong use of the command."""
    try:
        yield
    except DaskSvccaError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error


class Bars:
    """Progress of some stages: bars in a terminal, a line now and then elsewhere. All goes to standard error.

    Parameters
    ----------
    stages : mapping of str to (str, str)
        What a stage does, and the unit it is counted in.
    """

    def __init__(self, stages: Mapping[str, tuple[str, str]]) -> None:
        self._stages = stages
        self._console = Console(stderr=True, highlight=False)
        self._started = self._spoken = self._stage_began = time.monotonic()
        self._tasks: dict[str, Task] = {}
        self._progress: Progress | None = None
        if self._console.is_terminal:
            width = max(len(what) for what, _ in stages.values())
            self._progress = Progress(
                TextColumn(f"{{task.description:<{width}}}"),
                BarColumn(bar_width=28),
                _Count(),
                TimeElapsedColumn(),
                _Remaining(compact=True),
                console=self._console,
            )

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
            self._show(next(iter(self._stages)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is None:
            return
        for task in self._tasks.values():
            # A stage without a total had nothing to do.
            task.visible = task.total is not None
        self._progress.stop()

    def _show(self, stage: str) -> Task:
        """Task of a stage; a new one begins where the stage before it ended."""
        if stage not in self._tasks:
            assert self._progress is not None  # noqa: S101 - for the type checker
            what, unit = self._stages[stage]
            self._progress.add_task(what, total=None, unit=unit)
            self._tasks[stage] = self._progress.tasks[-1]
            self._tasks[stage].start_time = self._stage_began
        return self._tasks[stage]

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._progress is not None:
            self._progress.update(self._show(stage).id, completed=done, total=total)
            if done == total:
                self._stage_began = now
                for following in [*self._stages][[*self._stages].index(stage) + 1 :][:1]:
                    self._show(following)
            return
        if done == total or now - self._spoken > LINE_SECONDS:
            self._spoken = now
            what, unit = self._stages[stage]
            click.echo(f"{what}: {done:,} of {total:,} {unit}, {seconds(now - self._started)}", err=True)


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if task.total is None:
            return Text(unit, style="dim")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f} {unit}", style="progress.download")


class _Remaining(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        left = super().render(task)
        return Text() if task.finished or task.total is None else left.append(" left", style="dim")


def seconds(value: float) -> str:
    """Duration for people.

    Examples
    --------
    >>> seconds(0.84), seconds(12.3), seconds(3725)
    ('0.8 s', '12 s', '1:02:05')
    """
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"


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
