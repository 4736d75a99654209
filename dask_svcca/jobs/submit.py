"""Jobs that outlive whoever asks for them: submitted, looked after and ended from other processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import distributed
import yaml

from dask_svcca import machine
from dask_svcca.devices.names import find_device
from dask_svcca.errors import JobError
from dask_svcca.jobs.driver import check_owner, connected, drive, named_cluster, open_job
from dask_svcca.jobs.records import ENDED, Jobs, Pointer, find, home, new_id, now, pointers, write_own
from dask_svcca.jobs.schema import JobFile, LocalCluster, RunningCluster
from dask_svcca.jobs.status import Status, status_of, task_of, withdraw
from dask_svcca.run.compare import plan_run
from dask_svcca.run.executors import DaskExecutor
from dask_svcca.stores import _io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dask_svcca.jobs.records import Record

POLL_SECONDS: Final = 0.5
"""How often whoever is attached looks at the record."""


def running_job(comparison: str) -> Status | None:
    """The job that is at work on a comparison, or waits for workers."""
    candidates = {pointer.id: pointer for pointer in pointers() if pointer.comparison == comparison}
    ids = list(candidates)
    if _io.is_group(comparison):
        ids += [job for job in Jobs(comparison).ids() if job not in candidates]
    for job in reversed(ids):
        found = status_of(job, comparison, candidates.get(job))
        if found.state in {"waiting", "running"}:
            return found
    return None


def submit(job: JobFile, *, allowed: Sequence[str] = (), modules: Sequence[str] = ()) -> tuple[Status, bool]:
    """Start a job that goes on when this process has ended.

    On this machine, or with a cluster of a class, a process of its own drives it; where a scheduler runs already, a
    task on it does, and this machine is not needed any more.

    Parameters
    ----------
    job : JobFile
    allowed : sequence of str
        Beginnings of classes that the job may start; see `dask_svcca.connections.start_cluster`.
    modules : sequence of str
        Modules of own measures.

    Returns
    -------
    status : Status
        Of the new job; or of the one that is at work on the comparison already.
    before : bool
        Whether that was submitted before.

    Raises
    ------
    DaskSvccaError
        Where the job cannot run: its zoo is not there, or its comparison has other parameters.
    """
    at_work = running_job(job.comparison)
    if at_work is not None:
        return at_work, True
    # What is wrong with the zoo, or with what is there already, is said now and not in a log.
    zoo, parameters = open_job(job)
    pointer = Pointer(new_id(), job.comparison, now(), cluster=named_cluster(job))
    if isinstance(job.cluster, RunningCluster):
        with connected(job, allowed, None, lambda: None) as client:
            # Which are nearest is known when there are sketches, and asks for no more than all.
            where = job.where if job.guidance.nearest is None else {**job.where, "pairs": "all"}
            plan_run(zoo, job.comparison, parameters, DaskExecutor(client, "", device=job.device).budget, **where)
            pointer = dataclasses.replace(pointer, dashboard=client.dashboard_link or "")
            _keep(pointer, job)
            pointer.write()
            future = client.submit(
                _drive_from_worker,
                job.model_dump(by_alias=True),
                pointer.id,
                pointer.submitted,
                tuple(modules),
                key=task_of(pointer.id),
                pure=False,
            )
            distributed.fire_and_forget(future)
    else:
        if isinstance(job.cluster, LocalCluster):
            find_device(job.device)
        _keep(pointer, job)
        pointer = _start_process(pointer, allowed, modules)
    return status_of(pointer.id, job.comparison, pointer), False


def _keep(pointer: Pointer, job: JobFile) -> None:
    home().mkdir(parents=True, exist_ok=True)
    pointer.job_file.write_text(yaml.safe_dump(job.model_dump(by_alias=True, mode="json")), encoding="utf-8")


def _start_process(pointer: Pointer, allowed: Sequence[str], modules: Sequence[str]) -> Pointer:
    command = [sys.executable, "-m", "dask_svcca", "run", str(pointer.job_file), "--id", pointer.id]
    command += [word for prefix in allowed for word in ("--allow-class", prefix)]
    command += [word for module in modules for word in ("--measures-from", module)]
    with pointer.log.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    pointer = dataclasses.replace(pointer, process=process.pid, started=machine.process_start(process.pid) or "")
    pointer.write()
    # It is not waited for: a zombie it may be, until this process ends.
    process.returncode = 0
    return pointer


def _drive_from_worker(document: dict[str, Any], job_id: str, submitted: str, modules: tuple[str, ...]) -> None:
    """Drive a job from a worker, whose thread others may have meanwhile."""
    from dask_svcca.measures import load_measures  # noqa: PLC0415 - own measures are code: only where they are asked for

    for module in modules:
        load_measures(module)
    with distributed.worker_client() as client:
        drive(JobFile.model_validate(document), job_id, submitted=submitted, wait=True, client=client)


def status(name: str) -> Status:
    """What a job is doing, by its id or the place of its comparison.

    Raises
    ------
    JobError
        Where there is none.
    """
    job, comparison, pointer = find(name)
    if not job:
        kind = _io.read_kind(comparison)
        if kind != "comparison":
            raise JobError(
                f"{name!r} is a store of kind {kind!r}, and jobs make comparisons: give a job's id or the path of its "
                f"comparison. 'dask-svcca info {name}' says what is in it"
            )
        raise JobError(f"the comparison {name!r} was not made by a job: 'dask-svcca info {name}' says what is in it")
    return status_of(job, comparison, pointer)


def cancel(name: str) -> Status:
    """Ask a job to end; what it has finished is kept. One that a cluster has not begun is taken back.

    Raises
    ------
    JobError
        Where there is none, it has ended, or another user submitted it.
    ClusterError
        Where the scheduler does not answer that is to begin it.
    """
    found = status(name)
    record = found.record
    if found.state in ENDED:
        raise JobError(f"the job {record.id!r} has ended already: it is {found.state}")
    check_owner(record)
    if _io.is_group(record.comparison):
        Jobs(record.comparison, mode="r+").cancel(record.id)
    pointer = next((each for each in pointers() if each.id == record.id), None)
    if pointer is not None and pointer.process and machine.process_start(pointer.process) == pointer.started:
        os.kill(pointer.process, signal.SIGTERM)
    # A record has been written as soon as somebody has begun.
    elif pointer is not None and not pointer.process and not record.updated:
        withdraw(pointer)
        ended = dataclasses.replace(record, state="cancelled", updated=now(), ended=now(), message="it had not begun")
        write_own(ended.with_event("cancelled before it had begun"))
    return status(record.id if pointer is not None else name)


def watch(name: str, told: Callable[[Record], None]) -> Iterator[Status]:
    """What a job is doing, whenever that changes, until it has ended or stalled."""
    seen = ""
    while True:
        found = status(name)
        if (latest := f"{found.record.updated} {found.state}") != seen:
            seen = latest
            told(found.record)
            yield found
        if found.state in ENDED or found.state == "stalled":
            return
        time.sleep(POLL_SECONDS)


def log_of(name: str) -> list[str]:
    """Lines of a job's log: what it recorded, and, where it ended unheard, what its process printed last."""
    found = status(name)
    lines = [f"{moment}  {text}" for moment, text in found.record.events]
    pointer = next((each for each in pointers() if each.id == found.record.id), None)
    if found.state == "stalled" and pointer is not None and pointer.log.exists():
        lines += pointer.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    return lines
