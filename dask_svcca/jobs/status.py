"""What a job is doing, as anyone sees it: from its record, and before there is one, from who is to begin it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import distributed

from dask_svcca import connections, machine
from dask_svcca.errors import ClusterError, InvalidJobError, JobError
from dask_svcca.jobs.records import ENDED, Jobs, Record, user
from dask_svcca.jobs.schema import RunningCluster, read_job
from dask_svcca.stores import _io

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dask_svcca.connections import Client
    from dask_svcca.jobs.records import Pointer, State

STALLED_SECONDS: Final = 60.0
"""Without a new record for this long, nobody writes any more."""

_WAITING: Final = ("waiting", "queued", "no-worker", "processing")
"""States of a task that has not ended, as a scheduler calls them."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a job is doing, as anyone sees it.

    Attributes
    ----------
    record : Record
    state : str
    """

    record: Record
    state: State

    def to_dict(self) -> dict[str, Any]:
        """JSON values; without the log."""
        shown = {name: value for name, value in self.record.to_dict().items() if name not in {"events", "machine"}}
        return {**shown, "state": self.state}


def status_of(job: str, comparison: str, pointer: Pointer | None) -> Status:
    """What a job is doing, from its record: no scheduler and no process is asked, unless none has begun it for long.

    Raises
    ------
    JobError
        Where it left no record.
    """
    record, age, cancelled = None, None, False
    if _io.is_group(comparison):
        jobs = Jobs(comparison)
        record, age, cancelled = jobs.read(job), jobs.age(job), jobs.is_cancelled(job)
    if record is None:
        if pointer is None:
            raise JobError(f"the comparison {comparison!r} has no record of the job {job!r}")
        record = pointer.record
        if record is None:
            return _not_begun(pointer)
        age = _age(record.updated)
    state = record.state
    if state not in ENDED and (record.gone or (age is not None and age > STALLED_SECONDS)):
        state = "cancelled" if cancelled else "stalled"
        if not record.message:
            reason = _gone(record) if record.gone else f"nobody has written its record for {age:.0f} seconds"
            record = dataclasses.replace(record, message=f"{reason}; submit the job again to go on")
    return Status(record, state)


def _not_begun(pointer: Pointer) -> Status:
    """Of a job that has not written a record anywhere where this machine sees it."""
    record = Record(
        pointer.id,
        zoo="",
        comparison=pointer.comparison,
        user=user(),
        # One that a cluster drives has no process here that could be gone.
        machine=machine.host() if pointer.process else "",
        process=pointer.process,
        started=pointer.started,
        cluster=pointer.cluster,
        submitted=pointer.submitted,
        dashboard=pointer.dashboard,
    )
    age = _age(pointer.submitted)
    if pointer.process and not record.gone:
        return Status(record, "waiting")
    if pointer.process:
        reason = _gone(record)
    elif age < STALLED_SECONDS or task_waits(pointer):
        return Status(record, "waiting")
    else:
        reason = (
            f"{pointer.cluster or 'its cluster'!r} does not answer, or does not know the job any more, which was "
            f"submitted {age:.0f} seconds ago"
        )
    return Status(dataclasses.replace(record, message=f"{reason}; submit the job again to go on"), "stalled")


def _gone(record: Record) -> str:
    return f"its process on {record.host or 'this machine'} is gone"


def _age(moment: str) -> float:
    return time.time() - datetime.fromisoformat(moment).timestamp()


# --- on the scheduler that is to begin it --------------------------------------------------------------------------


def task_of(job: str) -> str:
    """Name of the task that drives a job, on a scheduler."""
    return f"dask-svcca-job-{job}"


def joined(cluster: RunningCluster) -> AbstractContextManager[Client]:
    """A client of a scheduler that is there already."""
    tls = None if cluster.tls is None else (cluster.tls.ca_file, cluster.tls.cert, cluster.tls.key)
    return connections.connect(cluster.address, tls=tls)


def _cluster_of(pointer: Pointer) -> RunningCluster | None:
    try:
        cluster = read_job(pointer.job_file).cluster
    except InvalidJobError:
        return None
    return cluster if isinstance(cluster, RunningCluster) else None


def task_waits(pointer: Pointer) -> bool:
    """Whether the scheduler of a job still has the task that drives it; not where it does not answer."""
    cluster, task = _cluster_of(pointer), task_of(pointer.id)
    if cluster is None:
        return False
    try:
        with joined(cluster) as client:
            return client.sync(client.scheduler.get_task_status, keys=[task])[task] in _WAITING
    except ClusterError:
        return False


def withdraw(pointer: Pointer) -> None:
    """Take the task of a job that no worker has begun from its scheduler.

    Raises
    ------
    ClusterError
        Where the scheduler does not answer.
    """
    cluster = _cluster_of(pointer)
    if cluster is not None:
        with joined(cluster) as client:
            client.cancel([distributed.Future(task_of(pointer.id), client)], force=True)
