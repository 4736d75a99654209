"""What became of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dask_svcca.kernels.orders import LEAST_SAMPLES, least_chance
from dask_svcca.measures import of_directions, relations_of
from dask_svcca.plan.tasks import SubspaceReport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_svcca.errors import DamagedSubspacesError
    from dask_svcca.plan.plan import Plan
    from dask_svcca.plan.tasks import Report

Stage = Literal["subspaces", "tiles"]
Progress: TypeAlias = "Callable[[Stage, int, int], None]"
"""Called with a stage, how many of its tasks are done, and how many there are."""

SAMPLES_PER_DIRECTION = 5
"""Fewer samples per kept direction cause a warning: at five, independent representations of equal rank score 0.39."""

ENOUGH_EXAMPLES = 10
"""With fewer examples orders are few, and a distribution that is fitted to what they score is rough."""


@dataclass
class Outcome:
    """What became of a run.

    Attributes
    ----------
    plan : Plan
    problems : dict of str to str
        Representations that could not be compared, with the reason: a sentence that names them.
    computed, settled : int
        Pairs that got a value in this run, and pairs that cannot have one, for a reason that it recorded.
    failed : int
        Pairs whose tasks failed for good; the next run tries them again.
    failures : dict of str to str
        Blocks of pairs whose tasks failed for good, with the reason.
    seconds : float
        From the call to the end.
    stages : dict of str to float
        Seconds that tasks spent in each stage, over all workers, without waiting for cores that others had.
    bytes_read : int
        Bytes of activations that were read.
    few_samples : dict of str to (int, int)
        Representations with fewer than five samples per kept direction, and their numbers of both.
    left : tuple of str
        Representations that have left the zoo, whose results are from before.
    readings : dict of str to frozenset of str
        Measures asked for that their papers take of convolutional layers in another reading, and those readings.
    on_cpu : dict of str to int
        Tasks that were computed on the CPU in the end since the device failed: "tiles" and "subspaces".
    device_failure : str
        Why the first of them was.
    """

    plan: Plan
    problems: dict[str, str] = field(default_factory=dict)
    computed: int = 0
    settled: int = 0
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    few_samples: dict[str, tuple[int, int]] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    readings: dict[str, frozenset[str]] = field(default_factory=dict)
    on_cpu: dict[Stage, int] = field(default_factory=dict)
    device_failure: str = ""

    @property
    def device_caution(self) -> str:
        """What to say of `on_cpu`; empty where the device did not fail."""
        if not self.on_cpu:
            return ""
        count = " and ".join(
            f"{number:,} {stage if number > 1 else stage.removesuffix('s')}"
            for stage, number in sorted(self.on_cpu.items(), reverse=True)
        )
        return (
            f"{count} of {self.plan.device!r} {'was' if sum(self.on_cpu.values()) == 1 else 'were'} computed on the "
            f"CPU, since the device failed twice each time. The first: {self.device_failure}"
        )

    @property
    def caution(self) -> str:
        """What to say of `few_samples`, and of so few examples that p-values are rough; empty where there are none."""
        return ". ".join(filter(None, (self._few_samples, self._few_examples)))

    @property
    def _few_examples(self) -> str:
        """What to say of too few examples for p-values."""
        examples = min(
            (row.representation.shape[0] for row in self.plan.rows if row.representation is not None),
            default=ENOUGH_EXAMPLES,
        )
        if examples >= ENOUGH_EXAMPLES or not any(measure.p_value for measure in self.plan.measures):
            return ""
        said = "p-values are NaN"
        if examples >= LEAST_SAMPLES:
            said = f"p-values are rough, and none is below {least_chance(examples):.2g}, the share of one order of them"
        return f"With {examples} examples, fewer than {ENOUGH_EXAMPLES}, {said}. Use more examples"

    @property
    def _few_samples(self) -> str:
        """What to say of `few_samples`."""
        if not self.few_samples:
            return ""
        worst, (samples, directions) = min(self.few_samples.items(), key=lambda item: item[1][0] / item[1][1])
        nulls = [one.name for one in self.plan.measures if one.name in {"null_svcca", "null_cca", "null_r2_cca"}]
        said = f"; {nulls[0]} is what independent representations would score" if nulls else ""
        return (
            f"{len(self.few_samples)} of {self.plan.representations} representations have fewer than "
            f"{SAMPLES_PER_DIRECTION} samples per kept direction, and correlate by chance. The worst is {worst!r}: "
            f"{samples} samples, {directions} directions. Use more examples, or a lower variance{said}"
        )

    @property
    def failure(self) -> str:
        """What to say of `problems`; empty where there are none."""
        if not self.problems:
            return ""
        first = next(iter(self.problems.values()))
        result = "could not be compared, and all of their pairs are NaN"
        if len(relations_of(self.plan.measures)) + bool(of_directions(self.plan.measures)) > 1:
            result = "could not be compared by all measures, and their pairs are NaN in those"
        return (
            f"{len(self.problems)} of {self.plan.representations} representations {result}. The first: {first}. The "
            f"variable problem_a of the result has all reasons"
        )

    @property
    def block_failure(self) -> str:
        """What to say of `failures`; empty where there are none."""
        if not self.failures:
            return ""
        where, reason = next(iter(self.failures.items()))
        blocks = "a block" if len(self.failures) == 1 else f"{len(self.failures):,} blocks, the first of them"
        return (
            f"{self.failed:,} {'pair' if self.failed == 1 else 'pairs'} could not be compared, in {blocks} {where}: "
            f"{reason}. All else is finished; the same call tries them again"
        )

    @property
    def reading_caution(self) -> str:
        """What to say of `readings`; empty where there are none."""
        if not self.readings:
            return ""
        papers: dict[frozenset[str], list[str]] = {}
        for measure, readings in self.readings.items():
            papers.setdefault(readings, []).append(measure)
        usual = "; ".join(
            f"{' or '.join(f'conv={reading!r}' for reading in sorted(readings))} for {', '.join(measures)}"
            for readings, measures in papers.items()
        )
        return (
            f"convolutional layers are read by another conv= here than in the papers of some measures, and values "
            f"differ from those that are published. The papers have {usual}"
        )

    def timing(self, workers: int) -> dict[str, Any]:
        """Where the time went, as stored with the comparison."""
        return {
            **timing(self.seconds, self.stages, workers=workers, pairs=self.computed, bytes_read=self.bytes_read),
            "device": self.plan.device,
            **({"fallback": self.plan.fallback} if self.plan.fallback else {}),
            **({"on_cpu": dict(self.on_cpu), "device_failure": self.device_failure} if self.on_cpu else {}),
        }


def timing(seconds: float, stages: Mapping[str, float], *, workers: int, pairs: int, bytes_read: int) -> dict[str, Any]:
    """Where the time of a run, or of one part, went, as stored with the comparison.

    Parameters
    ----------
    seconds : float
        From its beginning to its end.
    stages : mapping of str to float
        Seconds that tasks spent in each stage, over all workers.
    workers, pairs, bytes_read : int
    """
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "workers": workers,
        "pairs": pairs,
        "pairs_per_second": round(pairs / max(seconds, 1e-3), 1),
        "bytes_read": bytes_read,
        "stages": {name: round(spent, 3) for name, spent in sorted(stages.items())},
        # What the workers had time for and did not spend in a stage: Dask, Python, waiting for the last tile or for a
        # core.
        "overhead": round(max(0.0, seconds * workers - sum(stages.values())), 3),
    }


class Tally:
    """Adds the reports of tasks to an outcome, and reports progress.

    Attributes
    ----------
    problems : dict of str to str
        By key of the subspace: sentences whose subject is the representation.
    damaged : dict of str to DamagedSubspacesError
        Packs of subspaces that tasks found damaged.
    has_lost : bool
        Whether pairs are missing that were not before, since values of theirs were found damaged.
    """

    def __init__(self, outcome: Outcome, progress: Progress | None) -> None:
        self.problems: dict[str, str] = {}
        self.damaged: dict[str, DamagedSubspacesError] = {}
        self.has_lost = False
        self._outcome, self._progress = outcome, progress
        self._done: dict[Stage, int] = {"subspaces": 0, "tiles": 0}
        self._totals: dict[Stage, int] = {"subspaces": outcome.plan.subspaces, "tiles": len(outcome.plan.tiles)}

    def add(self, reports: Report) -> None:
        """Take what one task reports."""
        for report in reports if isinstance(reports, list) else [reports]:
            stage: Stage = "subspaces" if isinstance(report, SubspaceReport) else "tiles"
            self._done[stage] += 1
            for name, seconds in report.seconds.items():
                self._outcome.stages[name] = self._outcome.stages.get(name, 0.0) + seconds
            if report.device_failure:
                self._outcome.on_cpu[stage] = self._outcome.on_cpu.get(stage, 0) + 1
                self._outcome.device_failure = self._outcome.device_failure or report.device_failure
            if isinstance(report, SubspaceReport):
                self._outcome.bytes_read += report.read
                if report.problem:
                    self.problems[report.key] = report.problem
            else:
                self._outcome.computed += report.computed
                self._outcome.settled += report.settled
                self.has_lost |= report.lost
                if report.damage is not None:
                    self.damaged[report.damage.pack] = report.damage
            if self._progress is not None:
                self._progress(stage, self._done[stage], self._totals[stage])
