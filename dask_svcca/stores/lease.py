"""Who is at work on a store: a lease, renewed while the work goes on, which another run takes over once it has ended.

A lease is a small file beside others of an array, where zarr lists nothing. Its name ends in a number. Whoever wants
it makes the file of the next number, which only one can; the highest number has the lease. So nothing but "make this
where there is nothing" is asked of a store, and no lock, which network file systems and services do not have.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import threading
import time
import uuid
import weakref
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

from dask_svcca import machine
from dask_svcca.errors import StoreAccessError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.stores.backend import Backend

SECONDS: Final = 60
"""How long a lease holds that is not renewed."""

RENEWED_EVERY: Final = 15
"""Seconds between two renewals: three may fail before another run takes over."""

POLL_SECONDS: Final = 0.5
"""How often whoever waits looks."""

Told: TypeAlias = "Callable[[str], None]"
"""Called with a sentence that says for whom a run waits."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, as it is stored.

    Attributes
    ----------
    owner : str
        Of this lease and no other.
    machine : str
        See `dask_svcca.machine.host`.
    host, user : str
        For people.
    process : int
    started : str
        When the process began, as its machine says it.
    since, until : str
        For people, by the clock of the holder: when it began, and when it ends unless it is renewed.
    renewed : int
        How often it was renewed.
    seconds : float
        How long it holds after each renewal.
    """

    owner: str
    machine: str
    host: str
    user: str
    process: int
    started: str
    since: str
    until: str
    renewed: int = 0
    seconds: float = SECONDS

    @classmethod
    def this(cls) -> Holder:
        """A holder that is this process, from now on."""
        return cls(
            owner=uuid.uuid4().hex,
            machine=_this_machine(),
            host=_this_machine().partition(" ")[0],
            user=_user(),
            process=os.getpid(),
            started=machine.process_start(os.getpid()) or "",
            since=_clock(),
            until=_clock(SECONDS),
        )

    @classmethod
    def read(cls, document: bytes) -> Holder | None:
        """What is stored; None where it is not whole."""
        try:
            return cls(**json.loads(document))
        except (TypeError, ValueError):
            return None

    def __str__(self) -> str:
        return (
            f"process {self.process} of {self.user!r} on {self.host!r}, at work since {self.since}; its lease ends at "
            f"{self.until} unless it is renewed"
        )


class Lease:
    """The right to work on something in a store, which one process has at a time.

    Parameters
    ----------
    backend : Backend
        Of the store.
    key : str
        Where it is; a number is added.
    what : str
        What is worked on, for messages: ``the comparison 'c.zarr'``.
    remedy : str
        Sentence that says what to do where another has it.
    user : object, optional
        What it serves: the lease is given up when this is gone. By default the thread that asks, when that ends.

    Examples
    --------
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> from dask_svcca.stores.backend import backend_of
    >>> backend = backend_of(zarr.create_group(MemoryStore()))
    >>> first = Lease(backend, "lease", "the store", "Wait for it")
    >>> second = Lease(backend, "lease", "the store", "Wait for it")
    >>> first.take()
    False
    >>> second.take()
    Traceback (most recent call last):
    dask_svcca.errors.StoreInUseError: the store is in use by process ... unless it is renewed. Wait for it
    >>> first.release()
    >>> second.take()
    False
    >>> second.release()
    """

    def __init__(self, backend: Backend, key: str, what: str, remedy: str, user: object | None = None) -> None:
        self._backend, self._what, self._remedy = backend, what, remedy
        self._folder, _, self._name = key.rpartition("/")
        self._pattern = re.compile(rf"{re.escape(self._name)}-(\d+)")
        self._user = weakref.ref(threading.current_thread() if user is None else user)
        self._holder: Holder | None = None
        self._number = 0
        self._lost = ""

    def take(
        self,
        *,
        wait: bool = False,
        patient: bool = False,
        told: Told | None = None,
        check: Callable[[], None] | None = None,
    ) -> bool:
        """Take the lease, at once where nobody has it, or whoever had it has ended.

        Parameters
        ----------
        wait : bool
            Wait for as long as another has it.
        patient : bool
            Wait for another machine until it shows that it is at work, or its lease has ended.
        told : callable, optional
        check : callable, optional
            Called while it waits; ends the waiting where it raises.

        Returns
        -------
        bool
            Whether somebody had it who did not give it back.

        Raises
        ------
        StoreInUseError
            Where another has it, and this does not wait.
        """
        seen, since, last_owner, told_of = b"", time.monotonic(), "", "nobody"
        while True:
            numbers = self._numbers()
            last = max(numbers, default=0)
            document = self._read(last) if last else None
            if last and document is None:
                # Given back just now.
                continue
            if document is not None:
                if document != seen:
                    seen, since = document, time.monotonic()
                holder = Holder.read(document)
                if not self._has_ended(last, holder, time.monotonic() - since):
                    owner = "" if holder is None else f"{holder.owner} {holder.renewed}"
                    elsewhere = holder is None or holder.machine != _this_machine()
                    if not wait and not (patient and elsewhere and last_owner in {"", owner}):
                        raise StoreInUseError(f"{self._what} is in use by {holder or 'another run'}. {self._remedy}")
                    last_owner = owner
                    if told is not None and (holder is None or holder.owner != told_of):
                        told_of = "" if holder is None else holder.owner
                        told(f"Waiting for {self._what}, which is in use by {holder or 'another run'}")
                    if check is not None:
                        check()
                    time.sleep(POLL_SECONDS)
                    continue
            if self._claim(last, document, numbers):
                return document is not None

    def move(self, backend: Backend) -> None:
        """Follow the store to where it has been moved to, with the lease in it."""
        self._backend = backend

    def check(self) -> None:
        """Raise `StoreInUseError` where another has taken it over, since it was not renewed in time."""
        if self._lost:
            raise StoreInUseError(self._lost)

    def release(self) -> None:
        """Give it back."""
        if not _RENEWALS.drop(self) or self._lost:
            return
        try:
            document = self._read(self._number)
            held = None if document is None else Holder.read(document)
            if held is not None and self._holder is not None and held.owner == self._holder.owner:
                self._backend.remove(self._key(self._number))
        except StoreAccessError:
            # Nobody renews it any more: it ends by itself.
            return

    def is_wanted(self) -> bool:
        """Whether what it serves is still there."""
        user = self._user()
        return user is not None and (not isinstance(user, threading.Thread) or user.is_alive())

    def renew(self) -> None:
        """Store that the work goes on; or notice that another has the lease."""
        if self._holder is None:
            return
        if not self._has_it():
            # Whoever sees that it came too late goes away at once.
            time.sleep(POLL_SECONDS)
            if not self._has_it():
                self._lost = (
                    f"another run has taken over {self._what}, since this one did not say for {SECONDS} seconds that "
                    f"it was at work. What it has finished is kept: run it again"
                )
                return
        self._holder = replace(self._holder, until=_clock(SECONDS), renewed=self._holder.renewed + 1)
        self._backend.write(self._key(self._number), self._document())

    def _has_it(self) -> bool:
        return max(self._numbers(), default=0) == self._number

    def _claim(self, last: int, document: bytes | None, numbers: list[int]) -> bool:
        """Make the next number, and see whether it was the next; what it follows must not have gone meanwhile."""
        self._holder, self._number, self._lost = Holder.this(), last + 1, ""
        key = self._key(self._number)
        # Before it is there: a lease of this process that nobody renews counts as ended.
        _RENEWALS.add(self)
        claimed = False
        try:
            if self._backend.create(key, self._document()):
                claimed = self._has_it() and (document is None or self._read(last) == document)
                for given_up in numbers if claimed else [self._number]:
                    self._backend.remove(self._key(given_up))
        except BaseException:
            # Whoever asked goes away without it, so nothing may renew it.
            _RENEWALS.drop(self)
            raise
        if not claimed:
            _RENEWALS.drop(self)
        return claimed

    def _has_ended(self, number: int, holder: Holder | None, unchanged: float) -> bool:
        """Whether a lease that another has counts no longer.

        Parameters
        ----------
        number : int
        holder : Holder or None
            None where it is not known.
        unchanged : float
            Seconds for which this process has seen no renewal.
        """
        if holder is not None and holder.machine == _this_machine():
            if holder.process == os.getpid():
                return not _RENEWALS.has(holder.owner)
            if machine.process_start(holder.process) != holder.started:
                return True
        limit = SECONDS if holder is None else holder.seconds
        try:
            age = self._backend.age(self._key(number))
        except FileNotFoundError:
            return False
        return max(unchanged, age or 0) > limit

    def _numbers(self) -> list[int]:
        matches = map(self._pattern.fullmatch, self._backend.children(self._folder))
        return sorted(int(match[1]) for match in matches if match)

    def _key(self, number: int) -> str:
        name = f"{self._name}-{number}"
        return f"{self._folder}/{name}" if self._folder else name

    def _read(self, number: int) -> bytes | None:
        (document,) = self._backend.read_many([self._key(number)])
        return document

    def _document(self) -> bytes:
        return json.dumps(asdict(self._holder)).encode() if self._holder is not None else b""

    @property
    def owner(self) -> str:
        """Of this lease and no other; empty before it is taken."""
        return "" if self._holder is None else self._holder.owner


class _Renewals:
    """The leases of this process, renewed by one thread, which goes away when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A process that was forked has none."""
        self._lock, self._held, self._thread = threading.Lock(), {}, None

    def has(self, owner: str) -> bool:
        """Whether this process holds a lease."""
        return owner in self._held

    def add(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        with self._lock:
            self._held[lease.owner] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="dask-svcca leases", daemon=True)
                self._thread.start()

    def drop(self, lease: Lease) -> bool:
        """Renew a lease no longer; whether it was renewed so far."""
        with self._lock:
            return self._held.pop(lease.owner, None) is not None

    def _renew(self) -> None:
        while True:
            time.sleep(RENEWED_EVERY)
            with self._lock:
                if not self._held:
                    self._thread = None
                    return
                held = list(self._held.values())
            for lease in held:
                if lease.is_wanted():
                    self._renewed(lease)
                else:
                    lease.release()

    @staticmethod
    def _renewed(lease: Lease) -> None:
        try:
            lease.renew()
        except OSError:
            # The store may answer again before the lease ends.
            return


_RENEWALS = _Renewals()


@cache
def _this_machine() -> str:
    return machine.host()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number that has no name.
        return str(getattr(os, "getuid", lambda: "?")())


def _clock(later: float = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%d %H:%M:%S UTC")
