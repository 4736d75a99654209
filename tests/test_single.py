"""Arrays of one chunk: zarr reads what is written, what zarr wrote is read, and what is neither is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
import zarr.codecs

from dask_svcca.errors import StoreFormatError
from dask_svcca.stores._single import NUMBERS, read_single, write_single

if TYPE_CHECKING:
    from pathlib import Path

VALUES = {
    **{name: np.arange(6).astype(name).reshape(2, 3) for name in sorted(NUMBERS)},
    "other bytes first": np.arange(6, dtype=">i4"),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "nothing but zeros": np.zeros(3),
    "text": np.array(["", "é", "long one"], dtype=object),
    "text of fixed width": np.array([["a", "b"]]),
}


@pytest.fixture
def root(tmp_path: Path) -> zarr.Group:
    return zarr.create_group(str(tmp_path / "group.zarr"))


@pytest.mark.parametrize("what", VALUES)
def test_single__zarr_reads_what_is_written(root: zarr.Group, what: str) -> None:
    values = VALUES[what]
    write_single(root, "x", np.zeros(1), ("one",))
    write_single(root, "x", values, ("a", "b")[: values.ndim])
    read = zarr.open_array(root.store, path="x", mode="r")
    for found in (np.asarray(read[...]), read_single(root, "x")):
        assert found.tolist() == values.tolist()
        assert found.shape == values.shape
    if values.dtype.kind not in "OU":
        assert read.dtype == read_single(root, "x").dtype == values.dtype.newbyteorder("=")


@pytest.mark.parametrize("what", VALUES)
def test_single__reads_what_zarr_writes(root: zarr.Group, what: str) -> None:
    values = VALUES[what]
    text = values.dtype.kind in "OU"
    array = root.create_array(
        "x",
        shape=values.shape,
        dtype="string" if text else values.dtype,
        chunks=values.shape,
        compressors=[zarr.codecs.ZstdCodec(level=1, checksum=True), zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[...] = values.astype(object) if text else values
    assert read_single(root, "x").tolist() == values.tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_type": "complex64", "fill_value": [0.0, 0.0]}, "not stored as"),
        ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}}, "not stored as"),
        ({"shape": [4]}, "not stored as"),
        ({"shape": [4], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}}}, "it has 3 values"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}, "not stored as"),
        ({"codecs": []}, "not that of an array"),
        ({"node_type": "group"}, "is a group, not an array"),
        ({"zarr_format": 4}, "upgrade zarr"),
    ],
)
def test_single__refuses_other_metadata(root: zarr.Group, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_single(root, "x", np.arange(3.0), ("a",))
    file = tmp_path / "group.zarr" / "x" / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises((ValueError, StoreFormatError), match=said):
        read_single(root, "x")


@pytest.mark.parametrize("name", ["x/c/0", "x/zarr.json"])
def test_single__refuses_what_is_missing_or_damaged(root: zarr.Group, tmp_path: Path, name: str) -> None:
    write_single(root, "x", np.arange(3.0), ("a",))
    file = tmp_path / "group.zarr" / name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"not what was written|Expecting"):
        read_single(root, "x")
    file.unlink()
    with pytest.raises(ValueError, match="is missing"):
        read_single(root, "x")
