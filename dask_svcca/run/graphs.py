"""Dask graphs, run on the scheduler of the user's choice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, TypeAlias, TypeVar

import dask
import dask.base
import dask.local
import dask.multiprocessing
import dask.threaded
import distributed
from dask._task_spec import Task, TaskRef
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from dask_svcca import machine
from dask_svcca.connections import GPU
from dask_svcca.errors import ClusterError, DamagedSubspacesError, StoreAccessError
from dask_svcca.run.failed import ATTEMPTS, Failed
from dask_svcca.run.workers import with_gpus
from dask_svcca.tasks import single_blas_thread

Graph: TypeAlias = Mapping[str, tuple[Any, ...]]
T = TypeVar("T")
OnDone: TypeAlias = Callable[[str, Any], None]

WORKERS_WITHIN = 600.0
"""Seconds that a run waits where no worker is left: a queue, or a nanny, may bring others."""

LOOK_SECONDS = 2.0
"""How often a run that waits looks whether there is still somebody to wait for."""

_LOG = logging.getLogger(__name__)


def current_client(client: distributed.Client | None) -> distributed.Client | None:
    """The client to run on: the one given, else the one any Dask collection would use, else none."""
    if client is not None:
        if not isinstance(client, distributed.Client):
            raise ClusterError(
                f"client is a distributed.Client, such as dask_svcca.connect gives, or None; got {client!r}"
            )
        return client
    return _owner(dask.base.get_scheduler())


def check_local(client: distributed.Client | None) -> None:
    """Raise `ClusterError` where the user wants work on stores in the memory of this process to run in another one.

    Distributed takes a copy of such a store even to workers that are threads of this process.
    """
    if client is not None:
        raise ClusterError(
            "workers of a cluster cannot reach arrays and stores in the memory of this process. Leave client= out, and "
            "the work runs in threads of this process; or write the arrays into a zoo, and compare it into a store on "
            "disk"
        )
    if dask.base.get_scheduler() is dask.multiprocessing.get:
        raise ClusterError(
            "Dask is set to run in processes, which cannot reach stores in the memory of this one. Use its threads, "
            "dask.config.set(scheduler='threads'), or stores on disk"
        )


def local_workers() -> int:
    """How many tasks Dask's local scheduler runs at a time.

    Examples
    --------
    >>> with dask.config.set(scheduler="synchronous"):
    ...     local_workers()
    1
    >>> with dask.config.set(scheduler="threads", num_workers=3):
    ...     local_workers()
    3
    """
    if dask.base.get_scheduler() is dask.local.get_sync:
        return 1
    return int(dask.config.get("num_workers", None) or machine.cores())


def _owner(scheduler: Any) -> distributed.Client | None:
    owner = getattr(scheduler, "__self__", None)
    return owner if isinstance(owner, distributed.Client) else None


def run_graph(
    graph: Graph,
    keys: Sequence[str],
    on_done: OnDone,
    client: distributed.Client | None,
    *,
    on_failed: Callable[[str, Failed], None] | None = None,
    check: Callable[[], None] | None = None,
    workers_within: float = WORKERS_WITHIN,
    on_gpu: AbstractSet[str] = frozenset(),
) -> None:
    """Run a graph, and hand over each wanted result as it comes.

    A task that fails is tried again, on a cluster by another worker where there is one.

    Parameters
    ----------
    graph : mapping of str to tuple
        A Dask graph: key to (function, argument, ...), where an argument that is a key waits for that task.
    keys : sequence of str
        Tasks whose results are wanted.
    on_done : callable
        Called with key and result, in the caller's process.
    client : distributed.Client or None
        None runs on Dask's local scheduler: threads, or what ``dask.config`` says.
    on_failed : callable, optional
        Called with the key of a wanted task that failed for good, or waited for one; the others go on. By default the
        error is raised. That a store cannot be accessed is always raised.
    check : callable, optional
        Called several times a second while a cluster is waited for; ends the run where it raises.
    workers_within : float
        Seconds to wait for a worker, where none is left.
    on_gpu : set of str
        Tasks that wait for a worker with the resource ``GPU``.

    Raises
    ------
    ClusterError
        Where the scheduler is lost, or no worker is left.
    """
    if not keys:
        return

    def failed(key: str, why: Failed) -> None:
        # It would be met by all others, too.
        if on_failed is None or isinstance(why.error, StoreAccessError | DamagedSubspacesError):
            raise why.error
        on_failed(key, why)

    if client is None:
        _run_local(graph, keys, on_done, failed)
    else:
        watch = _Watch(client, workers_within, check, gpu=bool(on_gpu))
        _run_distributed(graph, keys, on_done, failed, client, watch, on_gpu)


def _run_local(graph: Graph, keys: Sequence[str], on_done: OnDone, on_failed: Callable[[str, Failed], None]) -> None:
    scheduler = dask.base.get_scheduler()
    if scheduler is None or _owner(scheduler) is not None:
        scheduler = dask.threaded.get
    wanted = set(keys)

    def finished(key: str, result: Any, *_: Any) -> None:
        if key in wanted:
            (on_failed if isinstance(result, Failed) else on_done)(key, result)

    with machine.one_blas_thread(), machine.collecting_new(), Callback(posttask=finished):
        scheduler({key: (_attempt, *work) for key, work in graph.items()}, list(keys))


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a task, or why it failed; that of a task that it needs, where that failed."""
    needed = next((argument for argument in arguments if isinstance(argument, Failed)), None)
    return attempt(partial(function, *arguments)) if needed is None else needed


def attempt(work: Callable[[], T]) -> T | Failed:
    """What some work gives, or why it failed whenever it was tried.

    Parameters
    ----------
    work : callable

    Examples
    --------
    >>> attempt(lambda: 1 + 1), attempt(lambda: 1 / 0).reason
    (2, 'failed 3 times (ZeroDivisionError: division by zero)')
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            return work()
        except (StoreAccessError, DamagedSubspacesError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            _LOG.info("A task failed, attempt %d of %d (%s: %s)", number, ATTEMPTS, type(error).__name__, error)
            last = error
    return Failed.by(last)


def _run_distributed(
    graph: Graph,
    keys: Sequence[str],
    on_done: OnDone,
    on_failed: Callable[[str, Failed], None],
    client: distributed.Client,
    watch: _Watch,
    on_gpu: AbstractSet[str],
) -> None:
    # The graph of ten thousand representations is 15 MB, and Dask would warn of it.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
        work: Any = {key: _anywhere(key, rest, graph) for key, rest in graph.items()}
        if on_gpu:
            layer = MaterializedLayer(work, annotations={"resources": partial(_resources, on_gpu)})
            work = HighLevelGraph({"tasks": layer}, {"tasks": set()})
        futures = client.get(work, list(keys), sync=False, retries=ATTEMPTS - 1)
    pending = {future.key: future for future in futures}
    del futures
    completed = distributed.as_completed(
        list(pending.values()), loop=client.loop, with_results=True, raise_errors=False
    )
    try:
        while pending:
            if not completed.has_ready():
                with completed.thread_condition:
                    completed.thread_condition.wait(timeout=0.1)
                watch.check()
                continue
            future, result = next(completed)
            # Released as they finish: held, a finished task of a worker that dies would run again.
            del pending[future.key]
            if future.status == "error":
                on_failed(future.key, _failed(result[1]))
            elif future.status == "finished":
                on_done(future.key, result)
            else:
                watch.lost()
            del future, result
    except BaseException:
        # Not client.cancel(): it takes the scheduler's side of this client down where a task in between, that nobody
        # asked for by name, depends on one that is cancelled.
        for future in pending.values():
            future.release()
        raise


def _anywhere(key: str, work: tuple[Any, ...], graph: Graph) -> Task:
    """A task that whichever worker is free takes.

    Where it is not said that a task makes data, Dask sends it to a worker that has what it waits for, however long the
    queue is there; ours read from a store nearly all that they work on. Other workers stand idle until tasks of the
    kind are known to take long, which for two shares of one tile is half of their time.
    """
    function, *arguments = work
    references = (TaskRef(one) if isinstance(one, str) and one in graph else one for one in arguments)
    return Task(key, _on_worker, function, *references, _data_producer=True)


def _resources(on_gpu: AbstractSet[str], key: str) -> dict[str, int]:
    """What a task takes of the resources of its worker."""
    return {GPU: 1} if key in on_gpu else {}


def _on_worker(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a task on a cluster: any worker may have started just now."""
    single_blas_thread()
    return function(*arguments)


def _failed(error: Exception) -> Failed:
    """Why a task of a cluster failed."""
    if not isinstance(error, distributed.KilledWorker):
        return Failed.by(error)
    # It may come from another process, which keeps the words alone.
    worker = getattr(error, "last_worker", None)
    address, limit = getattr(worker, "address", "?"), getattr(worker, "memory_limit", 0)
    memory = f", with {limit / 2**20:,.0f} MiB of memory" if limit else ""
    return Failed(
        ClusterError(
            f"the workers that ran {error.task!r} died, the last of them at {address}{memory}: most likely they had "
            f"too little. Use fewer workers with more memory each; what is finished is kept"
        ),
        f"killed {error.allowed_failures + 1} workers that ran it, the last of them at {address}{memory}: most likely "
        f"they had too little. Use fewer workers with more memory each",
        died=True,
    )


class _Watch:
    """Looks whether there is still a cluster to wait for, and whether the caller still wants to.

    Parameters
    ----------
    client : distributed.Client
    workers_within : float
    check : callable, optional
    gpu : bool
        Whether it is workers with a GPU that are waited for.
    """

    def __init__(
        self, client: distributed.Client, workers_within: float, check: Callable[[], None] | None, *, gpu: bool
    ) -> None:
        self._client, self._within, self._check, self._gpu = client, workers_within, check, gpu
        self._address = str(client.scheduler_info()["address"])
        self._looked = self._there = time.monotonic()

    def check(self) -> None:
        """Raise `ClusterError` where there is no scheduler, or there was no worker for too long."""
        if self._check is not None:
            self._check()
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self._client.status not in {"running", "connecting"}:
            self.lost()
        if with_gpus(self._client) if self._gpu else self._client.scheduler_info(n_workers=1)["workers"]:
            self._there = now
        elif now - self._there > self._within:
            kind = "worker with a GPU" if self._gpu else "worker"
            raise ClusterError(
                f"no {kind} is left at {self._address!r}, and none came within {self._within:g} seconds. Look at the "
                f"logs of the workers; what is finished is kept: start some, and do the same again"
            )

    def lost(self) -> None:
        """Raise `ClusterError` where the scheduler forgot what it was asked for: it went away."""
        raise ClusterError(
            f"the scheduler at {self._address!r} is gone, or has let go of this work. What is finished is kept: start "
            f"it again, and do the same again"
        )
