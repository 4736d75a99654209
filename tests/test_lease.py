"""Leases: one at a time, given back, lost by those who end, on every kind of store."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import zarr
from obstore.store import MemoryStore as ObjectsInMemory
from zarr.storage import MemoryStore, ObjectStore

from dask_svcca import machine
from dask_svcca.errors import StoreAccessError, StoreInUseError
from dask_svcca.stores import _exclusive, lease
from dask_svcca.stores.backend import LocalBackend, backend_of
from dask_svcca.stores.lease import Holder, Lease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_svcca.stores.backend import Backend


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)


@pytest.fixture(params=["local", "memory", "objects"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    places: dict[str, Any] = {
        "local": tmp_path / "store",
        "memory": MemoryStore(),
        "objects": ObjectStore(ObjectsInMemory()),
    }
    return backend_of(zarr.create_group(places[request.param], zarr_format=3))


@pytest.fixture
def others(backend: Backend) -> Iterator[Lease]:
    other = Lease(backend, "a/lease", "the store", "Wait for it")
    yield other
    other.release()


def a_lease(backend: Backend) -> Lease:
    return Lease(backend, "a/lease", "the store", "Wait for it")


def leave(backend: Backend, **changes: Any) -> Holder:
    """What a run on another machine left."""
    holder = replace(Holder.this(), **{"machine": "elsewhere", "host": "node7", "process": 12, **changes})
    backend.write("a/lease-4", json.dumps(asdict(holder)).encode())
    return holder


def left(backend: Backend) -> list[str]:
    return [name for name in backend.children("a") if "lease" in name]


def test_lease__is_had_by_one_and_gone_when_given_back(backend: Backend, others: Lease) -> None:
    others.take()
    mine = a_lease(backend)
    with pytest.raises(StoreInUseError) as caught:
        mine.take()
    said = str(caught.value)
    assert said.startswith(f"the store is in use by process {os.getpid()} of ")
    assert ", at work since 20" in said
    assert said.endswith("UTC unless it is renewed. Wait for it")
    others.release()
    assert left(backend) == []
    assert mine.take() is False
    mine.release()
    mine.release()
    assert left(backend) == []


def test_lease__is_waited_for(backend: Backend, others: Lease) -> None:
    others.take()
    told: list[str] = []

    def hear(sentence: str) -> None:
        told.append(sentence)
        others.release()

    mine = a_lease(backend)
    assert mine.take(wait=True, told=hear) is False
    mine.release()
    assert len(told) == 1
    assert told[0].startswith("Waiting for the store, which is in use by process")


def test_lease__is_not_waited_for_any_more(backend: Backend, others: Lease) -> None:
    class Asked(Exception):
        pass

    def check() -> None:
        raise Asked

    others.take()
    with pytest.raises(Asked):
        a_lease(backend).take(wait=True, check=check)


def test_lease__of_a_process_that_is_gone_is_taken_over_at_once(backend: Backend) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = machine.process_start(process.pid)
        leave(backend, machine=machine.host(), process=process.pid, started=started)
        with pytest.raises(StoreInUseError, match=f"process {process.pid} of"):
            a_lease(backend).take()
        process.send_signal(signal.SIGKILL)
        process.wait()
        mine = a_lease(backend)
        assert mine.take() is True
    assert left(backend) == ["lease-5"]
    mine.release()


def test_lease__of_a_process_whose_number_another_has_is_taken_over(backend: Backend) -> None:
    leave(backend, machine=machine.host(), process=os.getppid(), started="1")
    mine = a_lease(backend)
    assert mine.take() is True
    mine.release()


def test_lease__of_this_process_that_nobody_holds_any_more_is_taken_over(backend: Backend) -> None:
    leave(backend, machine=machine.host(), process=os.getpid())
    mine = a_lease(backend)
    assert mine.take() is True
    mine.release()


def test_lease__taken_over_where_the_store_then_fails_is_had_by_nobody(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(backend, machine=lease._this_machine(), process=os.getpid())
    with monkeypatch.context() as failing:
        failing.setattr(type(backend), "remove", Mock(side_effect=StoreAccessError("it stopped answering")))
        with pytest.raises(StoreAccessError, match="stopped"):
            a_lease(backend).take()
    mine = a_lease(backend)
    assert mine.take()
    mine.release()
    assert left(backend) == []


def test_lease__of_another_machine_ends_by_the_clock_of_the_store(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(backend)
    with pytest.raises(StoreInUseError, match="on 'node7'"):
        a_lease(backend).take()
    monkeypatch.setattr(type(backend), "age", lambda *_: 61.0)
    mine = a_lease(backend)
    assert mine.take() is True
    mine.release()


def test_lease__of_another_machine_ends_when_it_is_not_renewed_where_the_store_has_no_clock(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend), "age", lambda *_: None)
    holder = leave(backend, seconds=0.2)
    renewed = []

    def renew(_: str) -> None:
        renewed.append(1)
        backend.write("a/lease-4", json.dumps(asdict(replace(holder, renewed=7))).encode())

    mine = a_lease(backend)
    assert mine.take(wait=True, told=renew) is True
    assert renewed
    mine.release()


def test_lease__for_the_patient_waits_for_a_sign_of_another_machine(backend: Backend) -> None:
    holder = leave(backend)

    def renew(_: str) -> None:
        backend.write("a/lease-4", json.dumps(asdict(replace(holder, renewed=7))).encode())

    with pytest.raises(StoreInUseError, match="on 'node7'"):
        a_lease(backend).take(patient=True, told=renew)


def test_lease__that_is_cut_short_ends_by_its_age(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.write("a/lease-4", b"{")
    with pytest.raises(StoreInUseError, match="the store is in use by another run"):
        a_lease(backend).take()
    monkeypatch.setattr(type(backend), "age", lambda *_: 61.0)
    mine = a_lease(backend)
    assert mine.take() is True
    mine.release()


def test_lease__is_renewed_and_lost_to_one_who_took_it_over(backend: Backend) -> None:
    mine = a_lease(backend)
    mine.take()
    before = backend.read("a/lease-1")
    mine.renew()
    mine.check()
    assert json.loads(backend.read("a/lease-1"))["renewed"] == json.loads(before)["renewed"] + 1
    backend.write("a/lease-2", backend.read("a/lease-1"))
    mine.renew()
    with pytest.raises(StoreInUseError, match=r"another run has taken over the store.* run it again"):
        mine.check()
    mine.release()
    assert left(backend) == ["lease-1", "lease-2"]


def test_lease__of_a_store_that_was_deleted_does_not_bring_it_back(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path / "store"))
    mine = a_lease(backend)
    mine.take()
    backend.remove("a")
    mine.renew()
    with pytest.raises(StoreInUseError):
        mine.check()
    mine.release()
    assert not (tmp_path / "store" / "a").exists()


def test_lease__serves_the_thread_that_took_it(backend: Backend) -> None:
    taken: list[Lease] = []

    def work() -> None:
        taken.append(a_lease(backend))
        taken[0].take()
        assert taken[0].is_wanted()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not taken[0].is_wanted()
    taken[0].release()


def test_lease__is_not_had_by_a_fork(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path))
    mine = a_lease(backend)
    mine.take()
    process = multiprocessing.get_context("fork").Process(target=mine.release)
    process.start()
    process.join()
    assert left(backend) == ["lease-1"]
    mine.release()


def test_lease__is_taken_where_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(_exclusive.os, "link", refuse)
    backend = LocalBackend(str(tmp_path))
    mine = a_lease(backend)
    mine.take()
    with pytest.raises(StoreInUseError):
        a_lease(backend).take()
    mine.release()
    assert list((tmp_path / "a").iterdir()) == []


def hold(folder: str, log: str, times: int) -> None:
    """Take a lease some times, and say when; each time by a lease that was left."""
    backend = LocalBackend(folder)
    for _ in range(times):
        mine = a_lease(backend)
        mine.take(wait=True)
        with Path(log).open("a") as file:
            file.write("in\n")
            file.flush()
            file.write("out\n")
        mine.release()


def test_lease__of_four_processes_is_had_by_one_at_a_time(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path / "store"))
    leave(backend, machine=machine.host(), process=os.getppid(), started="1")
    context = multiprocessing.get_context("fork")
    arguments = (str(tmp_path / "store"), str(tmp_path / "log"), 8)
    processes = [context.Process(target=hold, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "in\nout\n" * 32
    assert left(backend) == []


def test_age__is_what_the_store_says(backend: Backend, tmp_path: Path) -> None:
    backend.write("a/file", b"1")
    age = backend.age("a/file")
    assert age is None or 0 <= age < 60
    if isinstance(backend, LocalBackend):
        os.utime(tmp_path / "store" / "a" / "file", (1e9, 1e9))
        assert (backend.age("a/file") or 0) > 1e8
        with pytest.raises(FileNotFoundError):
            backend.age("a/none")
