"""From a task to its result."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dask_svcca.errors import DamagedSubspacesError, DeviceFailedError
from dask_svcca.plan.tasks import GroupTask, PackTask, PartTask, ShareTask, SubspaceReport, TileReport, TileTask
from dask_svcca.stores._access import accessing
from dask_svcca.tasks.gram import Share
from dask_svcca.tasks.parts import Found, perform_part
from dask_svcca.tasks.subspace import make_pack
from dask_svcca.tasks.tile import compute_tile, sum_share
from dask_svcca.tasks.worker import Context

if TYPE_CHECKING:
    from dask_svcca.plan.tasks import Job, Task


DEVICE_ATTEMPTS: Final = 2
"""How often a task is tried on a device that fails, before it is computed on the CPU."""

_LOG = logging.getLogger(__name__)


def perform(job: Job, task: Task, *needed: Any) -> Any:
    """Do one task of a plan.

    A task may be done more than once, and at the same time: what it writes is the same. Where the device of the job
    fails at it, it is tried there again, and then computed on the CPU; its report says why.

    Parameters
    ----------
    job : Job
    task : Task
    *needed : object
        Results of the tasks that it waited for, in the order of its node.

    Returns
    -------
    object
        The report of a task that reports, else what the next tasks need.
    """
    with accessing(job.comparison):
        if job.device == "cpu":
            return _perform(job, task, *needed)
        on_cpu = replace(job, device="cpu")
        if not task.on_device:
            return _perform(on_cpu, task, *needed)
        # Steps before this one may have been computed on the CPU, and have no report of their own.
        steps = [one.device_failure for one in needed if isinstance(one, Found | Share)]
        before, reason = next(filter(None, steps), ""), ""
        if not isinstance(task, TileTask | ShareTask):
            # What stays there from tile to tile is not counted beside what a subspace takes.
            Context(on_cpu).worker.held.clear()
        for attempt in range(1, DEVICE_ATTEMPTS + 1):
            try:
                return _noted(_perform(job, task, *needed), before)
            except DeviceFailedError as error:
                # Another attempt has all of its memory.
                Context(on_cpu).worker.held.clear()
                _LOG.info("The device %s failed, attempt %d of %d (%s)", job.device, attempt, DEVICE_ATTEMPTS, error)
                reason = str(error)
        return _noted(_perform(on_cpu, task, *needed), reason)


def _noted(result: Any, reason: str) -> Any:
    """What a task gives, with the reason why it was computed on the CPU in the end, if it was."""
    if not reason:
        return result
    if isinstance(result, list):
        return [replace(one, device_failure=reason) if isinstance(one, SubspaceReport) else one for one in result]
    return replace(result, device_failure=reason)


def _perform(job: Job, task: Task, *needed: Any) -> Any:
    match task:
        case GroupTask():
            return task.places
        case PackTask():
            return make_pack(Context(job), task)
        case PartTask():
            return perform_part(Context(job), task, *needed)
        case ShareTask() | TileTask():
            context = Context(job)
            try:
                if isinstance(task, ShareTask):
                    return sum_share(context, task, *needed)
                return compute_tile(context, task, *needed)
            except DamagedSubspacesError as error:
                if not error.pack:
                    raise
                # The others go on; whoever started the run has the pack made anew.
                return (
                    Share({}, context.seconds, damage=error)
                    if isinstance(task, ShareTask)
                    else TileReport(task.row, task.column, 0, 0, context.seconds, damage=error)
                )
