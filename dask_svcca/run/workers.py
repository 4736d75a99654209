"""Whether the workers of a cluster can run a plan, and on which device: looked at before anything is written."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import distributed.comm

from dask_svcca.connections import GPU
from dask_svcca.devices import open_device
from dask_svcca.devices.names import find_device, is_gpu, parse_device, why_no_gpu
from dask_svcca.errors import ClusterError, DeviceError, DeviceFailedError, MemoryLimitError
from dask_svcca.plan.process import process_bytes, said_of_process
from dask_svcca.run.seen import look
from dask_svcca.stores import _io
from dask_svcca.tasks.worker import clear_devices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

DEVICE_SHARE: Final = 0.8
"""Share of a device's memory that tasks may take: libraries keep workspace there, and others may be at work on it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The device on which a run computes.

    Attributes
    ----------
    device : str
        As `dask_svcca.devices.names.find_device` gives it.
    memory : int or None
        Bytes of it that a task may take; None where it has no memory of its own.
    fallback : str
        Why ``auto`` is the CPU; empty where it is not, or was not asked for.
    """

    device: str
    memory: int | None = None
    fallback: str = ""


def place_here(device: str, tasks: int) -> Placed:
    """The device of this process, shared by as many tasks at a time.

    Raises
    ------
    DeviceError
        Where it is not there.
    """
    own = _own(device)
    memory = None if own.memory is None else int(DEVICE_SHARE * own.memory) // tasks
    return Placed(own.device, memory, own.fallback)


def place_local(device: str, workers: int) -> Placed:
    """The device of workers that are still to be started on this machine, each with a GPU of its own.

    A process that ends when it has looked asks the GPUs: as long as this one lives, it would hold memory of theirs, and
    in exclusive mode be the one that may use them.

    Raises
    ------
    DeviceError
        Where it is not there.
    """
    found = find_device(device)
    if not is_gpu(found):
        return place_here(device, 1)
    names = [found] if ":" in found else [f"{found}:{number}" for number in range(workers)]
    return place_each(device, found, asked_apart(names))


def place_each(device: str, found: str, answers: Sequence[Own | str]) -> Placed:
    """The device of workers of which each has another: all have what the least of them has.

    Parameters
    ----------
    device, found : str
        As it was asked for, and what that is here.
    answers : sequence of Own or str
        What is there of each, or why it cannot be used: then ``auto`` is the CPU.

    Raises
    ------
    DeviceError
        Where one cannot be used.
    """
    refused = next((answer for answer in answers if isinstance(answer, str)), "")
    if refused and device == "auto":
        return Placed("cpu", None, refused)
    if refused:
        raise DeviceError(refused)
    memory = [answer.memory for answer in answers if isinstance(answer, Own) and answer.memory is not None]
    return Placed(found, int(DEVICE_SHARE * min(memory)) if memory else None)


def asked_apart(devices: Sequence[str]) -> list[Own | str]:
    """What a process that is started for it finds of some devices of this machine, or why they cannot be used."""
    # Started anew and not forked: a fork of a process that has looked for GPUs cannot use them.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return list(process.map(_own_device, devices))
        except BrokenProcessPool:
            return [f"the process that was to look for {device!r} ended" for device in devices]


def place_on(client: distributed.Client, device: str) -> Placed:
    """The device of the workers that will run the tasks, as they say it.

    Where workers have the resource ``GPU``, these are asked, and no others need one. ``auto`` is a GPU where all that
    are asked have one.

    Parameters
    ----------
    client : distributed.Client
    device : str

    Raises
    ------
    DeviceError
        Where one of them does not have it.
    MemoryLimitError
        Where one has less memory than its process holds with that device: it would be ended when it is asked.
    ClusterError
        Where they cannot be asked.
    """
    wanted = parse_device(device)
    if wanted == "cpu":
        return Placed(wanted)
    workers = workers_of(client)
    asked = with_gpus(client) or list(workers)
    _check_memory({address: workers[address]["memory_limit"] for address in asked}, wanted)
    found: dict[str, Own] = {}
    for address, answer in _ask(client, _own_device, wanted, workers=asked):
        if isinstance(answer, str):
            raise DeviceError(f"the worker {address} cannot compute with device={device!r}: {answer}")
        found[address] = answer
    fallback = ""
    if wanted == "auto":
        fallback = next((f"the worker {address}: {own.fallback}" for address, own in found.items() if own.fallback), "")
        wanted = "cuda" if found and all(is_gpu(own.device) for own in found.values()) else "cpu"
    # Workers of one machine may share a GPU.
    sharing = Counter[tuple[str, str]]()
    for address, own in found.items():
        resources = workers[address].get("resources", {})
        sharing[workers[address]["host"], own.place] += int(resources.get(GPU, workers[address]["nthreads"]))
    memory = [
        int(DEVICE_SHARE * own.memory) // max(1, sharing[workers[address]["host"], own.place])
        for address, own in found.items()
        if own.memory is not None and wanted != "cpu"
    ]
    return Placed(wanted, min(memory, default=None), fallback)


def _check_memory(limits: Mapping[str, int | None], device: str) -> None:
    if device == "auto":
        return
    for address, limit in limits.items():
        if limit and limit < process_bytes(device):
            otherwise = ", or device='cpu'" if limit > process_bytes("cpu") else ""
            raise MemoryLimitError(
                f"the worker {address} has {limit // 2**20:,} MiB of memory, and with device={device!r} its process "
                f"holds {said_of_process(device)}, beside its tasks. Use fewer workers with more memory each{otherwise}"
            )


def workers_of(client: distributed.Client) -> dict[str, Any]:
    """What the scheduler says of each worker, by address.

    Every two seconds a client asks for all but the workers. Where that answer comes between ours and its being read,
    there seem to be none: then it is asked once more.
    """
    for _ in range(2):
        found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
        if found:
            break
    return found


def with_gpus(client: distributed.Client) -> list[str]:
    """Addresses of the workers that say that they have a GPU."""
    return [address for address, worker in workers_of(client).items() if worker.get("resources", {}).get(GPU)]


@dataclass(frozen=True, slots=True)
class Own:
    """The device of a worker: its name, its memory, which of those of its machine it is, and why it is not a GPU."""

    device: str
    memory: int | None
    place: str
    fallback: str


def _own_device(device: str) -> Own | str:
    """The device of this worker, or a sentence that says why it has none."""
    try:
        return _own(device)
    except DeviceError as error:
        return str(error)


def _own(device: str) -> Own:
    """The device of this process.

    Raises
    ------
    DeviceError
        Where it has none, or nothing can be done with it.
    """
    found = find_device(device)
    fallback = why_no_gpu() if device == "auto" and found == "cpu" else ""
    ordinal = int(found.partition(":")[2] or 0) if is_gpu(found) else 0
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    place = visible[ordinal] if ordinal < len(visible) else str(ordinal)
    try:
        return Own(found, _memory(found), place, fallback)
    except DeviceFailedError as error:
        # Other programs hold all of its memory, or it is broken.
        if device == "auto":
            return Own("cpu", None, place, str(error))
        raise DeviceError(
            f"device={device!r} is there, and cannot be used: {error}. nvidia-smi lists the programs that hold its "
            f"memory; wait for them, use another GPU, or device='cpu'"
        ) from error


def _memory(device: str) -> int | None:
    """Bytes that are free on a device of this process; None where it has no memory of its own."""
    if device == "cpu":
        return None
    clear_devices()
    return open_device(device).memory()


def _ask(
    client: distributed.Client, question: Callable[..., Any], *arguments: Any, workers: Sequence[str] | None = None
) -> Iterable[tuple[str, Any]]:
    """What workers answer, by address, but those that have gone meanwhile.

    Raises
    ------
    ClusterError
        Where one cannot.
    """
    try:
        answers = client.run(question, *arguments, workers=workers, on_error="return")
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"the scheduler did not answer when its workers were asked what they see ({type(error).__name__}: "
            f"{error}). Is it still running?"
        ) from None
    for address, answer in answers.items():
        if isinstance(answer, ModuleNotFoundError):
            raise ClusterError(
                f"the worker {address} cannot import what it needs ({answer}). Install dask-svcca "
                f"{version('dask-svcca')} where the workers run"
            )
        if isinstance(answer, distributed.comm.CommClosedError):
            continue
        if isinstance(answer, BaseException):
            raise ClusterError(f"the worker {address} cannot be asked what it sees ({type(answer).__name__}: {answer})")
        yield address, answer


def check_workers(client: distributed.Client, places: Sequence[str]) -> None:
    """Look whether all workers have this version of the package, and see the stores; not what device they have.

    Parameters
    ----------
    client : distributed.Client
    places : sequence of str
        Stores that are there; those that are not are still to be made.

    Raises
    ------
    ClusterError
        Where one of them does not.
    """
    mine = version("dask-svcca")
    there = [place for place in places if _io.is_group(place)]
    for address, (theirs, unseen) in _ask(client, look, there):
        if theirs != mine:
            raise ClusterError(
                f"the worker {address} has dask-svcca {theirs}, and this is {mine}: they may write other formats. "
                f"Install the same version everywhere"
            )
        if unseen:
            raise ClusterError(
                f"the worker {address} does not see {unseen[0]!r}, which is there on this machine. Put the "
                f"stores where all workers reach them by the same path, such as a shared file system or object storage"
            )
