"""Values of representations that have changed are taken out of several arrays at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.errors import StoreAccessError
from dask_svcca.measures import find_measures, with_companions
from dask_svcca.stores import _create
from dask_svcca.stores._links import replace_file
from dask_svcca.stores.backend.local import LocalBackend
from dask_svcca.stores.comparison import ComparisonStore
from dask_svcca.variables import PAIR_STATUS, PairStatus

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 6
DETAIL = "correlations"
"""Chunks of a detail are in folders of their own, one for each block."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "comparison.zarr"


@pytest.fixture
def store(place: Path, monkeypatch: pytest.MonkeyPatch) -> ComparisonStore:
    monkeypatch.setattr("dask_svcca.stores._emptied.cores", lambda: 2)
    made = ComparisonStore.create(
        _create.create_root(place, {}),
        parameters={"measures": ["svcca"], "variance": 0.99, "conv": "mean"},
        tile=2,
        zoo="zoo.zarr",
        examples_digest="a" * 32,
        n_examples=60,
    )
    made.add_results(with_companions(find_measures("svcca")), ["svcca"], {DETAIL: (3,)}, ())
    made.resize(COUNT)
    for name in made._pair_names():
        array = made.array(name)
        array[...] = PairStatus.DONE if name == PAIR_STATUS.name else np.full(array.shape, 0.5)
    return made


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_invalidate__takes_nothing_away_where_another_array_is_written(
    store: ComparisonStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removes, remove = threading.Event(), LocalBackend.remove

    def replaced(source: str, target: str) -> None:
        if DETAIL in target:
            # The other array is found to be damaged meanwhile.
            removes.wait(0.5)
        replace_file(source, target)

    def removed(self: LocalBackend, key: str) -> None:
        remove(self, key)
        if key.startswith(DETAIL):
            removes.set()

    flip(place / "svcca" / "c" / "0" / "0")
    monkeypatch.setattr("dask_svcca.stores.backend.local.replace_file", replaced)
    monkeypatch.setattr(LocalBackend, "remove", removed)
    assert store.invalidate([1])
    for name in store._pair_names():
        # A block and its mirror image, which here are one.
        assert not (place / name / "c" / "0" / "0").exists(), name
        values = np.asarray(store.array(name)[...])
        gone = values == PairStatus.MISSING if name == PAIR_STATUS.name else np.isnan(values)
        expected = np.zeros((COUNT, COUNT), bool)
        expected[1] = expected[:, 1] = expected[:2, :2] = True
        np.testing.assert_array_equal(gone, expected if gone.ndim == 2 else np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_invalidate__that_fails_in_one_array_ends_in_the_others(
    store: ComparisonStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    failed, written, write = threading.Event(), list[str](), LocalBackend.write
    first, second, *_ = [name for name in store._pair_names() if name != PAIR_STATUS.name]

    def failing(self: LocalBackend, key: str, *parts: Any) -> None:
        if key.startswith(f"{second}/"):
            failed.set()
            raise error if isinstance(error, KeyboardInterrupt) else StoreAccessError(str(error))
        if key.startswith(f"{first}/") and written:
            # One block was written before. What follows leaves time to be stopped.
            failed.wait(5)
            threading.Event().wait(0.05)
        write(self, key, *parts)
        written.extend([key] if key.startswith(f"{first}/") else [])

    monkeypatch.setattr(LocalBackend, "write", failing)
    before = set(threading.enumerate())
    with pytest.raises((StoreAccessError, KeyboardInterrupt)):
        store.invalidate([0])
    assert len(written) < 5
    # Threads of earlier tests may end meanwhile.
    assert set(threading.enumerate()) <= before
    # Of its pairs none looks done, whatever else was written.
    assert (np.asarray(store.array(PAIR_STATUS.name)[0]) == PairStatus.MISSING).all()
    monkeypatch.undo()
    assert not store.invalidate([0])
    assert np.isnan(store.array(second)[0]).all()


def test_invalidate__of_many_cores_empties_few_arrays_at_a_time(
    store: ComparisonStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_svcca.stores._emptied.cores", lambda: 64)
    names, write = set[str](), LocalBackend.write

    def watched(self: LocalBackend, key: str, *parts: Any) -> None:
        names.add(threading.current_thread().name)
        threading.Event().wait(0.01)
        write(self, key, *parts)

    monkeypatch.setattr(LocalBackend, "write", watched)
    store.invalidate([0])
    assert 1 < len(names) <= 4
