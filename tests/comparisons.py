"""What a comparison hands to Dask, and what its tasks take of memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import dask

from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_svcca import Zoo


def graph_of(zoo: Zoo, place: Any, **options: Any) -> dict[str, Any]:
    """What a comparison hands to Dask, with everything made ready for it and nothing computed.

    By key (function, task, *keys of the tasks that it needs); ``options`` are those of `Parameters`.
    """
    graphs = []
    with dask.config.set(scheduler=lambda graph, keys, **_: graphs.append(graph)):
        run_comparison(zoo, place, Parameters(**options))
    # What tries a task again stands before it.
    return {key: work[1:] for key, work in graphs[0].items()}


def tasks_of(graph: dict[str, Any], kind: str) -> list[tuple[Any, ...]]:
    """Tasks whose key begins so, (function, task, *arguments): of a tile, where the subspaces of its groups are.

    A tile is not given what others have summed for it.
    """

    def given(part: Any) -> Any:
        return graph[part][1].places if isinstance(part, str) and part in graph else part

    return [
        tuple(given(part) for part in task if not (isinstance(part, str) and part.startswith("share")))
        for key, task in graph.items()
        if key.startswith(kind)
    ]


def peak_memory(task: Sequence[Any]) -> tuple[Any, int]:
    """Result of a task, (function, *arguments), and the most bytes it held at a time."""
    function, *arguments = task
    tracemalloc.start()
    try:
        return function(*arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
