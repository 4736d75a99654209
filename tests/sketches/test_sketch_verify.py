"""What is damaged in a store of sketches is found, named, and made anew."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from cli_runner import run

import dask_svcca
from dask_svcca.errors import FailedRepresentationWarning, StoreFormatError, StoreInUseError
from dask_svcca.run.leases import Leases
from dask_svcca.sketches.store import SketchStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A zoo, and sketches in two chunks of rows and two of numbers."""
    folder = tmp_path_factory.mktemp("whole")
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(30)) as zoo:
        for number in range(70):
            zoo.write("net", f"step{number:02}", "fc", RNG.standard_normal((30, 3)).astype("float32"), step=number)
            if number == 0:
                # A small store has small chunks.
                dask_svcca.sketch(zoo, folder / "s.zarr", size=4098)
    dask_svcca.sketch(zoo, folder / "s.zarr", size=4098)
    return folder / "zoo.zarr", folder / "s.zarr"


@pytest.fixture
def stores(whole: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    zoo, store = whole
    shutil.copytree(store, tmp_path / "s.zarr")
    return zoo, tmp_path / "s.zarr"


def test_sketches__of_layers_that_mostly_have_none_are_searched_and_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks in which no row has a sketch are not written."""
    with dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(30)) as zoo:
        for number in range(150):
            x = RNG.standard_normal((30, 3)) if number >= 140 else np.ones((30, 3))
            zoo.write("net", f"step{number:03}", "fc", x, step=number)
    with pytest.warns(FailedRepresentationWarning):
        dask_svcca.sketch(zoo, tmp_path / "s.zarr", size=512)
    dask_svcca.export_sketches(tmp_path / "s.zarr", tmp_path / "s.npz")
    dask_svcca.import_sketches(tmp_path / "s.npz", tmp_path / "t.zarr")
    for whole_bytes in (2**26, 0):
        monkeypatch.setattr("dask_svcca.sketches.nearest.WHOLE_BYTES", whole_bytes)
        found = [dask_svcca.search(tmp_path / name, "net/step149/fc") for name in ("s.zarr", "t.zarr")]
        assert sorted(found[0]["step"]) == list(range(140, 149))
        assert found[0].equals(found[1])
    assert dask_svcca.verify(tmp_path / "t.zarr").ok


@pytest.mark.parametrize("rows", [[69], [3, 1, 68], list(range(70))], ids=len)
def test_sketch_store__rows_are_those_that_xarray_reads(stores: tuple[Path, Path], rows: list[int]) -> None:
    _, store = stores
    read = SketchStore.open(store).read_rows(np.array(rows))
    np.testing.assert_array_equal(read, dask_svcca.open_sketches(store).sketch[rows])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def delete(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("key", "way"),
    [
        *((key, way) for key in ("sketch/c/1/0", "coarse/c/1/0") for way in (flip, truncate, delete)),
        ("norm/c/0", flip),
        ("representation/c/0", truncate),
        ("layer/zarr.json", delete),
    ],
)
def test_verify__names_what_is_damaged_and_has_it_made_anew(
    stores: tuple[Path, Path], key: str, way: Callable[[Path], None]
) -> None:
    zoo, store = stores
    found = dask_svcca.verify(store)
    assert found.ok
    assert found.kind == "sketches"
    assert found.checked["chunks"] == 2
    before = dask_svcca.open_sketches(store).load()
    way(store / key)
    found = dask_svcca.verify(store)
    assert [one.key for one in found.damage] == [key]
    assert dask_svcca.verify(store, repair=True).repaired
    assert dask_svcca.verify(store).ok
    made = dask_svcca.sketch(zoo, store, size=4098).load()
    np.testing.assert_array_equal(made.sketch, before.sketch)
    assert made.representation.values.tolist() == before.representation.values.tolist()
    assert dask_svcca.verify(store).ok


def test_verify__attributes_that_are_damaged_cannot_be_mended(stores: tuple[Path, Path]) -> None:
    _, store = stores
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"]["seed"] = "3"
    (store / "zarr.json").write_text(json.dumps(document))
    found = dask_svcca.verify(store)
    assert [(one.what, one.key) for one in found.damage] == [("the attributes of the store", "zarr.json")]
    with pytest.raises(StoreFormatError, match="Make them in another place"):
        dask_svcca.verify(store, repair=True)


def test_verify__repairs_nothing_while_a_run_is_at_work(stores: tuple[Path, Path]) -> None:
    _, store = stores
    flip(store / "sketch" / "c" / "1" / "0")
    with Leases(wait=False, told=None) as leases:
        leases.take(SketchStore.open(store, mode="r+").root, "sketches")
        with pytest.raises(StoreInUseError, match=r"the sketches .* is in use by"):
            dask_svcca.verify(store, repair=True)


@pytest.mark.slow
def test_verify__says_on_the_command_line_what_to_do(stores: tuple[Path, Path]) -> None:
    _, store = stores
    delete(store / "sketch" / "c" / "0" / "1")
    said = run(f"verify {store} --repair", 1).output
    assert "variable 'sketch': sketch/c/0/1: it is missing" in said
    assert "Make the sketches again: what can be made anew is made anew." in said
