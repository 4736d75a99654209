"""What replaces a representation: the old one is whole until the new one is, whatever stops the writing, and where."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore, WrapperStore

import dask_svcca
from dask_svcca.errors import MismatchedExamplesError
from dask_svcca.stores import _chunked
from dask_svcca.stores.backend import local
from dask_svcca.stores.zoo import write as write_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dask_svcca import Zoo

N = 60
NAME = ("net", "step1", "fc")
OLD = np.random.default_rng(0).normal(size=(N, 5)).astype("float32")
NEW = np.random.default_rng(1).normal(size=(N, 3))


@pytest.fixture(params=["local", "memory"])
def zoo(request: pytest.FixtureRequest, tmp_path: Path) -> Zoo:
    store = tmp_path / "zoo.zarr" if request.param == "local" else MemoryStore()
    zoo = dask_svcca.create_zoo(store, examples=range(N))
    zoo.write(*NAME, OLD, step=1, attrs={"note": "old"})
    return zoo


def seen(zoo: Zoo) -> tuple[np.ndarray, str, Any]:
    """What another reader finds: values, digest and note."""
    reader = dask_svcca.open_zoo(zoo.root.store_path)
    assert reader.unfinished == []
    (item,) = reader.entries()
    return reader[NAME].to_numpy(), item.digest, reader.root["/".join(NAME)].attrs.get("note")


def failing(error: BaseException) -> Iterator[np.ndarray]:
    yield NEW[:30]
    raise error


@pytest.mark.parametrize("error", [RuntimeError("out of power"), KeyboardInterrupt()])
def test_overwrite__that_its_source_interrupts_leaves_the_old_one(zoo: Zoo, error: BaseException) -> None:
    before = seen(zoo)
    with patch.object(write_module, "CHUNK_BYTES", 7 * NEW[0].nbytes), pytest.raises(type(error)):
        zoo.write(*NAME, failing(error), overwrite=True)
    np.testing.assert_array_equal(zoo[NAME], OLD)
    np.testing.assert_equal(seen(zoo), before)
    assert sorted(dict(zoo.root.members())) == ["example", "net"]
    zoo.write(*NAME, NEW, overwrite=True)
    np.testing.assert_array_equal(seen(zoo)[0], NEW)


def test_overwrite__by_batches_leaves_the_old_one_until_all_are_there(zoo: Zoo) -> None:
    before = seen(zoo)
    zoo.append(*NAME, NEW[:30], overwrite=True)
    np.testing.assert_equal(seen(zoo), before)
    zoo.abandon(*NAME)
    np.testing.assert_equal(seen(zoo), before)

    def half() -> None:
        with zoo:
            zoo.append(*NAME, NEW[:30], overwrite=True)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        half()
    assert sorted(dict(zoo.root.members())) == ["example", "net"]
    zoo.append(*NAME, NEW[:30], overwrite=True)
    zoo.append(*NAME, NEW[30:], overwrite=True)
    np.testing.assert_array_equal(seen(zoo)[0], NEW)
    np.testing.assert_array_equal(zoo[NAME], NEW)


def test_overwrite__with_what_the_old_one_gives(zoo: Zoo) -> None:
    zoo.write(*NAME, zoo[NAME] * 2, overwrite=True)
    np.testing.assert_array_equal(seen(zoo)[0], OLD * 2)


def test_overwrite__leaves_one_array_of_the_usual_name(zoo: Zoo) -> None:
    zoo.write(*NAME, NEW, overwrite=True)
    group = zoo.root["/".join(NAME)]
    assert "beside" not in group.attrs
    np.testing.assert_array_equal(group["activations"][...], NEW)
    assert sorted(dict(zoo.root.members())) == ["example", "net"]
    with xr.open_datatree(zoo.root.store, engine="zarr", consolidated=False) as tree:
        np.testing.assert_array_equal(tree["/".join(NAME)]["activations"], NEW)


def test_overwrite__together_is_of_all_layers_or_none(zoo: Zoo) -> None:
    zoo.write("net", "step1", "conv", OLD)

    def one() -> None:
        with zoo.together():
            zoo.write(*NAME, NEW, overwrite=True)
            np.testing.assert_array_equal(zoo[NAME], OLD)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        one()
    with zoo.together():
        for layer in ("fc", "conv"):
            np.testing.assert_array_equal(zoo["net", "step1", layer], OLD)
            zoo.write("net", "step1", layer, NEW, overwrite=True)
    for layer in ("fc", "conv"):
        np.testing.assert_array_equal(zoo["net", "step1", layer], NEW)


class Stopping(WrapperStore[Any]):
    """A store that takes some writes and deletions, and no more."""

    left = 10**9

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("the network is gone")

    async def set(self, *args: Any, **kwargs: Any) -> None:
        self._count()
        await super().set(*args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> None:
        self._count()
        await super().delete(*args, **kwargs)

    async def delete_dir(self, prefix: str) -> None:
        # One by one, as a remote store does it.
        async for key in self.list_prefix(f"{prefix}/"):
            await self.delete(key)


def stops_at_every_step(write: Callable[[int], Zoo | None], reader: Callable[[], Zoo]) -> int:
    """Let a write stop after 0, 1, 2 ... operations, until it needs no more; how often the new one was there then."""
    replaced = 0
    for step in range(200):
        zoo = write(step)
        values, _, note = seen(reader())
        assert (values.shape, note) in (((N, 5), "old"), ((N, 3), None))
        np.testing.assert_array_equal(values, OLD if note == "old" else NEW)
        if zoo is not None:
            assert note is None
            return replaced
        replaced += note is None
        # The same command completes it.
        again = reader()
        again.write(*NAME, NEW, overwrite=True)
        np.testing.assert_array_equal(seen(again)[0], NEW)
        assert sorted(dict(again.root.members())) == ["example", "net"]
        again.write(*NAME, OLD, step=1, attrs={"note": "old"}, overwrite=True)
    raise AssertionError("it never ended")


def test_overwrite__in_a_store_that_stops_is_old_or_new() -> None:
    inner = MemoryStore()
    dask_svcca.create_zoo(inner, examples=range(N)).write(*NAME, OLD, step=1, attrs={"note": "old"})

    def write(step: int) -> Zoo | None:
        store = Stopping(inner)
        zoo = dask_svcca.open_zoo(store, mode="r+")
        store.left = step
        try:
            zoo.write(*NAME, NEW, overwrite=True)
        except OSError:
            return None
        return zoo

    with patch.object(write_module, "CHUNK_BYTES", 20 * NEW[0].nbytes):
        assert stops_at_every_step(write, lambda: dask_svcca.open_zoo(inner, mode="r+")) > 3


def test_overwrite__that_is_killed_is_old_or_new(tmp_path: Path) -> None:
    place = tmp_path / "zoo.zarr"
    dask_svcca.create_zoo(place, examples=range(N)).write(*NAME, OLD, step=1, attrs={"note": "old"})

    def write(step: int) -> Zoo | None:
        left = [step]

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                # A process that is killed cleans up nothing.
                if left[0] < 0:
                    raise SystemExit
                return function(*args, **kwargs)

            return call

        zoo = dask_svcca.open_zoo(place, mode="r+")
        with (
            patch.object(local.LocalBackend, "write", counted(local.LocalBackend.write)),
            patch.object(local, "link_file", counted(local.link_file)),
            patch.object(shutil, "rmtree", counted(shutil.rmtree)),
        ):
            try:
                zoo.write(*NAME, NEW, overwrite=True)
            except SystemExit:
                return None
        return zoo

    with patch.object(write_module, "CHUNK_BYTES", 20 * NEW[0].nbytes):
        assert stops_at_every_step(write, lambda: dask_svcca.open_zoo(place, mode="r+")) > 3


def test_overwrite__that_stopped_before_its_array_was_in_place_can_be_read_renamed_and_compared(zoo: Zoo) -> None:
    zoo.write("net", "step2", "fc", OLD)
    full = OSError("the disk is full")
    with patch.object(_chunked, "copy_array", side_effect=full), pytest.raises(OSError, match="the disk is full"):
        zoo.write(*NAME, NEW, overwrite=True)
    np.testing.assert_array_equal(zoo[NAME], NEW)
    result = dask_svcca.compare(zoo, MemoryStore(), measures="cka")
    x, y = (values - values.mean(axis=0) for values in (NEW, OLD.astype(float)))
    expected = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    np.testing.assert_allclose(result["cka"].values[0, 1], expected, atol=1e-6)
    zoo.rename(NAME, ("net", "step1", "renamed"))
    np.testing.assert_array_equal(zoo["net", "step1", "renamed"], NEW)
    assert sorted(dict(zoo.root.members())) == ["example", "net"]


def test_overwrite__without_hard_links(zoo: Zoo) -> None:
    with patch("os.link", side_effect=OSError("not on this file system")):
        zoo.write(*NAME, NEW, overwrite=True)
    np.testing.assert_array_equal(seen(zoo)[0], NEW)


def test_overwrite__of_other_examples_is_refused_and_leaves_the_old_one(zoo: Zoo) -> None:
    before = seen(zoo)
    with pytest.raises(MismatchedExamplesError):
        zoo.write(*NAME, iter([NEW[:10]]), overwrite=True)
    np.testing.assert_equal(seen(zoo), before)
