"""The options of all commands that compute, and the cluster they ask for."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from dask_svcca import cluster
from dask_svcca.cli._console import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_svcca.cluster import Client


_OPTIONS = (
    click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes [default: one per core]."
    ),
    click.option(
        "--worker-memory", "memory", metavar="SIZE", help="Memory of each worker, such as 4GiB [default: a fair share]."
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster, such as tcp://10.0.0.1:8786."),
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where its work runs."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


@contextlib.contextmanager
def connected(workers: int | None, memory: str | None, scheduler: str | None) -> Iterator[Client]:
    """A client of the cluster that these options ask for."""
    if scheduler is not None and (workers is not None or memory is not None):
        raise click.UsageError(
            "--scheduler names a cluster with workers and memory of its own; leave out --workers and --worker-memory."
        )
    if scheduler is None:
        doing = f"Starting {counted(cluster.local_resources(workers, memory).workers, 'worker')} on this machine"
    else:
        doing = f"Connecting to {scheduler}"
    console = Console(stderr=True, highlight=False)
    with contextlib.ExitStack() as stack:
        with console.status(doing) if console.is_terminal else contextlib.nullcontext():
            client = stack.enter_context(cluster.connect(scheduler, workers=workers, memory=memory))
        yield client
