"""What is known of a job: a record inside the comparison, and where it is, on the machine that asked for it."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import click

from dask_svcca import machine
from dask_svcca.errors import JobError
from dask_svcca.stores import _io
from dask_svcca.stores.backend import LocalBackend, backend_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_svcca.stores.backend import Backend

State = Literal["waiting", "running", "stalled", "done", "failed", "cancelled"]
ENDED: Final = ("done", "failed", "cancelled")
"""States that a job does not leave."""

BEAT_SECONDS: Final = 5.0
"""How often a job that runs writes its record."""

MOST_EVENTS: Final = 1000
"""Lines of its log that a record keeps."""

_GROUP: Final = "jobs"
_ID = re.compile(r"[0-9]{8}-[0-9a-f]{6}")


@dataclass(frozen=True, slots=True)
class Record:
    """A job, as it is stored.

    Attributes
    ----------
    id : str
    zoo, comparison : str
    state : str
        As the job itself says it: it does not know that it has stalled.
    message : str
        Why it failed, or what came of it.
    user, host, machine : str
        Who asked for it, and where it is driven from; see `dask_svcca.machine.host`.
    process, started : int, str
        The process that drives it, and when that began, as its machine says it.
    cluster : str
        Where it runs.
    restarted : bool
        Whether the cluster drives it, and starts it anew on another worker where one dies.
    submitted, updated, ended : str
        By the clock of the machine that drives it.
    pairs, pairs_done, pairs_failed : int
        Asked for, done, and those whose tasks failed for good; the next run tries these again.
    stages : dict of str to (int, int)
        Of each stage, how many tasks are done, and how many there are.
    pairs_per_second : float
        In this run.
    seconds_left : float or None
    dashboard : str
        Address of the dashboard, where there is one.
    version : str
        Of this package.
    events : tuple of (str, str)
        What happened, and when.
    """

    id: str
    zoo: str
    comparison: str
    state: State = "waiting"
    message: str = ""
    user: str = ""
    host: str = ""
    machine: str = ""
    process: int = 0
    started: str = ""
    cluster: str = ""
    restarted: bool = False
    submitted: str = ""
    updated: str = ""
    ended: str = ""
    pairs: int = 0
    pairs_done: int = 0
    pairs_failed: int = 0
    stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    pairs_per_second: float = 0.0
    seconds_left: float | None = None
    dashboard: str = ""
    version: str = ""
    events: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self | None:
        """From what is stored; None where that is not a record."""
        known = {each.name for each in dataclasses.fields(cls)}
        try:
            record = cls(**{name: value for name, value in document.items() if name in known})
        except TypeError:
            return None
        return record if _ID.fullmatch(str(record.id)) else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    def with_event(self, text: str) -> Self:
        """The same, with one more line in its log."""
        return dataclasses.replace(self, events=(*self.events[1 - MOST_EVENTS :], (now(), text)))

    @property
    def here(self) -> bool:
        """Whether it is driven from this machine."""
        return self.machine == machine.host()

    @property
    def gone(self) -> bool:
        """Whether its process was on this machine, is not there any more, and nobody starts it anew."""
        return self.here and not self.restarted and machine.process_start(self.process) != self.started


class Jobs:
    """Records of the jobs of a comparison.

    Parameters
    ----------
    comparison : str
        Where it is.
    """

    def __init__(self, comparison: str, *, mode: str = "r") -> None:
        self._backend: Backend = backend_of(_io.open_group(comparison, mode=mode))

    def ids(self) -> list[str]:
        """Ids, in the order in which they were asked for."""
        return [name for name in self._backend.names(_GROUP) if _ID.fullmatch(name)]

    def read(self, job: str) -> Record | None:
        """Record of a job."""
        document = self._document(f"{_GROUP}/{job}")
        return None if document is None else Record.read(document)

    def write(self, record: Record) -> None:
        """Store a record."""
        if self._document(_GROUP) is None:
            self._backend.write(f"{_GROUP}/zarr.json", _group({}))
        self._backend.write(f"{_GROUP}/{record.id}/zarr.json", _group(record.to_dict()))

    def age(self, job: str) -> float | None:
        """Seconds since the record of a job was written, by the clock of the store; None where it has none."""
        try:
            return self._backend.age(f"{_GROUP}/{job}/zarr.json")
        except FileNotFoundError:
            return None

    def cancel(self, job: str) -> None:
        """Ask a job to end."""
        self._backend.write(f"{_GROUP}/{job}/cancelled/zarr.json", _group({"user": user(), "at": now()}))

    def is_cancelled(self, job: str) -> bool:
        """Whether a job was asked to end."""
        return self._document(f"{_GROUP}/{job}/cancelled") is not None

    def _document(self, group: str) -> dict[str, Any] | None:
        (data,) = self._backend.read_many([f"{group}/zarr.json"])
        if data is None:
            return None
        try:
            found = json.loads(data).get("attributes", {})
        except (ValueError, AttributeError):
            return {}
        return found if isinstance(found, dict) else {}


def _group(attributes: dict[str, Any]) -> bytes:
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def now() -> str:
    """Date and time, for people and programs."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Name of who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may give a process a user that has no name.
        return str(os.getuid()) if hasattr(os, "getuid") else "?"


def new_id() -> str:
    """Id of a new job: its day, and what tells it from others.

    Examples
    --------
    >>> bool(_ID.fullmatch(new_id()))
    True
    """
    return f"{datetime.now(UTC):%Y%m%d}-{uuid.uuid4().hex[:6]}"


# --- on the machine that asked for it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a job is that was asked for on this machine.

    Attributes
    ----------
    id, comparison : str
    submitted : str
    process, started : int, str
        The process that drives it, where that is on this machine.
    cluster : str
        Where it runs.
    dashboard : str
        Address of the dashboard of a scheduler that was there already, where it has one.
    """

    id: str
    comparison: str
    submitted: str
    process: int = 0
    started: str = ""
    cluster: str = ""
    dashboard: str = ""

    @property
    def log(self) -> Path:
        """What the process that drives it prints."""
        return home() / f"{self.id}.log"

    @property
    def job_file(self) -> Path:
        """The job as it was when it was asked for."""
        return home() / f"{self.id}.yaml"

    def write(self) -> None:
        """Keep it."""
        _write(f"{self.id}.json", dataclasses.asdict(self))

    @property
    def record(self) -> Record | None:
        """What the job said before its comparison was there."""
        try:
            return Record.read(json.loads(_own_record(self.id).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None


def write_own(record: Record) -> None:
    """Keep a record on the machine that drives the job, where it has no comparison yet."""
    _write(_own_record(record.id).name, record.to_dict())


def _own_record(job: str) -> Path:
    return home() / f"{job}.record"


def _write(name: str, document: dict[str, Any]) -> None:
    LocalBackend(str(home())).write(name, json.dumps(document).encode())


def home() -> Path:
    """Folder in which this user keeps where jobs are."""
    return Path(click.get_app_dir("dask-svcca")) / "jobs"


def pointers() -> list[Pointer]:
    """All jobs that were asked for on this machine, the oldest first."""
    return sorted(_read_pointers(), key=lambda pointer: (pointer.submitted, pointer.id))


def _read_pointers() -> Iterator[Pointer]:
    for path in home().glob("*.json"):
        try:
            yield Pointer(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):
            continue


def find(name: str) -> tuple[str, str, Pointer | None]:
    """The job that is meant by an id or by the place of a comparison.

    Returns
    -------
    id : str
        Empty where the comparison has no job.
    comparison : str
    pointer : Pointer or None

    Raises
    ------
    JobError
        Where there is none.
    """
    known = {pointer.id: pointer for pointer in pointers()}
    if name in known:
        return name, known[name].comparison, known[name]
    if _ID.fullmatch(name):
        raise JobError(
            f"no job {name!r} was submitted by {user()!r} on this machine; 'dask-svcca jobs' lists those that were. Of "
            f"a job of another machine or user, give the path of its comparison"
        )
    mine = [pointer for pointer in known.values() if pointer.comparison == str(_io.absolute(name))]
    if not _io.is_group(name):
        if mine:
            return mine[-1].id, mine[-1].comparison, mine[-1]
        raise JobError(f"there is no job and no comparison {name!r}. 'dask-svcca jobs' lists the jobs of this machine")
    jobs = Jobs(name)
    records = [record for job in jobs.ids() if (record := jobs.read(job)) is not None]
    newest = max((record.submitted, record.id) for record in records) if records else ("", "")
    if mine and mine[-1].submitted >= newest[0]:
        return mine[-1].id, mine[-1].comparison, mine[-1]
    return newest[1], str(_io.absolute(name)), known.get(newest[1])
