"""Capture many checkpoints: each a task of its own, and what goes wrong with one leaves the others alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from dask_svcca.engine import run
from dask_svcca.errors import DaskSvccaError

if TYPE_CHECKING:
    import distributed

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with how many checkpoints are done, well or not, and how many there are."""


@dataclass
class CaptureOutcome(Generic[T]):
    """What became of the checkpoints, in the order they were given.

    Attributes
    ----------
    reports : dict
        Name of a checkpoint to what its capture returned.
    problems : dict of str to str
        Name of a checkpoint to why it could not be captured.
    seconds : float
    """

    reports: dict[str, T] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def capture_each(
    captures: Mapping[str, Callable[[], T]],
    *,
    client: distributed.Client | None = None,
    progress: Progress | None = None,
) -> CaptureOutcome[T]:
    """Capture each of some checkpoints, one a task.

    Parameters
    ----------
    captures : mapping of str to callable
        What to call for each checkpoint, on a worker: without arguments, and small enough to send there. It writes to
        a store that all share, and may run more than once.
    client : distributed.Client, optional
        Default: as any Dask collection, the current client, else Dask's local scheduler.
    progress : callable, optional

    Returns
    -------
    CaptureOutcome
        A capture that raises is among its ``problems``. Nothing is raised for it, so that the others go on.

    Examples
    --------
    >>> outcome = capture_each({"good": lambda: 13, "bad": lambda: int("x")})
    >>> outcome.reports, outcome.problems
    ({'good': 13}, {'bad': "ValueError: invalid literal for int() with base 10: 'x'"})
    """
    started = time.perf_counter()
    name = uuid.uuid4().hex[:12]
    labels = {f"capture-{name}-{position}": label for position, label in enumerate(captures)}
    results: dict[str, tuple[T | None, str]] = {}

    def on_done(key: str, result: tuple[T | None, str]) -> None:
        results[labels[key]] = result
        if progress is not None:
            progress(len(results), len(captures))

    graph = {key: (_attempt, captures[label]) for key, label in labels.items()}
    run.run_graph(graph, list(graph), on_done, run.current_client(client))
    outcome: CaptureOutcome[T] = CaptureOutcome(seconds=time.perf_counter() - started)
    for label in captures:
        report, problem = results[label]
        if problem:
            outcome.problems[label] = problem
        elif report is not None:
            outcome.reports[label] = report
    return outcome


def _attempt(capture: Callable[[], T]) -> tuple[T | None, str]:
    try:
        return capture(), ""
    except DaskSvccaError as error:
        return None, str(error)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"
