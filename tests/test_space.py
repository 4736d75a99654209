"""Disks that are too small, fill up, or cannot be written to: a sentence, nothing lost, and the same call goes on."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import numpy as np
import pytest
from cli_runner import run
from zoos import assert_same, layers, make_zoo, write

import dask_svcca
from dask_svcca.errors import DamagedSubspacesError, DiskSpaceError, StoreAccessError
from dask_svcca.run import space
from dask_svcca.variables import PairStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

    from dask_svcca import Zoo
    from dask_svcca.plan.plan import Plan


class Usage(NamedTuple):
    total: int
    used: int
    free: int


pytestmark = pytest.mark.usefixtures("several_tiles")


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def small(tmp_path: Path) -> Zoo:
    return make_zoo(tmp_path / "zoo.zarr", layers(6))


@pytest.fixture
def expected(small: Zoo, tmp_path: Path) -> xr.Dataset:
    return dask_svcca.compare(small, tmp_path / "expected.zarr", subspaces=tmp_path / "subspaces.zarr").load()


@pytest.fixture(scope="module")
def files_written(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many files are put in their place by a comparison of the small zoo that nothing disturbs."""
    folder, whole, places = tmp_path_factory.mktemp("written"), os.replace, []
    zoo = make_zoo(folder / "zoo.zarr", layers(6))

    def replace(source: Any, target: Any, **options: Any) -> None:
        places.append(target)
        whole(source, target, **options)

    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(os, "replace", replace)
        dask_svcca.compare(zoo, folder / "c.zarr")
    return len(places)


def matrix_bytes(place: Path, plan: Plan) -> int:
    """Bytes of the chunks of all matrices, without their checksums."""
    names = ["pair_status", *(measure.name for measure in plan.measures)]
    return sum(file.stat().st_size - 4 for name in names for file in (place / name / "c").rglob("*") if file.is_file())


def test_plan__says_what_is_written(small: Zoo, tmp_path: Path) -> None:
    plan = dask_svcca.plan_comparison(small, tmp_path / "c.zarr")
    written = plan.to_dict()["bytes_to_write"]
    widths = [item.shape[1] for item in small.entries()]
    # Scores in single precision, loadings, mean and spectrum in double.
    least = sum(4 * 60 * width for width in widths)
    assert least < written["subspaces"] < least + sum(8 * width * (width + 2) for width in widths) + 1
    dask_svcca.compare(small, tmp_path / "made.zarr")
    # References that follow from the ranks alone are compressed, which saves little of a small matrix.
    files = matrix_bytes(tmp_path / "made.zarr", plan)
    assert files <= written["results"] < 2 * files
    assert "bytes to write" in str(plan)
    numbers = json.loads(run(f"compare {tmp_path}/zoo.zarr {tmp_path}/c.zarr --dry-run --json").stdout)
    assert numbers["bytes_to_write"] == written


def test_compare__few_of_all_pairs_take_little_more_than_their_values(tmp_path: Path) -> None:
    count = 60
    zoo, few = make_zoo(tmp_path / "zoo.zarr", layers(count)), np.eye(count, dtype=bool)
    few[3, [7, 20]] = few[[7, 20], 3] = True
    options: dict[str, Any] = {"measures": "cka", "variance": None}
    whole = dask_svcca.compare(zoo, **options).load()
    plan = dask_svcca.plan_comparison(zoo, tmp_path / "c.zarr", pairs=few, **options)
    assert plan.is_sparse
    found = dask_svcca.compare(zoo, tmp_path / "c.zarr", pairs=few, **options).load()
    np.testing.assert_array_equal(found.pair_status == PairStatus.DONE, few)
    # Products are in single precision.
    np.testing.assert_allclose(found.cka, whole.cka.where(few), atol=1e-7)
    files = matrix_bytes(tmp_path / "c.zarr", plan)
    assert files < plan.results_to_write < 4 * files
    assert files < len(plan.measures) * 8 * count**2 / 2
    # More pairs, more layers, and what is damaged: as where matrices are not compressed.
    write(zoo, layers(count + 5)[count:], start=count)
    options["pairs"] = "all"
    expected = dask_svcca.compare(zoo, **options).load().cka
    np.testing.assert_allclose(dask_svcca.compare(zoo, tmp_path / "c.zarr", **options).cka, expected, atol=1e-7)
    chunk = tmp_path / "c.zarr" / "cka" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    np.testing.assert_allclose(dask_svcca.compare(zoo, tmp_path / "c.zarr", **options).cka, expected, atol=1e-7)


def test_compare__references_of_few_values_are_compressed(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo.zarr", layers(40))
    dask_svcca.compare(zoo, tmp_path / "c.zarr")
    sizes = {name: (tmp_path / "c.zarr" / name / "c" / "0" / "0").stat().st_size for name in ("svcca", "null_svcca")}
    assert sizes["null_svcca"] < sizes["svcca"]
    write(zoo, layers(45)[40:], start=40)
    chunk = tmp_path / "c.zarr" / "null_svcca" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert_same(dask_svcca.compare(zoo, tmp_path / "c.zarr"), dask_svcca.compare(zoo))


def test_compare__refuses_a_disk_that_is_too_small(small: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DiskSpaceError, match=rf"would write 0.0 MB to the disk of '{tmp_path}', which has 0.0 MB free"):
        dask_svcca.compare(small, tmp_path / "new" / "c.zarr")
    output = run(f"compare {tmp_path}/zoo.zarr {tmp_path}/c.zarr --dry-run", status=2).output
    assert "Free some, compare into another place, or keep the subspaces on another disk" in output
    assert sorted(tmp_path.rglob("*")) == before
    # In memory nothing is written to a disk.
    assert dask_svcca.compare(small).sizes["representation_a"] == 6


def failing_after(monkeypatch: pytest.MonkeyPatch, count: int, code: int) -> None:
    """Let so many files be put in their place, and no more."""
    whole, left = os.replace, [count]

    def replace(source: Any, target: Any, **options: Any) -> None:
        if left[0] == 0:
            raise OSError(code, os.strerror(code), str(target))
        left[0] -= 1
        whole(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)


FULL = "No space left on device.*Nothing that is finished is lost: free some space, and do the same"


@pytest.mark.parametrize(
    ("code", "remedy", "share"),
    [
        *((errno.ENOSPC, FULL, share) for share in (0, 0.2, 0.5, 0.85, 0.97)),
        (errno.EROFS, "Read-only file system.*It can only be read", 0),
        (errno.EACCES, "Permission denied.*Check your rights", 0.5),
    ],
)
def test_compare__goes_on_after_writing_failed(
    small: Zoo, expected: xr.Dataset, files_written: int, tmp_path: Path, code: int, remedy: str, share: float
) -> None:
    place = tmp_path / "c.zarr"
    with pytest.MonkeyPatch.context() as patch:
        failing_after(patch, int(share * files_written), code)
        with pytest.raises(StoreAccessError, match=rf"cannot access '.*c\.zarr.*{remedy}"):
            dask_svcca.compare(small, place)
    found = dask_svcca.compare(small, place).load()
    assert_same(found, expected)


def test_compare_command__a_full_disk_is_no_traceback(
    small: Zoo, files_written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.import_module("dask_svcca.cli.compare"), "connected", lambda *_, **__: contextlib.nullcontext()
    )
    with pytest.MonkeyPatch.context() as patch:
        failing_after(patch, int(0.9 * files_written), errno.ENOSPC)
        output = run(f"compare {tmp_path}/zoo.zarr {tmp_path}/c.zarr", status=2).output
    assert "Error: cannot access" in output
    assert f"{tmp_path}/c.zarr" in output
    assert len(small) == 6


def test_write__that_fails_leaves_what_was_there(small: Zoo, tmp_path: Path) -> None:
    before = small["net/step000/fc"].to_numpy()
    with pytest.MonkeyPatch.context() as patch:
        failing_after(patch, 2, errno.ENOSPC)
        with pytest.raises(StoreAccessError, match="No space left"):
            small.write("net", "step000", "fc", before * 2, overwrite=True)
    again = dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    assert (again["net/step000/fc"].to_numpy() == before).all()
    assert dask_svcca.verify(tmp_path / "zoo.zarr").ok


@pytest.mark.parametrize("how", ["zipped", "without rights"])
def test_compare__with_shared_subspaces_that_can_only_be_read(
    small: Zoo, expected: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    subspaces = tmp_path / "subspaces.zarr"
    if how == "zipped":
        subspaces = tmp_path / "s.zip"
        shutil.make_archive(str(tmp_path / "s"), "zip", tmp_path / "subspaces.zarr")
    else:
        monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != str(subspaces))
    before = sorted((tmp_path / "subspaces.zarr").rglob("*"))
    assert_same(dask_svcca.compare(small, tmp_path / "c.zarr", subspaces=subspaces).load(), expected)
    write(dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+"), layers(7)[6:], 6)
    with pytest.raises(StoreAccessError, match="can only be read, and 1 that this comparison needs are not"):
        dask_svcca.compare(tmp_path / "zoo.zarr", tmp_path / "c.zarr", subspaces=subspaces)
    assert sorted((tmp_path / "subspaces.zarr").rglob("*")) == before


@pytest.mark.usefixtures("expected")
def test_compare__with_shared_subspaces_that_can_only_be_read_and_are_damaged(
    small: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subspaces = tmp_path / "subspaces.zarr"
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != str(subspaces))
    chunk = next(path for path in sorted(subspaces.glob("*/scores/c/**/*")) if path.is_file())
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    before = {path: path.read_bytes() for path in subspaces.rglob("*") if path.is_file()}
    with pytest.raises(DamagedSubspacesError, match="is damaged"):
        dask_svcca.compare(small, tmp_path / "c.zarr", subspaces=subspaces)
    assert {path: path.read_bytes() for path in subspaces.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_compare__without_rights_names_the_path() -> None:
    # Nobody else may enter the folders of pytest.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        said = as_nobody(folder, make_zoo(folder / "zoo.zarr", layers(3)))
    finally:
        shutil.rmtree(folder)
    assert len(said) == 3
    for text, name in zip(said, ("zoo2.zarr", "zoo.zarr", "new.zarr"), strict=True):
        assert text.startswith("cannot access '")
        assert name in text


def as_nobody(tmp_path: Path, zoo: Zoo) -> list[str]:
    """What somebody without rights is told."""
    read, written = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        said = []
        try:
            os.setgid(65534)
            os.setuid(65534)
            for call in (
                lambda: dask_svcca.create_zoo(tmp_path / "zoo2.zarr", examples=range(3)),
                lambda: dask_svcca.open_zoo(tmp_path / "zoo.zarr", mode="r+").delete("net/step000/fc"),
                lambda: dask_svcca.compare(zoo, tmp_path / "new.zarr"),
            ):
                try:
                    call()
                    said.append("done")
                except StoreAccessError as error:
                    said.append(str(error))
                except BaseException as error:  # noqa: BLE001 - it is told
                    said.append(repr(error))
        finally:
            os.write(written, json.dumps(said).encode())
            os._exit(0)
    os.close(written)
    with os.fdopen(read, "rb") as answer:
        told: list[str] = json.loads(answer.read())
    os.waitpid(child, 0)
    return told
