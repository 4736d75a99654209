"""Dask graphs, run on the scheduler of the user's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import dask
import dask.base
import dask.local
import dask.multiprocessing
import dask.threaded
import distributed
import threadpoolctl
from dask.callbacks import Callback

from dask_svcca import machine
from dask_svcca.errors import ClusterError
from dask_svcca.tasks import single_blas_thread

Graph: TypeAlias = Mapping[str, tuple[Any, ...]]
OnDone: TypeAlias = Callable[[str, Any], None]

RETRIES = 2


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


def run_graph(graph: Graph, keys: Sequence[str], on_done: OnDone, client: distributed.Client | None) -> None:
    """Run a graph, and hand over each wanted result as it comes.

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
    """
    if not keys:
        return
    if client is None:
        _run_local(graph, keys, on_done)
    else:
        _run_distributed(graph, keys, on_done, client)


def _run_local(graph: Graph, keys: Sequence[str], on_done: OnDone) -> None:
    scheduler = dask.base.get_scheduler()
    if scheduler is None or _owner(scheduler) is not None:
        scheduler = dask.threaded.get
    wanted = set(keys)

    def finished(key: str, result: Any, *_: Any) -> None:
        if key in wanted:
            on_done(key, result)

    with threadpoolctl.threadpool_limits(1), Callback(posttask=finished):
        scheduler(dict(graph), list(keys))


def _run_distributed(graph: Graph, keys: Sequence[str], on_done: OnDone, client: distributed.Client) -> None:
    # A worker may go meanwhile.
    client.run(single_blas_thread, on_error="ignore")
    # The graph of ten thousand representations is 15 MB, and Dask would warn of it.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
        futures = client.get(dict(graph), list(keys), sync=False, retries=RETRIES)
    pending = {future.key: future for future in futures}
    del futures
    try:
        for future, result in distributed.as_completed(list(pending.values()), loop=client.loop, with_results=True):
            # Released as they finish: held, a finished task of a worker that dies would run again.
            pending.pop(future.key, None)
            on_done(future.key, result)
            del future
    except BaseException as error:
        # Not client.cancel(): it takes the scheduler's side of this client down where a task in between, that nobody
        # asked for by name, depends on one that is cancelled.
        for future in pending.values():
            future.release()
        if isinstance(error, distributed.KilledWorker):
            raise ClusterError(
                f"the workers that ran {error.task!r} died, the last of them at {error.last_worker.address}: most "
                f"likely they had too little memory. Use fewer workers with more memory each; what is finished is kept"
            ) from error
        raise
