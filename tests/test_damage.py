"""Every file of a store is damaged, one at a time: the next run ends equal, or says what is wrong.

The files are found, and not listed: what is stored later is tried as well.
"""

from __future__ import annotations

import re
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from measured import make_zoo, related
from thoroughness import ONE_OF

import dask_svcca
from dask_svcca.errors import DamagedStoreError, FailedRepresentationWarning, StoreFormatError
from dask_svcca.variables import VALUED, PairStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import xarray as xr

WIDTHS = (3, 4, 5, 6)


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def compare(folder: Path, name: str = "inside.zarr", subspaces: str | None = None) -> xr.Dataset:
    shared = None if subspaces is None else folder / subspaces
    options = {"variance": None, "keep": "correlations", "subspaces": shared}
    return dask_svcca.compare(folder / "zoo.zarr", folder / name, measures=("svcca", "cka"), **options).load()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A zoo, a comparison with its subspaces inside, and one with shared ones; and what is right."""
    folder = tmp_path_factory.mktemp("whole")
    layers = [layer.astype("float32") for layer in related(40, *WIDTHS)]
    coords = {"label": ["a", "b"] * 20, "mask": np.zeros((40, 3), bool)}
    with dask_svcca.create_zoo(folder / "zoo.zarr", examples=range(40), coords=coords) as zoo:
        for step, layer in enumerate(layers):
            zoo.write("net", f"step{step}", "fc", layer, step=step, compression=("lz4", "zstd", "none")[step % 3])
    with dask.config.set(scheduler="synchronous"):
        compare(folder, "other.zarr", "shared.zarr")
        return folder, compare(folder)


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "flip": lambda content: flip(content, len(content) // 2),
    "flip the end": lambda content: flip(content, len(content) - 1),
    "cut": lambda content: content[:-3],
    "empty": lambda _: b"",
    "delete": lambda _: None,
}


def damage(file: Path, way: Callable[[bytes], bytes | None]) -> None:
    content = way(file.read_bytes())
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def check_right(found: xr.Dataset, right: xr.Dataset) -> None:
    """No number is another than it should be; one that is not there is not said to be done."""
    assert found.representation_a.to_numpy().tolist() == right.representation_a.to_numpy().tolist()
    done = np.isin(found.pair_status, VALUED)
    for name in ("svcca", "cka", "correlations", "null_svcca"):
        values, expected = found[name].to_numpy(), right[name].to_numpy()
        if name == "correlations":
            # Without the widest of the representations there are fewer.
            expected = expected[..., : values.shape[-1]]
        # With fewer representations, sums have another order.
        np.testing.assert_allclose(values[done], expected[done], rtol=0, atol=1e-12, err_msg=name)
    sound = found.problem_a.to_numpy() == ""
    for name in ("rank_a", "rank_b", "step_a", "step_b", "neurons_a", "variance_kept_a", "layer_b"):
        np.testing.assert_array_equal(found[name].to_numpy()[sound], right[name].to_numpy()[sound], err_msg=name)
    assert (done == np.outer(sound, sound)).all()


def files_of(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def read_again(folder: Path, name: str, right: xr.Dataset) -> None:
    """What the next run makes of a damaged store, and one that looks at the zoo alone."""
    target = {"other": ("other.zarr", "shared.zarr"), "shared": ("other.zarr", "shared.zarr")}.get(
        name.split(".", maxsplit=1)[0], ("inside.zarr",)
    )
    try:
        found = compare(folder, *target)
    except DamagedStoreError:
        # Values that nothing but reading them shows to be damaged: what is marked as missing is made anew.
        if name.startswith("zoo"):
            raise
        assert dask_svcca.verify(folder / target[0], repair=True).repaired
        found = compare(folder, *target)
        assert (found.pair_status == PairStatus.DONE).all()
    check_right(found, right)
    if name.startswith("zoo"):
        found = compare(folder, "anew.zarr")
        labels = found.representation_a.to_numpy()
        check_right(found, right.sel(representation_a=labels, representation_b=labels))


def try_file(folder: Path, name: str, way: str, right: xr.Dataset) -> None:
    """Damage a file, and see that it is found, and does no harm."""
    damage(folder / name, WAYS[way])
    try:
        store = folder / name.split("/", maxsplit=1)[0]
        found = dask_svcca.verify(store)
        # What no run reads may be gone; a block of which the status is gone was never computed. A coordinate's values
        # have a digest, its metadata has none: what changes no value is not found.
        harmless = way == "delete" or (way == "flip" and re.fullmatch(r"zoo.zarr/\w+/zarr.json", name))
        assert harmless or not found.ok, "it is not found"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FailedRepresentationWarning)
            read_again(folder, name, right)
    except (DamagedStoreError, StoreFormatError) as error:
        # What there is only once, such as the ids of the examples.
        once = name.startswith("zoo") or name.endswith(".zarr/zarr.json")
        if not once or ".zarr" not in str(error):
            raise


def kind_of(name: str) -> str:
    """Files of one kind have one name, whatever the representation, pack or axis."""
    return re.sub(r"step\d|[0-9a-f]{16}|_[ab]/", "*", name)


def sample(names: list[str], way: str) -> list[str]:
    """A file of one kind, another for each way to damage it."""
    kinds = {kind_of(name): name for name in names}
    order = np.random.default_rng(0).permutation(sorted(kinds))
    return [kinds[order[list(WAYS).index(way) % len(order)]]]


def every(names: list[str], way: str) -> list[str]:
    """All files, each for one of the ways to damage it, or two."""
    turn = list(WAYS).index(way)
    chosen = {0, 2} if ONE_OF == 1 else {0}
    return [name for number, name in enumerate(names) if (number - turn) % len(WAYS) in chosen]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", ["zoo", "inside", "other", "shared"])
@pytest.mark.parametrize("choose", [sample, pytest.param(every, marks=pytest.mark.slow)])
def test_compare__after_any_file_was_damaged(
    whole: tuple[Path, xr.Dataset], tmp_path: Path, part: str, way: str, choose: Callable[[list[str], str], list[str]]
) -> None:
    source, right = whole
    wrong = []
    for name in choose([name for name in files_of(source) if name.startswith(part)], way):
        folder = tmp_path / "try"
        shutil.copytree(source, folder)
        try:
            try_file(folder, name, way, right)
        except Exception as error:  # noqa: BLE001 - all that is wrong is named at once
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("lost", ["svcca/c/0/1", "svcca/c/1/0", "cka/c/0/1", "correlations/c/0/1/0"])
def test_compare__what_is_lost_while_others_are_written_beside_it_is_compared_again(tmp_path: Path, lost: str) -> None:
    layers = related(40, *[3, 4, 5] * 4)
    folder, grown = tmp_path / "grown", tmp_path / "grown" / "inside.zarr"
    make_zoo(layers[:-1], folder / "zoo.zarr")
    compare(folder)
    shutil.rmtree(folder / "zoo.zarr")
    for place in (folder, tmp_path / "anew"):
        make_zoo(layers, place / "zoo.zarr")

    losing_still = [grown / lost]

    def losing(graph: Any, keys: Any, **options: Any) -> Any:
        # What is planned looks at a tile of which one column is missing.
        while losing_still:
            losing_still.pop().unlink()
        return dask.get(graph, keys, **options)

    with dask.config.set(scheduler=losing):
        found = compare(folder)
    assert np.isin(found.pair_status, VALUED).all()
    right = compare(tmp_path / "anew")
    for name in ("svcca", "cka", "correlations"):
        np.testing.assert_allclose(found[name].to_numpy(), right[name].to_numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lost", ["pair_status/c/0/0", "svcca/c/1/0", "null_svcca/c/0/0", "correlations/c/0/1/0"])
@pytest.mark.parametrize("change", ["replaced", "left"])
def test_compare__damage_that_a_change_of_the_zoo_meets_costs_its_block(tmp_path: Path, lost: str, change: str) -> None:
    layers = related(40, *[3, 4, 5] * 4)
    folder, anew = tmp_path / "changed", tmp_path / "anew"
    make_zoo(layers, folder / "zoo.zarr")
    compare(folder)
    layers[2] = related(40, 6, seed=5)[0]
    for place in (folder, anew):
        shutil.rmtree(place / "zoo.zarr", ignore_errors=True)
        make_zoo(layers, place / "zoo.zarr")
        if change == "left":
            shutil.rmtree(place / "zoo.zarr" / "net" / "1" / "02")
    damage(folder / "inside.zarr" / lost, WAYS["flip"])
    options: Any = {"variance": None, "keep": "correlations", "measures": ("svcca", "cka"), "drop_left": True}
    found = dask_svcca.compare(folder / "zoo.zarr", folder / "inside.zarr", **options).load()
    assert np.isin(found.pair_status, VALUED).all()
    right = compare(anew)
    for name in ("svcca", "cka", "correlations", "null_svcca"):
        np.testing.assert_allclose(found[name].to_numpy(), right[name].to_numpy(), rtol=0, atol=1e-12)
