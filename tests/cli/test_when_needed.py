"""The cluster of a command: started when there is work, and kept while the command has more of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from dask_svcca.cli import _cluster
from dask_svcca.cli._cluster import WhenNeeded
from dask_svcca.plan.subspaces import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    class Noting:
        def __init__(self, client: Any, run: str, *, device: str) -> None:
            self._client = client

        def run(self, nodes: Any, perform: Any, on_done: Any) -> None:
            found.append((self._client, *nodes))
            if "fails" in nodes:
                raise RuntimeError("injected")

    monkeypatch.setattr(_cluster, "DaskExecutor", Noting)
    return found


def executor(events: list[Any]) -> WhenNeeded:
    @contextlib.contextmanager
    def connect() -> Iterator[Any]:
        events.append("started")
        try:
            yield "client"
        finally:
            events.append("ended")

    return WhenNeeded(Budget(1, 2**30), connect)


def run(one: WhenNeeded, *nodes: str) -> None:
    one.run(dict.fromkeys(nodes), print, print)  # type: ignore[arg-type]


def test_when_needed__one_cluster_serves_all_work_of_a_context(events: list[Any]) -> None:
    with executor(events) as one:
        run(one)
        assert events == []
        run(one, "a")
        run(one, "b")
        assert events == ["started", ("client", "a"), ("client", "b")]
    assert events[3:] == ["ended"]


def test_when_needed__without_a_context_each_lot_has_its_own(events: list[Any]) -> None:
    one = executor(events)
    for node in "ab":
        run(one, node)
    assert events == ["started", ("client", "a"), "ended", "started", ("client", "b"), "ended"]


def test_when_needed__ends_where_work_fails(events: list[Any]) -> None:
    with pytest.raises(RuntimeError, match="injected"), executor(events) as one:
        run(one, "fails")
    assert events == ["started", ("client", "fails"), "ended"]
