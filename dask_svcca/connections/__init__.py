"""Dask clusters: processes on this machine for as long as they are needed, one that runs already, or one of a class."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import inspect
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import dask.config
import distributed
import distributed.comm
import distributed.utils
from distributed.diagnostics.plugin import SchedulerPlugin

from dask_svcca.connections.local import (
    ENVIRONMENT,
    GPU,
    PRIVATE,
    Resources,
    local_resources,
    parse_memory,
    start_local,
    visible_gpus,
)
from dask_svcca.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "ENVIRONMENT",
    "GPU",
    "SETTINGS",
    "Client",
    "KeepBusyWorkers",
    "Resources",
    "connect",
    "local_resources",
    "parse_memory",
    "start_cluster",
    "visible_gpus",
    "wait_for_worker",
]

Client: TypeAlias = distributed.Client
"""A client of a Dask cluster, for modules that may not import ``distributed``."""

CONNECT_SECONDS: Final = 10

_NOT_STARTED: Final = re.compile("failed to start|start timed out")

SETTINGS: Final = {
    # A worker that is cut off is given up, and its tasks go to others; by default after five minutes, where no
    # connection breaks. Much less, and a worker on a machine that is merely busy would be given up.
    "distributed.scheduler.worker-ttl": "60 s",
    "distributed.comm.timeouts.tcp": "20 s",
    # So often a task may take its worker down: then it is to blame.
    "distributed.scheduler.allowed-failures": 3,
}
"""Settings of Dask for clusters of a class, of other machines; those that the user has set stay."""


@contextlib.contextmanager
def connect(
    address: str | None = None,
    *,
    workers: int | None = None,
    memory: str | int | None = None,
    device: str = "cpu",
    tls: tuple[str, str, str] | None = None,
) -> Iterator[distributed.Client]:
    """Connect to a running scheduler, or start a local cluster, for as long as the context lasts.

    A local cluster cannot be reached from another machine and has no dashboard. It is gone when the context ends, also
    after an error.

    Parameters
    ----------
    address : str, optional
        Address of a running scheduler, such as ``tcp://10.0.0.1:8786``. Its workers keep their own settings.
    workers, memory : optional
        Size of a local cluster: by default a worker for each core, or each GPU, and all memory shared between them.
    device : str
        What the workers of a local cluster compute with, as for `dask_svcca.compare`. With ``cuda`` each worker process
        has a GPU of its own.
    tls : (str, str, str), optional
        Files with the certificate of the authority, that of the client, and its key, for a scheduler that asks for
        them: its address begins with ``tls://``. By default what Dask's configuration says.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ClusterError
        Where no scheduler answers, or the local cluster cannot be as large as asked or does not start.
    DeviceError
        Where the device is not there.

    Examples
    --------
    >>> with connect(workers=2, memory="1GiB") as client:  # doctest: +SKIP
    ...     dask_svcca.compare(zoo, "comparison.zarr", client=client)
    """
    if address is None:
        with start_local(local_resources(workers, memory, device)) as client:
            yield client
        return
    if workers is not None or memory is not None or device != "cpu":
        raise ClusterError(
            f"the scheduler {address!r} has its own workers and memory; workers={workers!r}, memory={memory!r} and "
            f"device={device!r} are for a local cluster. Leave out either the scheduler, or these"
        )
    try:
        _check_address(address)
        client = distributed.Client(
            address, timeout=CONNECT_SECONDS, set_as_default=False, security=None if tls is None else _security(*tls)
        )
    except (ImportError, OSError, RuntimeError, TimeoutError, TypeError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address!r} ({type(error).__name__}: {error}). Is it running, and is this "
            f"its address? 'dask scheduler' prints it as it starts"
        ) from None
    try:
        with _failures_in_sentences():
            yield client
    finally:
        # Where the scheduler has gone, the client would log how it tried to reach it, with a traceback.
        with distributed.utils.silence_logging_cmgr(logging.CRITICAL):
            client.close()


def _security(authority: str, certificate: str, key: str) -> distributed.Security:
    for path in (authority, certificate, key):
        with open(path, "rb"):  # noqa: PTH123 - it is there, and may be read
            pass
    return distributed.Security(
        tls_ca_file=authority, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
    )


class KeepBusyWorkers(SchedulerPlugin):  # type: ignore[misc]
    """On a scheduler: a cluster that shrinks gives up only workers that have nothing in hand, and never the last one.

    Before the first task, and between two plans, none has anything in hand.
    """

    name = "dask-svcca-keep-busy-workers"
    idempotent = True

    def valid_workers_downscaling(self, scheduler: Any, workers: list[Any]) -> list[Any]:
        """Workers that may be given up."""
        idle = [worker for worker in workers if not worker.processing]
        return idle[1:] if len(idle) == len(scheduler.workers) else idle


@contextlib.contextmanager
def start_cluster(
    name: str,
    options: Mapping[str, Any],
    *,
    allowed: Iterable[str],
    scale: int | None = None,
    adapt: tuple[int, int] | None = None,
) -> Iterator[distributed.Client]:
    """Start a cluster of a class, for as long as the context lasts.

    Parameters
    ----------
    name : str
        Module and class, such as ``dask_jobqueue.SLURMCluster``.
    options : mapping
        Keywords of the class. Where they do not say where dashboards listen, these cannot be reached from other
        machines.
    allowed : iterable of str
        Beginnings of names that may be imported and called: a class does whatever it likes.
    scale : int, optional
        Number of workers.
    adapt : (int, int), optional
        Least and most workers; those that have work in hand are never given up.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ClusterError
        Where the class is not allowed, does not exist or does not start.
    """
    found = _find_class(name, allowed)
    try:
        with dask.config.set(_settings()):
            cluster = found(**_with_private_dashboards(found, options))
    except Exception as error:
        raise ClusterError(
            f"the cluster {name} did not start with options {sorted(options)} ({type(error).__name__}: {error})"
        ) from error
    with _failures_in_sentences(), cluster:
        try:
            client = cluster.get_client() if hasattr(cluster, "get_client") else distributed.Client(cluster)
            with client:
                if adapt is not None:
                    client.register_plugin(KeepBusyWorkers())
                    cluster.adapt(minimum=adapt[0], maximum=adapt[1])
                else:
                    cluster.scale(scale)
                yield client
        finally:
            # Lost connections are expected now.
            logging.getLogger("distributed").setLevel(logging.CRITICAL)


def _find_class(name: str, allowed: Iterable[str]) -> Callable[..., Any]:
    prefixes = tuple(allowed)
    if not any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes):
        allowing = name.partition(".")[0]
        raise ClusterError(
            f"the class {name!r} is not allowed: a class of clusters can run any command on this machine. If you "
            f"trust who wrote the job file, allow it with --allow-class {allowing}"
        )
    module, _, attribute = name.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ClusterError(
            f"the class {name!r} cannot be imported ({error}). Is its package installed here? "
            f"pip install {module.partition('.')[0].replace('_', '-')}"
        ) from None
    except AttributeError:
        raise ClusterError(f"there is no {attribute!r} in {module!r}") from None
    is_cluster = isinstance(found, type) and hasattr(found, "scale") and hasattr(found, "adapt")
    # This one is a function.
    if found is not distributed.SSHCluster and not is_cluster:
        raise ClusterError(f"{name!r} is not a class of Dask clusters, such as dask_jobqueue.SLURMCluster")
    return found


def _with_private_dashboards(found: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a class of clusters, with dashboards on this machine's loopback where they do not say otherwise.

    Classes name it differently; of those that know none of these names, such as Kubernetes', the class decides.
    """
    known = inspect.signature(found).parameters
    given = dict(options)
    # Of dask-jobqueue, whose configuration may say it too.
    section = getattr(getattr(found, "job_cls", None), "config_name", "")
    if "scheduler_options" in known:
        usual = dask.config.get(f"jobqueue.{section}.scheduler-options", None) or {}
        given["scheduler_options"] = {"dashboard_address": PRIVATE, **usual, **(given.get("scheduler_options") or {})}
    elif "dashboard_address" in known:
        given.setdefault("dashboard_address", PRIVATE)
    if section:
        usual = dask.config.get(f"jobqueue.{section}.worker-extra-args", None)
        words = list(given.get("worker_extra_args") or usual or [])
        asked = any("dashboard" in word for word in words)
        given["worker_extra_args"] = words if asked else [*words, "--dashboard-address", PRIVATE]
    return given


@contextlib.contextmanager
def _failures_in_sentences() -> Iterator[None]:
    """Have no traceback logged where a worker dies as it starts, and the others go on, or where a scheduler is lost.

    That the scheduler is lost is said by what waits for it.
    """

    def shorten(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, distributed.comm.CommClosedError):
            return False
        if error is not None and _NOT_STARTED.search(str(error)):
            record.msg, record.args = "A worker of the cluster did not start (%s). The others go on", (error,)
            record.exc_info = record.exc_text = None
        return True

    # The second says at times what was on its way to the scheduler when that was lost.
    loggers = [logging.getLogger(name) for name in ("tornado.application", "distributed.batched")]
    for logger in loggers:
        logger.addFilter(shorten)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(shorten)


def wait_for_worker(
    client: distributed.Client, seconds: float, told: Callable[[str], None] | None, check: Callable[[], None]
) -> None:
    """Wait for the first worker.

    Parameters
    ----------
    client : distributed.Client
    seconds : float
    told : callable, optional
        Called with a sentence, where there is something to wait for.
    check : callable
        Called now and then; ends the waiting where it raises.

    Raises
    ------
    ClusterError
        Where there is none in time, or the scheduler goes away meanwhile.
    """
    if client.scheduler_info(n_workers=-1)["workers"]:
        return
    if told is not None:
        told(f"Waiting up to {seconds:g} seconds for the first worker")
    # A cluster that adapts starts workers only where there is work.
    work = client.submit(int, pure=False)
    end = time.monotonic() + seconds
    while True:
        check()
        left = end - time.monotonic()
        if left <= 0:
            work.release()
            raise ClusterError(
                f"no worker was there within {seconds:g} seconds. Look at the queue and the logs of the workers; "
                f"workers_within in the job file gives them longer"
            )
        try:
            work.result(timeout=min(1.0, left))
        except TimeoutError:
            continue
        except concurrent.futures.CancelledError:
            raise ClusterError(
                f"the scheduler at {client.scheduler_info()['address']!r} went away before a worker was there. Start "
                f"it again, and do the same again"
            ) from None
        return


def _check_address(address: str) -> None:
    """Refuse what cannot be connected to; a client that fails on it is never closed, and prints a traceback later."""
    scheme, place = distributed.comm.parse_address(address)
    backend = distributed.comm.registry.get_backend(scheme)
    backend.get_connector()
    if scheme != "inproc":
        _, port = distributed.comm.parse_host_port(place)
        if not 0 < port < 2**16:
            raise ValueError(f"there is no port {port}")


def _settings() -> dict[str, object]:
    """Settings that nobody has set, which are still Dask's own."""
    usual = dask.config.merge(*dask.config.defaults)
    return {
        name: value for name, value in SETTINGS.items() if dask.config.get(name) == dask.config.get(name, config=usual)
    }
