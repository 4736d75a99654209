"""How far a run is: bars, or plain lines where none can be drawn."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

LINE_SECONDS: Final = 30
"""Time between two lines of progress, where there is no terminal to draw bars in."""

LEAST_SECONDS: Final = 0.5
"""Time from the first that was done below which no rate is told: the next may have waited beside it."""

STAGES: Final = {
    "subspaces": ("Making subspaces", "subspaces"),
    "tiles": ("Comparing pairs", "tiles"),
}
"""The stages of a comparison. Neighbours of examples, and distances, that are stored beside subspaces count as such."""


class Bars:
    """Progress of some stages: bars in a terminal or notebook, a line now and then elsewhere, all to standard error.

    Parameters
    ----------
    stages : mapping of str to (str, str)
        What a stage does, and the unit it is counted in.

    Attributes
    ----------
    anything_done : bool
        Whether something of a stage is done.
    """

    def __init__(self, stages: Mapping[str, tuple[str, str]]) -> None:
        self._stages = stages
        self.anything_done = False
        self._console = Console(stderr=True, highlight=False)
        self._spoken = self._stage_began = time.monotonic()
        self._tasks: dict[str, Task] = {}
        self._pace = Rates()
        self._progress: Progress | None = None
        if self._console.is_terminal or _notebook_can_draw(self._console):
            width = max(len(what) for what, _ in stages.values())
            self._progress = Progress(
                TextColumn(f"{{task.description:<{width}}}"),
                BarColumn(bar_width=28),
                _Count(),
                _Rate(),
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

    def say(self, sentence: str) -> None:
        """Say what is waited for, above the bars."""
        self._console.print(f"{sentence}.", style="yellow", markup=False)

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
        """Show how many of a stage are done."""
        self.anything_done = self.anything_done or done > 0
        now = time.monotonic()
        rate = self._pace.rate(stage, done, now)
        if self._progress is not None:
            self._progress.update(self._show(stage).id, completed=done, total=total)
        elif done == total or now - self._spoken > LINE_SECONDS:
            self._spoken = now
            what, unit = self._stages[stage]
            left = f", {_told(rate)} a second" if rate else ""
            left += f", about {seconds((total - done) / rate)} left" if rate and done < total else ""
            took = seconds(now - self._stage_began)
            sys.stderr.write(f"{what}: {done:,} of {total:,} {unit}, {took}{left}\n")
            sys.stderr.flush()
        if done == total:
            self._stage_began = now
            if self._progress is not None:
                for following in [*self._stages][[*self._stages].index(stage) + 1 :][:1]:
                    self._show(following)


class Rates:
    """How many of each stage are done a second, since the first of them were.

    Examples
    --------
    >>> rates = Rates()
    >>> [rates.rate("tiles", done, moment) for done, moment in [(10, 5.0), (30, 9.0)]]
    [0.0, 5.0]
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, float]] = {}

    def rate(self, stage: str, done: int, moment: float) -> float:
        """Rate of a stage, of which some are done at a moment in seconds; 0 as long as none can be told."""
        before, began = self._first.setdefault(stage, (done, moment))
        return (done - before) / (moment - began) if moment - began >= LEAST_SECONDS else 0.0


def _told(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


class JsonLines:
    """How far some stages are, as lines of JSON on standard error.

    Attributes
    ----------
    anything_done : bool
        Whether something of a stage is done.
    """

    def __init__(self) -> None:
        self.anything_done = False
        self._rates = Rates()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, sentence: str) -> None:
        """Say what is waited for."""
        _print_json({"message": sentence})

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how many tasks of a stage are done, how many a second, and the seconds left."""
        self.anything_done = self.anything_done or done > 0
        rate = self._rates.rate(stage, done, time.monotonic())
        left = round((total - done) / rate, 1) if rate else None
        _print_json({"stage": stage, "done": done, "total": total, "per_second": round(rate, 3), "seconds_left": left})


def _print_json(line: Mapping[str, object]) -> None:
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": moment, **line}) + "\n")
    sys.stderr.flush()


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if task.total is None:
            return Text(unit, style="dim")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f} {unit}", style="progress.download")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if task.total is None or not speed else f"{_told(speed)}/s", style="dim")


class _Remaining(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        left = super().render(task)
        return Text() if task.finished or task.total is None else left.append(" left", style="dim")


def _notebook_can_draw(console: Console) -> bool:
    """Whether this is a notebook in which rich can draw: without ipywidgets it cannot draw anew what changes."""
    return console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


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
