"""Whatever is damaged in a store is found, named, and made anew where it can be."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from cli_runner import run, without_cluster
from measured import related

import dask_svcca
from dask_svcca.errors import StoreFormatError, StoreInUseError
from dask_svcca.plan.parameters import make_parameters
from dask_svcca.run.compare import run_comparison
from dask_svcca.run.leases import Leases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MEASURES = ("svcca", "cka", "pwcca")


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def compare(stores: tuple[Path, Path]) -> xr.Dataset:
    return dask_svcca.compare(*stores, measures=MEASURES, variance=None).load()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo and its comparison, and what that holds."""
    folder, layers = tmp_path_factory.mktemp("made"), related(120, 3, 4, 5, 6, 7, 8)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(len(layers[0]))) as zoo:
        for number, layer in enumerate(layers):
            zoo.write("net", f"step{number}", "fc", layer.astype("float32"), step=number)
    with dask.config.set(scheduler="synchronous"):
        return folder, compare((folder / "zoo.zarr", folder / "c.zarr"))


@pytest.fixture
def stores(made: tuple[Path, xr.Dataset], tmp_path: Path) -> tuple[Path, Path]:
    """A zoo, and its comparison."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "zoo.zarr", tmp_path / "c.zarr"


@pytest.fixture
def before(made: tuple[Path, xr.Dataset]) -> xr.Dataset:
    """What the comparison holds."""
    return made[1]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path) -> None:
    file.unlink()


WAYS = [flip, truncate, empty, delete]


@pytest.mark.parametrize("way", WAYS)
def test_verify__names_damaged_activations(stores: tuple[Path, Path], way: Callable[[Path], None]) -> None:
    zoo, _ = stores
    found = dask_svcca.verify(zoo)
    assert found.ok
    assert found.checked["representations"] == 6
    way(zoo / "net" / "step3" / "fc" / "activations" / "c" / "0" / "0")
    found = dask_svcca.verify(zoo)
    assert [one.what for one in found.damage] == ["representation 'net/step3/fc'"]
    assert found.damage[0].key.startswith("net/step3/fc/activations")
    with pytest.raises(StoreFormatError, match="capture what it names again"):
        dask_svcca.verify(zoo, repair=True)


RESULTS = ["svcca/c/0/0", "cka/c/0/0", "null_svcca/c/0/0", "spurious/c/0/0", "pair_status/c/0/0"]
SUBSPACES = [f"subspaces/*/{name}" for name in ("scores/c/0/0", "scores_check/c/0", "bases/c/0")]


def each_in_one_way(parts: list[str]) -> list[Any]:
    """All parts damaged in all ways: the first in each, every other in one, and the rest slow."""
    return [
        pytest.param(part, way, marks=[] if number == 0 or turn == (number - 1) % len(WAYS) else [pytest.mark.slow])
        for number, part in enumerate(parts)
        for turn, way in enumerate(WAYS)
    ]


@pytest.mark.parametrize(("pattern", "way"), each_in_one_way([*RESULTS, *SUBSPACES]))
def test_verify__what_is_repaired_is_made_anew(
    stores: tuple[Path, Path], before: xr.Dataset, pattern: str, way: Callable[[Path], None]
) -> None:
    file = min(stores[1].glob(pattern))
    way(file)
    found = dask_svcca.verify(stores[1])
    if pattern.startswith("pair_status") and way is delete:
        # As where nothing was computed yet.
        assert found.ok
    else:
        assert not found.ok
        assert all(one.key.split("/")[0] in str(file) for one in found.damage)
    repaired = dask_svcca.verify(stores[1], repair=True)
    assert repaired.damage == found.damage
    assert dask_svcca.verify(stores[1]).ok
    xr.testing.assert_identical(compare(stores).drop_attrs(), before.drop_attrs())


def test_verify__repairs_nothing_while_a_run_is_at_work(stores: tuple[Path, Path]) -> None:
    assert dask_svcca.verify(stores[1]).ok
    min(stores[1].glob("svcca/c/0/0")).unlink()
    with Leases(wait=False, told=None) as leases:
        leases.take(zarr.open_group(stores[1]), "comparison")
        assert not dask_svcca.verify(stores[1]).ok
        with pytest.raises(StoreInUseError, match=r"the comparison .* is in use by process"):
            dask_svcca.verify(stores[1], repair=True)
    assert dask_svcca.verify(stores[1], repair=True).repaired


@pytest.mark.parametrize("name", ["representation_a", "digest_b", "rank_a", "step_b"])
def test_verify__a_column_is_repaired_from_that_of_the_other_axis(
    stores: tuple[Path, Path], before: xr.Dataset, name: str
) -> None:
    truncate(stores[1] / name / "c" / "0")
    assert [one.key for one in dask_svcca.verify(stores[1], repair=True).damage] == [f"{name}/c/0"]
    xr.testing.assert_identical(dask_svcca.open_comparison(stores[1]).load().drop_attrs(), before.drop_attrs())


@pytest.mark.parametrize("way", [flip, delete])
def test_verify__shared_subspaces(stores: tuple[Path, Path], tmp_path: Path, way: Callable[[Path], None]) -> None:
    zoo, place = stores[0], tmp_path / "other.zarr"
    shared = tmp_path / "s.zarr"
    before = dask_svcca.compare(zoo, place, subspaces=shared).load()
    assert dask_svcca.verify(shared).ok
    way(next(shared.glob("*/scores/c/0/0")))
    # What a comparison refers to is verified with it.
    assert {one.store for one in dask_svcca.verify(place).damage} == {str(shared)}
    store = place if way is flip else shared
    assert not dask_svcca.verify(store, repair=True).ok
    assert dask_svcca.verify(place).ok
    again = dask_svcca.compare(zoo, tmp_path / "again.zarr", subspaces=shared).load()
    np.testing.assert_array_equal(again.svcca, before.svcca)


def test_verify__on_the_command_line(stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"verify {stores[1]} --workers 1"
    assert re.search(r"All is whole: \d+ variables, 1 block row, \d packs?\.", run(command).output)
    # Once on a cluster.
    without_cluster(monkeypatch)
    flip(stores[1] / "cka" / "c" / "0" / "0")
    assert json.loads(run(f"{command} --json", status=1).stdout)["damage"][0]["key"] == "cka/c/0/0"
    output = run(f"{command} --repair", status=1).output
    assert "block 0, 0: cka/c/0/0" in output
    assert "Compare again" in output
    run(command)


# What a run sees of it by itself.


@pytest.fixture(scope="module")
def made_grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo and its comparison in three tiles a side, and what that holds."""
    folder, layers = tmp_path_factory.mktemp("grid"), related(60, *[4] * 20)
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(60)) as zoo:
        for number, layer in enumerate(layers):
            zoo.write("net", f"step{number:02}", "fc", layer.astype("float32"))
    with dask.config.set(scheduler="synchronous"):
        return folder, compare((folder / "zoo.zarr", folder / "c.zarr"))


@pytest.fixture
def grid(made_grid: tuple[Path, xr.Dataset], tmp_path: Path) -> tuple[Path, Path]:
    """A zoo, and its comparison in three tiles a side."""
    shutil.copytree(made_grid[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "zoo.zarr", tmp_path / "c.zarr"


def computed(stores: tuple[Path, Path]) -> int:
    outcome = run_comparison(dask_svcca.open_zoo(stores[0]), stores[1], make_parameters(MEASURES, variance=None))
    assert outcome.problems == {}
    return outcome.computed


# That the others are flipped or cut, only reading all finds: see verify.
@pytest.mark.parametrize(
    ("name", "block", "way"),
    [
        ("svcca", "0/1", delete),
        ("svcca", "1/0", empty),
        ("svcca", "2/2", delete),
        ("spurious", "0/1", empty),
        ("spurious", "2/2", delete),
        ("pair_status", "0/1", flip),
        ("pair_status", "0/1", delete),
        ("pair_status", "1/0", empty),
        ("pair_status", "2/2", truncate),
    ],
)
def test_compare__again_computes_blocks_that_are_gone(
    grid: tuple[Path, Path],
    made_grid: tuple[Path, xr.Dataset],
    name: str,
    block: str,
    way: Callable[[Path], None],
) -> None:
    before = made_grid[1]
    assert computed(grid) == 0
    way(grid[1] / name / "c" / block)
    # The block and its mirror image, or a triangle.
    assert computed(grid) == (10 if block == "2/2" else 64)
    xr.testing.assert_identical(dask_svcca.open_comparison(grid[1]).load().drop_attrs(), before.drop_attrs())
    assert computed(grid) == 0


def test_compare__what_was_never_there_is_not_gone(grid: tuple[Path, Path]) -> None:
    (grid[1] / "svcca" / "c" / ".DS_Store").write_bytes(b"")
    with dask_svcca.open_zoo(grid[0], mode="r+") as zoo:
        zoo.write("net", "step20", "fc", np.full((60, 3), 2.0))
    outcome = run_comparison(dask_svcca.open_zoo(grid[0]), grid[1], make_parameters(MEASURES, variance=None))
    assert (outcome.computed, outcome.settled) == (0, 21)
    assert computed_with(grid, "procrustes") == 210
    # Where a pair cannot have a value, a block may have none.
    assert computed_with(grid, "procrustes") == 0


def computed_with(stores: tuple[Path, Path], measure: str) -> int:
    parameters = make_parameters((*MEASURES, measure), variance=None)
    return run_comparison(dask_svcca.open_zoo(stores[0]), stores[1], parameters).computed
