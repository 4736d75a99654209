"""A representation that is overwritten while a comparison reads it: old numbers, or a problem, and no mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest

import dask_svcca
from dask_svcca.plan.parameters import Parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.stores._chunked import ChunkReader
from dask_svcca.stores.zoo import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

N = 40
LAYERS = 3
MEASURES = ("svcca", "pwcca")


@pytest.fixture(autouse=True)
def _small_chunks_in_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(write, "CHUNK_BYTES", 10 * 8 * 4)
    with dask.config.set(scheduler="synchronous"):
        yield


def layers(width: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(N, 3))
    return [common @ rng.normal(size=(3, width)) + rng.normal(size=(N, width)) for _ in range(LAYERS)]


def make(folder: Path, arrays: list[np.ndarray]) -> Path:
    with dask_svcca.create_zoo(folder, examples=range(N)) as zoo:
        for number, array in enumerate(arrays):
            zoo.write("net", "step1", f"l{number}", array)
    return folder


def compared(zoo: Path, store: Path) -> Any:
    run_comparison(dask_svcca.open_zoo(zoo), store, Parameters(MEASURES, variance=0.9, precision="float64"))
    return dask_svcca.open_comparison(store).load()


class Overwriting:
    """Overwrites a representation by another object just before one of the reads of chunks."""

    def __init__(self, zoo: Path, values: np.ndarray, when: int) -> None:
        self.count, self.when, self._zoo, self._values, self._read = 0, when, zoo, values, ChunkReader.read

    @property
    def happened(self) -> bool:
        return self.count > self.when

    def __call__(self, reader: ChunkReader, chunk: int, **options: bool) -> Any:
        self.count += 1
        if self.count == self.when + 1:
            with dask_svcca.open_zoo(self._zoo, mode="r+") as other:
                other.write("net", "step1", "l1", self._values, overwrite=True)
        return self._read(reader, chunk, **options)


@pytest.mark.parametrize(
    ("width", "moments"),
    [(4, (0, 5, 10, 15)), pytest.param(60, (0, 39, 91, 117), marks=pytest.mark.slow)],
    ids=["fewer neurons than samples", "more neurons than samples"],
)
def test_compare__of_what_is_overwritten_meanwhile_mixes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, moments: tuple[int, ...]
) -> None:
    old, new = layers(width, 0), layers(width, 1)
    before = compared(make(tmp_path / "old.zarr", old), tmp_path / "old")
    after = compared(make(tmp_path / "new.zarr", [old[0], new[1], old[2]]), tmp_path / "new")
    seen = set()
    for when in moments:
        zoo = make(tmp_path / f"zoo{when}.zarr", old)
        overwriting = Overwriting(zoo, new[1], when)
        with monkeypatch.context() as patched:
            patched.setattr(
                ChunkReader, "read", lambda *arguments, way=overwriting, **options: way(*arguments, **options)
            )
            found = compared(zoo, tmp_path / f"c{when}")
        for name in MEASURES:
            values, known = found[name].to_numpy(), before[name].to_numpy()
            fresh = np.isfinite(values)
            np.testing.assert_allclose(values[fresh], known[fresh], rtol=0, atol=1e-12)
        problem = str(found["problem_a"].to_numpy()[1])
        seen.add(bool(problem))
        if problem:
            assert "'net/step1/l1'" in problem
            assert "or they were written again meanwhile" in problem
            assert not np.isfinite(found["svcca"].to_numpy()[1]).any()
        if overwriting.happened:
            again = compared(zoo, tmp_path / f"c{when}")
            for name in MEASURES:
                np.testing.assert_allclose(again[name], after[name], rtol=0, atol=1e-12)
    assert seen == {False, True}
