"""Drives a job: starts or joins its cluster, runs the comparison there, and writes how far it is."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from dask_svcca import connections, machine
from dask_svcca.errors import DaskSvccaError, JobError
from dask_svcca.jobs.records import BEAT_SECONDS, Jobs, Record, now, user, write_own
from dask_svcca.jobs.schema import ClusterClass, LocalCluster, RunningCluster
from dask_svcca.jobs.status import joined
from dask_svcca.plan.parameters import ONLY_MASK, make_parameters
from dask_svcca.plan.tasks import TileReport
from dask_svcca.run.compare import plan_run, run_comparison
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.run.forecast import forecast_run
from dask_svcca.run.preview import run_preview
from dask_svcca.run.stores import choose_mask
from dask_svcca.run.workers import check_workers, workers_of
from dask_svcca.stores import _io
from dask_svcca.stores.zoo import open_zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from dask_svcca.coarse.estimated import Estimated
    from dask_svcca.connections import Client
    from dask_svcca.jobs.records import State
    from dask_svcca.jobs.schema import JobFile
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.plan.subspaces import Budget
    from dask_svcca.plan.tasks import Node
    from dask_svcca.run.forecast import Forecast
    from dask_svcca.run.outcome import Outcome, Progress
    from dask_svcca.stores.zoo import Zoo

LOOK_SECONDS: Final = 1.0
"""How often a job that works looks whether it was asked to end."""

MOST_FAILURES: Final = 100
"""Blocks that failed whose reasons the log of a job has; the comparison has all."""

LOG_SECONDS: Final = 60.0
"""Time between two lines of a job's log that say how far it is."""


class Cancelled(BaseException):
    """A job was asked to end: not an error, and not to be taken for one by what runs it."""


def open_job(job: JobFile) -> tuple[Zoo, Parameters]:
    """The zoo of a job, and the parameters of its comparison."""
    zoo = open_zoo(job.zoo)
    mask = None if job.mask is False else job.mask or ONLY_MASK
    return zoo, make_parameters(job.measures, **job.options, mask=choose_mask(zoo, mask))


@contextlib.contextmanager
def connected(
    job: JobFile, allowed: Sequence[str], told: Callable[[str], None] | None, check: Callable[[], None]
) -> Iterator[Client]:
    """A client of the cluster that a job asks for, with a worker at least.

    Raises
    ------
    ClusterError
        Where it cannot be had in time, or its workers cannot run the job.
    """
    with _cluster(job, allowed) as client:
        connections.wait_for_worker(client, job.cluster.workers_within, told, check)
        places = [place for place in (job.zoo, job.comparison, job.subspaces) if place is not None]
        check_workers(client, places)
        yield client


def _cluster(job: JobFile, allowed: Sequence[str]) -> contextlib.AbstractContextManager[Client]:
    where = job.cluster
    if isinstance(where, LocalCluster):
        return connections.connect(workers=where.workers, memory=where.memory, device=job.device)
    if isinstance(where, RunningCluster):
        return joined(where)
    return connections.start_cluster(
        where.name,
        where.options,
        allowed=allowed,
        scale=where.scale,
        adapt=None if where.adapt is None else (where.adapt.minimum, where.adapt.maximum),
    )


def named_cluster(job: JobFile) -> str:
    """Where a job runs, for people."""
    where = job.cluster
    if isinstance(where, ClusterClass):
        return where.name
    return where.address if isinstance(where, RunningCluster) else "this machine"


def expected_workers(job: JobFile) -> int:
    """Workers that a job asks a class of clusters for."""
    where = job.cluster
    if not isinstance(where, ClusterClass):
        return 1
    return where.adapt.maximum if where.adapt is not None else where.scale or 1


class Watched:
    """Runs tasks as another executor does, and counts what they report.

    Parameters
    ----------
    client : distributed.Client
    reporter : Reporter
    expected : int
        Workers that the cluster will have; as few as one may be there yet.
    device : str
        What they compute with.
    """

    def __init__(self, client: Client, reporter: Reporter, expected: int, device: str) -> None:
        self._executor = DaskExecutor(client, uuid.uuid4().hex[:12], check=reporter.check, device=device)
        self._reporter, self._expected = reporter, expected

    @property
    def budget(self) -> Budget:
        """As that of the cluster, when all its workers are there."""
        there = self._executor.budget
        return dataclasses.replace(there, workers=max(there.workers, self._expected))

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        """Run all tasks."""
        self._reporter.set_running()

        def take(key: str, report: Any) -> None:
            self._reporter.check()
            on_done(key, report)
            if isinstance(report, TileReport):
                self._reporter.add_pairs(report.computed + report.settled)

        self._executor.run(nodes, perform, take)


class Reporter:
    """Writes the record of a job, every few seconds and whenever something happens.

    Parameters
    ----------
    record : Record
        As it begins.
    bars : callable, optional
        Is told of progress too.
    """

    def __init__(self, record: Record, bars: Progress | None = None) -> None:
        self._record, self._bars = record, bars
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="dask-svcca-record", daemon=True)
        self._began: float | None = None
        self._counted = 0
        self._said = time.monotonic()
        self._cancelled = False
        self._looked = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if kind is None:
            return
        state, message = ending(error)
        self.end(state, message)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take how many tasks of a stage are done."""
        with self._lock:
            self._record = dataclasses.replace(self._record, stages={**self._record.stages, stage: (done, total)})
        if self._bars is not None:
            self._bars(stage, done, total)  # type: ignore[arg-type]
        if time.monotonic() - self._said > LOG_SECONDS or done == total:
            self._said = time.monotonic()
            self._log(f"{stage}: {done:,} of {total:,}")

    def say(self, text: str) -> None:
        """Tell whoever watches, and the log, what is waited for."""
        self._log(text)
        if (told := getattr(self._bars, "say", None)) is not None:
            told(text)

    def _log(self, text: str) -> None:
        with self._lock:
            self._record = self._record.with_event(text)

    def planned(self, pairs: int, done: int) -> None:
        """Take how many pairs are asked for, and how many are done."""
        with self._lock:
            self._record = dataclasses.replace(self._record, pairs=pairs, pairs_done=done)

    def joined(self, client: Client, dashboard: str) -> None:
        """Take the cluster that is there, and the address of its dashboard."""
        workers = len(workers_of(client))
        with self._lock:
            self._record = dataclasses.replace(self._record, dashboard=dashboard)
        self._log(f"Working with {workers} {'worker' if workers == 1 else 'workers'}")
        if dashboard:
            self.say(f"The dashboard, {dashboard} , shows the cluster at work")

    def say_failures(self, pairs: int, failures: Mapping[str, str]) -> None:
        """Take pairs whose tasks failed for good, and why, block by block."""
        with self._lock:
            self._record = dataclasses.replace(self._record, pairs_failed=pairs)
        for where, reason in list(failures.items())[:MOST_FAILURES]:
            self._log(f"failed: {where}: {reason}")

    def set_running(self) -> None:
        """From now on tasks run."""
        with self._lock:
            self._record = dataclasses.replace(self._record, state="running")
        self._began, self._counted = time.monotonic(), 0
        self.write()

    def add_pairs(self, count: int) -> None:
        """Take pairs that are done."""
        with self._lock:
            self._counted += count
            seconds = max(time.monotonic() - (self._began or 0.0), 1e-3)
            rate = self._counted / seconds
            done = self._record.pairs_done + count
            left = None if not rate else round(max(self._record.pairs - done, 0) / rate, 1)
            self._record = dataclasses.replace(
                self._record, pairs_done=done, pairs_per_second=round(rate, 1), seconds_left=left
            )

    def check(self) -> None:
        """Raise `Cancelled` where the job was asked to end."""
        if not self._cancelled and time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        if self._cancelled:
            raise Cancelled

    def end(self, state: State, message: str) -> None:
        """Say what became of the job."""
        with self._lock:
            self._record = dataclasses.replace(
                self._record, state=state, message=message, ended=now(), seconds_left=None
            ).with_event(f"{state}: {message}" if message else state)
        self.write()

    def write(self) -> None:
        """Store the record: in the comparison, as soon as there is one."""
        # In order; and whoever reports meanwhile does not wait for the store.
        with self._writing:
            with self._lock:
                record = self._record = dataclasses.replace(self._record, updated=now())
            if _io.is_group(record.comparison):
                Jobs(record.comparison, mode="r+").write(record)
            else:
                write_own(record)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A store that does not answer now may answer the next time; what the job itself does there, fails loudly.
            with contextlib.suppress(DaskSvccaError, OSError):
                self.write()
                self._look()

    def _look(self) -> None:
        """See whether the job was asked to end."""
        self._looked = time.monotonic()
        if _io.is_group(self._record.comparison):
            self._cancelled = self._cancelled or Jobs(self._record.comparison).is_cancelled(self._record.id)


def ending(error: BaseException | None) -> tuple[State, str]:
    """State of a job that ended with an error, and what to say of it."""
    if isinstance(error, Cancelled):
        return "cancelled", "what is finished is kept: submit the job again to go on"
    if isinstance(error, KeyboardInterrupt):
        return "cancelled", "interrupted; what is finished is kept: run the job again to go on"
    if isinstance(error, DaskSvccaError | OSError | ValueError):
        return "failed", str(error)
    return "failed", f"{type(error).__name__}: {error}"


def first_record(job: JobFile, job_id: str, submitted: str, *, restarted: bool) -> Record:
    """Record of a job that this process drives; it goes on from that of a process before it."""
    before = Jobs(job.comparison).read(job_id) if _io.is_group(job.comparison) else None
    return Record(
        job_id,
        zoo=job.zoo,
        comparison=job.comparison,
        user=user(),
        host=machine.host().partition(" ")[0],
        machine=machine.host(),
        process=os.getpid(),
        started=machine.process_start(os.getpid()) or "",
        cluster=named_cluster(job),
        submitted=submitted,
        version=importlib.metadata.version("dask-svcca"),
        restarted=restarted,
        events=() if before is None else before.events,
    ).with_event(f"Driven by process {os.getpid()} on {machine.host().partition(' ')[0]}")


def drive(
    job: JobFile,
    job_id: str,
    *,
    submitted: str | None = None,
    allowed: Sequence[str] = (),
    wait: bool = False,
    bars: Progress | None = None,
    client: Client | None = None,
) -> Outcome:
    """Run a job to its end, in this process or from a worker.

    Parameters
    ----------
    job : JobFile
    job_id : str
    submitted : str, optional
        When it was asked for; by default now.
    allowed : sequence of str
        See `dask_svcca.connections.start_cluster`.
    wait : bool
        Wait for another run of the comparison.
    bars : callable, optional
        Shows progress.
    client : distributed.Client, optional
        Of the cluster, where that is joined already.
    """
    record = first_record(job, job_id, submitted or now(), restarted=client is not None)
    with Reporter(record, bars) as reporter:
        zoo, parameters = open_job(job)
        reporter.write()
        given = contextlib.nullcontext(client) if client is not None else None
        with given or connected(job, allowed, reporter.say, reporter.check) as used:
            assert used is not None  # noqa: S101 - for the type checker
            # Those that we start on this machine have none.
            reporter.joined(used, "" if isinstance(job.cluster, LocalCluster) else used.dashboard_link)
            executor = Watched(used, reporter, expected_workers(job), job.device)
            where, likeness = guided(
                job, zoo, parameters, budget=lambda: executor.budget, wait=wait, executor=executor, progress=reporter
            )
            if job.preview and likeness is not None:
                seen = run_preview(
                    zoo, job.comparison, parameters, likeness, executor.budget, **where, wait=wait, told=reporter.say
                )
                reporter.say(f"There are estimates of {seen.estimated:,} pairs; now they are compared")
            plan = plan_run(zoo, job.comparison, parameters, executor.budget, **where)
            reporter.planned(plan.pairs, plan.pairs_done)
            if plan.fallback:
                reporter.say(f"On the CPU (auto: {plan.fallback})")
            outcome = run_comparison(
                zoo,
                job.comparison,
                parameters,
                **where,
                wait=wait,
                likeness=likeness if job.order == "by estimate" else None,
                executor=executor,
                progress=reporter,
            )
        reporter.say_failures(outcome.failed, outcome.failures)
        unable = len(outcome.problems)
        said = [f"{unable} representations could not be compared; problem_a says why"] if unable else []
        said += [sentence for sentence in (outcome.block_failure, outcome.device_caution) if sentence]
        reporter.end("done", ". ".join(said))
    return outcome


def forecast(job: JobFile, *, allowed: Sequence[str] = ()) -> Forecast:
    """What a job takes: measured for a few seconds on its cluster. Nothing is written to the stores.

    Parameters
    ----------
    job : JobFile
    allowed : sequence of str
        See `dask_svcca.connections.start_cluster`.
    """
    zoo, parameters = open_job(job)
    with connected(job, allowed, None, lambda: None) as client:
        executor = DaskExecutor(client, uuid.uuid4().hex[:12], device=job.device)
        where, _ = guided(job, zoo, parameters, make=False)
        _, found, _ = forecast_run(zoo, job.comparison, parameters, executor, **where)
        return found


def guided(
    job: JobFile, zoo: Zoo, parameters: Parameters, *, budget: Callable[[], Budget] | None = None, **options: Any
) -> tuple[dict[str, Any], Estimated | None]:
    """Which pairs, and where subspaces are, as `run_comparison` takes them; and what sketches say of all pairs.

    Parameters
    ----------
    job, zoo, parameters
    budget : callable, optional
        What the comparison is to run within, where sketches are made that are not there: first it is seen to fit.
    **options : object
        See `dask_svcca.coarse.sketched.estimated`.
    """

    def check(pairs: Pairs) -> None:
        if budget is not None:
            plan_run(zoo, job.comparison, parameters, budget(), **{**job.where, "pairs": pairs})

    likeness = job.guidance.estimated(zoo, parameters, check=check, **options)
    return {**job.where, "pairs": job.guidance.pairs(likeness)}, likeness


def end_on_signals() -> None:
    """Take what a batch system sends before it kills for a request to end."""

    def end(*_: object) -> None:
        raise Cancelled

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)


def check_owner(record: Record) -> None:
    """Raise where a job is another user's."""
    if record.user and record.user != user():
        raise JobError(f"the job {record.id!r} was submitted by {record.user!r}; you are {user()!r}")
