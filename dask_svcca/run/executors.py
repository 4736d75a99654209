"""What runs the tasks of a plan: the last choice, without effect on the results."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from dask_svcca import machine
from dask_svcca.devices.names import is_gpu
from dask_svcca.errors import ClusterError
from dask_svcca.plan.process import process_bytes
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.graphs import check_local, current_client, local_workers, run_graph
from dask_svcca.run.workers import Placed, place_here, place_on, with_gpus, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import distributed

    from dask_svcca.plan.tasks import Node

USABLE_SHARE = 0.75
"""Share of a worker's memory limit that tasks may take; Dask pauses a worker at 80 %."""

LOCAL_SHARE = 0.6
"""Share of this machine's free memory that tasks may take, where they run in threads of this process."""


class Executor(Protocol):
    """Runs tasks, each when those that it needs are done."""

    @property
    def budget(self) -> Budget:
        """How many tasks it runs at a time, and how much memory each of its processes has."""

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        """Run all tasks.

        Parameters
        ----------
        nodes : mapping of str to Node
        perform : callable
            Given a task and the results of those that it needs, returns its result. Goes to other processes.
        on_done : callable
            Called with key and result of each node that reports, in this process; with a `Failed` where it failed
            for good, or one that it needs.
        """


class DaskExecutor:
    """Runs tasks on a Dask cluster, or on Dask's local scheduler.

    Parameters
    ----------
    client : distributed.Client, optional
        Default: the current client, else the local scheduler, as for any Dask collection.
    run : str
        Suffix that tells the tasks of this run from all others on the cluster.
    in_memory : bool
        Whether stores are in the memory of this process: the work then runs on Dask's local scheduler, also where there
        is a current client.
    check : callable, optional
        Called several times a second while a cluster is waited for; ends the run where it raises.
    device : str or Placed
        See `dask_svcca.compare`; or what was found when the workers were asked before.

    Raises
    ------
    ClusterError
        Where stores are in memory, and a client is given.
    """

    def __init__(
        self,
        client: distributed.Client | None,
        run: str,
        *,
        in_memory: bool = False,
        check: Callable[[], None] | None = None,
        device: str | Placed = "cpu",
    ) -> None:
        self._run, self._runs, self._check, self._device = run, itertools.count(), check, device
        if in_memory:
            check_local(client)
        self._client = None if in_memory else current_client(client)

    @property
    def budget(self) -> Budget:
        """How many tasks it runs at a time, and how much memory each of its processes has, and the device.

        Raises
        ------
        DeviceError
            Where the device is not there.
        """
        placed = self._placed
        if self._client is None:
            threads = local_workers()
            share = int(machine.available_memory() * LOCAL_SHARE / threads)
            return Budget(
                threads, share + process_bytes(placed.device), placed.device, placed.memory, fallback=placed.fallback
            )
        workers = workers_of(self._client).values()
        if not workers:
            raise ClusterError("the cluster has no workers; wait for some with client.wait_for_workers(1)")
        limits = [worker["memory_limit"] / worker["nthreads"] for worker in workers if worker["memory_limit"]]
        memory = USABLE_SHARE * min(limits) if limits else machine.available_memory() * LOCAL_SHARE / len(workers)
        threads = sum(worker["nthreads"] for worker in workers)
        return Budget(threads, int(memory), placed.device, placed.memory, fallback=placed.fallback)

    @cached_property
    def _placed(self) -> Placed:
        if isinstance(self._device, Placed):
            return self._device
        if self._client is None:
            return place_here(self._device, local_workers())
        return place_on(self._client, self._device)

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        """Run all tasks."""
        # A task that has failed under a name is not run again under it.
        run = f"{self._run}-{next(self._runs)}"
        names = {key: f"{key}-{run}" for key in nodes}
        keys = {name: key for key, name in names.items()}
        graph = {
            names[key]: (perform, node.task, *(names[needed] for needed in node.needs)) for key, node in nodes.items()
        }
        reporting = [names[key] for key, node in nodes.items() if node.reports]

        def done(name: str, result: Any) -> None:
            on_done(keys[name], result)

        on_gpu = frozenset[str]()
        if self._client is not None and is_gpu(self._placed.device) and with_gpus(self._client):
            on_gpu = frozenset(names[key] for key, node in nodes.items() if node.on_device)
        run_graph(graph, reporting, done, self._client, on_failed=done, check=self._check, on_gpu=on_gpu)


class Here:
    """Runs tasks one by one in this thread, in place of a cluster with some budget.

    Attributes
    ----------
    budget : Budget
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        """Run all tasks."""
        results: dict[str, Any] = {}
        with machine.one_blas_thread():
            for key, node in nodes.items():
                results[key] = perform(node.task, *(results[needed] for needed in node.needs))
                if node.reports:
                    on_done(key, results[key])
