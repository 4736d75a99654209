"""Whether the workers of a cluster can run a plan: looked at before anything is written."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import distributed.comm

from dask_svcca.errors import ClusterError
from dask_svcca.stores import _io

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_workers(client: distributed.Client, places: Sequence[str]) -> None:
    """Look whether all workers have this version of the package, and see the stores.

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
    try:
        answers = client.run(_look, there, on_error="return")
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"the scheduler did not answer when its workers were asked what they see ({type(error).__name__}: "
            f"{error}). Is it still running?"
        ) from None
    for address, answer in answers.items():
        if isinstance(answer, ModuleNotFoundError):
            raise ClusterError(
                f"the worker {address} cannot import what it needs ({answer}). Install dask-svcca {mine} where the "
                f"workers run"
            )
        if isinstance(answer, distributed.comm.CommClosedError):
            # It has gone meanwhile.
            continue
        if isinstance(answer, BaseException):
            raise ClusterError(f"the worker {address} cannot be asked what it sees ({type(answer).__name__}: {answer})")
        theirs, unseen = answer
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


def _look(places: Sequence[str]) -> tuple[str, list[str]]:
    """Version of the package on a worker, and the stores that it does not see."""
    return version("dask-svcca"), [place for place in places if not _io.is_group(place)]
