"""The options of all commands that compute, and the cluster they ask for."""

from __future__ import annotations

import contextlib
import functools
import uuid
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console

from dask_svcca import connections
from dask_svcca.cli._console import counted
from dask_svcca.plan.subspaces import Budget
from dask_svcca.run.executors import USABLE_SHARE, DaskExecutor
from dask_svcca.run.workers import Placed, place_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from dask_svcca.connections import Client
    from dask_svcca.plan.tasks import Node


_OPTIONS = (
    click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes [default: one per core, or GPU]."
    ),
    click.option(
        "--worker-memory", "memory", metavar="SIZE", help="Memory of each worker, such as 4GiB [default: a fair share]."
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster, such as tcp://10.0.0.1:8786."),
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where its work runs."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


class WhenNeeded:
    """Runs tasks on a cluster that is there only while there are some: nothing to do takes no worker.

    Parameters
    ----------
    budget : Budget
        What the cluster will have.
    connect : callable
        Gives a context with its client.

    Attributes
    ----------
    budget : Budget
    """

    def __init__(self, budget: Budget, connect: Callable[[], contextlib.AbstractContextManager[Client]]) -> None:
        self.budget = budget
        self._connect = connect
        self._client: Client | None = None
        self._stack: contextlib.ExitStack | None = None

    def __enter__(self) -> Self:
        """Keep the cluster from the first tasks up to the end of the context, not for each lot of them."""
        self._stack = contextlib.ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stack is not None:
            stack, self._stack, self._client = self._stack, None, None
            stack.__exit__(kind, error, traceback)

    def run(self, nodes: Mapping[str, Node], perform: Callable[..., Any], on_done: Callable[[str, Any], None]) -> None:
        """Run all tasks."""
        if not nodes:
            return
        with contextlib.ExitStack() as alone:
            client = self._client or (self._stack or alone).enter_context(self._connect())
            if self._stack is not None:
                self._client = client
            # Its workers were asked for the budget.
            placed = Placed(self.budget.device, self.budget.device_memory)
            DaskExecutor(client, uuid.uuid4().hex[:12], device=placed).run(nodes, perform, on_done)


@contextlib.contextmanager
def connected(
    workers: int | None, memory: str | None, scheduler: str | None, device: str = "cpu", *, announced: bool = True
) -> Iterator[Client]:
    """A client of the cluster that these options ask for.

    Parameters
    ----------
    workers, memory, scheduler, device
        The options.
    announced : bool
        Whether to show that it starts: not where progress is shown already.
    """
    if scheduler is not None and (workers is not None or memory is not None):
        raise click.UsageError(
            "--scheduler names a cluster with workers and memory of its own; leave out --workers and --worker-memory."
        )
    if scheduler is None:
        count = connections.local_resources(workers, memory, device).workers
        doing = f"Starting {counted(count, 'worker')} on this machine"
    else:
        doing = f"Connecting to {scheduler}"
    console = Console(stderr=True, highlight=False)
    with contextlib.ExitStack() as stack:
        with console.status(doing) if announced and console.is_terminal else contextlib.nullcontext():
            client = stack.enter_context(
                connections.connect(scheduler, workers=workers, memory=memory, device="cpu" if scheduler else device)
            )
        yield client


def budget_of(workers: int | None, memory: str | None, scheduler: str | None, device: str = "cpu") -> Budget:
    """Budget of the cluster that would be used; a local cluster is not started for this."""
    if scheduler is None:
        local = connections.local_resources(workers, memory, device)
        placed = place_local(device, local.workers)
        usable = int(USABLE_SHARE * local.memory)
        return Budget(local.workers, usable, placed.device, placed.memory, fallback=placed.fallback)
    with connected(workers, memory, scheduler) as client:
        return DaskExecutor(client, "", device=device).budget
