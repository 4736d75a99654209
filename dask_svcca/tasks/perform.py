"""From a task to its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_svcca.errors import DamagedSubspacesError
from dask_svcca.plan.tasks import GroupTask, PackTask, PartTask, TileReport, TileTask
from dask_svcca.stores._access import accessing
from dask_svcca.tasks.parts import perform_part
from dask_svcca.tasks.subspace import make_pack
from dask_svcca.tasks.tile import compute_tile
from dask_svcca.tasks.worker import Context

if TYPE_CHECKING:
    from dask_svcca.plan.tasks import Job, Task


def perform(job: Job, task: Task, *needed: Any) -> Any:
    """Do one task of a plan.

    A task may be done more than once, and at the same time: what it writes is the same.

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
        return _perform(job, task, *needed)


def _perform(job: Job, task: Task, *needed: Any) -> Any:
    match task:
        case GroupTask():
            return task.places
        case PackTask():
            return make_pack(Context(job), task)
        case PartTask():
            return perform_part(Context(job), task, *needed)
        case TileTask():
            context = Context(job)
            try:
                return compute_tile(context, task, *needed)
            except DamagedSubspacesError as error:
                if not error.pack:
                    raise
                # The others go on; whoever started the run has the pack made anew.
                return TileReport(task.row, task.column, 0, 0, context.seconds, damage=error)
