"""Stores and files from anywhere: what they say is looked at before it is believed, and refused in a sentence."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from zoos import assert_same, layers, make_zoo

import dask_svcca
from dask_svcca.capture.arrays import open_arrays
from dask_svcca.errors import (
    CaptureError,
    DamagedStoreError,
    DaskSvccaError,
    FailedRepresentationWarning,
    MemoryLimitError,
    StoreAccessError,
    StoreFormatError,
)
from dask_svcca.stores._documents import sealed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with dask.config.set(scheduler="synchronous"):
        zoo = make_zoo(folder / "zoo.zarr", layers(3))
        dask_svcca.compare(zoo, folder / "c.zarr", subspaces=folder / "s.zarr")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A zoo, its subspaces, and its comparison."""
    return Path(shutil.copytree(made, tmp_path / "place"))


def change(document: Path, *path: Any, value: Any, seal: bool = False) -> None:
    """Set a value in a JSON document; with a seal, as whoever means harm would."""
    whole = json.loads(document.read_bytes())
    node = whole
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    if seal and isinstance(whole["attributes"], dict):
        rest = {name: value for name, value in whole.items() if name not in {"attributes", "consolidated_metadata"}}
        whole["attributes"] = sealed(whole["attributes"], rest if whole["node_type"] == "array" else None)
    document.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("store", "name", "value", "message"),
    [
        ("zoo.zarr", "n_examples", "many", "'n_examples' of .* is not a number of examples: 'many'"),
        ("zoo.zarr", "n_examples", True, "is not a number of examples"),
        (
            "zoo.zarr",
            "example_coordinates",
            ["example"],
            "'example_coordinates' of .* is not an object with the digest",
        ),
        ("zoo.zarr", "example_coordinates", {"example": "", "../../x": ""}, "is not an object with the digest"),
        ("zoo.zarr", "example_coordinates", {"example": "", "/etc/passwd": ""}, "is not an object with the digest"),
        ("zoo.zarr", "example_coordinates", {}, "is not an object with the digest"),
        ("zoo.zarr", "examples_digest", None, "'examples_digest' of .* is not text"),
        ("c.zarr", "tile", 10**15, "'tile' of .* is not a number of representations"),
        ("c.zarr", "versions", {"../x": "1"}, "'versions' of .* is not an object with the version of each measure"),
        ("c.zarr", "parameters", [], "'parameters' of .* is not an object"),
        ("c.zarr", "runs", [{}], "'runs' of .* is not a list of records of runs"),
        ("s.zarr", "identity", {}, "'identity' of .* is not an object that says of which examples they are"),
        ("s.zarr", "chunk_samples", -3, "'chunk_samples' of .* is not a number of samples"),
    ],
)
def test_attributes__of_another_kind(place: Path, store: str, name: str, value: Any, message: str) -> None:
    change(place / store / "zarr.json", "attributes", name, value=value, seal=True)
    for call in (dask_svcca.verify, dask_svcca.open_zoo if store == "zoo.zarr" else dask_svcca.verify):
        with pytest.raises(StoreFormatError, match=message):
            call(place / store)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (("shape",), [10**15, 10**15], r"has the shape .*, and no comparison is as large"),
        (("shape",), [3, 4], "which is not square"),
        (("shape",), "x", "is not an array with a shape"),
        (("data_type",), "int64", "is of type 'int64'; it should be 'float64'"),
        (("fill_value",), 1.0, "has the fill value"),
        (("dimension_names",), ["representation_b", "representation_a"], "they should be"),
        (("chunk_key_encoding", "configuration", "separator"), ".", "has chunks of other names"),
        (("chunk_grid", "configuration", "chunk_shape"), [10**15, 1], r"has chunks .*; they should be"),
        (("codecs",), [{"name": "nobody-knows"}], "is stored by codecs that this package does not write"),
        (("codecs", 0, "configuration", "endian"), "big", "is stored by codecs"),
        (("node_type",), "group", "is not an array"),
    ],
)
def test_comparison__metadata_under_which_numbers_would_be_others(
    place: Path, key: tuple[Any, ...], value: Any, message: str
) -> None:
    for seal, said in ((False, r"'svcca/zarr\.json' .* is not what was written"), (True, message)):
        change(place / "c.zarr" / "svcca" / "zarr.json", *key, value=value, seal=seal)
        with pytest.raises(DamagedStoreError, match=said):
            dask_svcca.open_comparison(place / "c.zarr")
        found = dask_svcca.verify(place / "c.zarr")
        assert [one.key for one in found.damage if one.key.endswith(".json")] == ["svcca/zarr.json"]


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("attributes", "shape"), [60, 10**15]),
        (("attributes", "shape"), [10**15, 3]),
        (("attributes", "dims"), ["../x", "neuron"]),
        (("attributes", "dtype"), "object"),
        (("attributes", "chunk_examples"), 0),
        (("attributes", "step"), "first"),
        (("attributes",), 7),
    ],
)
def test_zoo__a_representation_whose_attributes_are_not_ours(
    place: Path, key: tuple[Any, ...], value: Any, seal: bool
) -> None:
    change(place / "zoo.zarr" / "net" / "step000" / "fc" / "zarr.json", *key, value=value, seal=seal)
    zoo = dask_svcca.open_zoo(place / "zoo.zarr")
    assert (len(zoo), zoo.unfinished) == (2, ["net/step000/fc"])
    assert [one.what for one in dask_svcca.verify(place / "zoo.zarr").damage] == ["group 'net/step000/fc'"]


@pytest.mark.parametrize("value", [[10**15, 10**15], None])
def test_zoo__a_layer_beside_others_of_a_checkpoint_whose_metadata_is_damaged(place: Path, value: Any) -> None:
    change(place / "zoo.zarr" / "net" / "step000" / "zarr.json", "zarr_format", value=value, seal=True)
    with dask_svcca.open_zoo(place / "zoo.zarr", mode="r+") as zoo:
        zoo.write("net", "step000", "other", np.random.default_rng(0).normal(size=(60, 3)))
        assert len(zoo) == 4


def test_verify__a_file_in_the_place_of_an_array(place: Path) -> None:
    shutil.rmtree(place / "c.zarr" / "representation_a")
    (place / "c.zarr" / "representation_a").touch()
    with pytest.raises(StoreAccessError, match="something else is in its way"):
        dask_svcca.verify(place / "c.zarr", repair=True)


@pytest.mark.parametrize(
    ("key", "value", "seal"),
    [
        (("shape",), [10**15, 10**6], False),
        (("shape",), [10**15, 10**6], True),
        (("shape",), [60], True),
        (("codecs",), [{"name": "nobody-knows"}], True),
        (("chunk_grid", "configuration", "chunk_shape"), [10**15, 3], True),
        (("data_type",), "complex128", True),
        (("chunk_grid",), None, False),
        (("chunk_grid",), None, True),
    ],
)
def test_compare__an_array_that_is_not_as_its_attributes_say(
    place: Path, key: tuple[Any, ...], value: Any, seal: bool
) -> None:
    whole = dask_svcca.open_comparison(place / "c.zarr").load()
    change(place / "zoo.zarr" / "net" / "step000" / "fc" / "activations" / "zarr.json", *key, value=value, seal=seal)
    with pytest.warns(FailedRepresentationWarning, match="cannot be read"):
        found = dask_svcca.compare(place / "zoo.zarr").load()
    assert "cannot be read" in str(found.problem_a.values[0])
    # Sums over what shares a pack are in another order.
    np.testing.assert_allclose(found.svcca[1:, 1:], whole.svcca[1:, 1:], rtol=0, atol=1e-12)
    assert np.isnan(found.svcca[0]).all()
    damage = dask_svcca.verify(place / "zoo.zarr").damage
    assert [one.key for one in damage if one.key.endswith(".json")] == ["net/step000/fc/activations/zarr.json"]


def test_subspaces__an_index_that_is_not_what_was_written_does_not_count(place: Path) -> None:
    expected = dask_svcca.open_comparison(place / "c.zarr").load()
    for pack in (path for path in (place / "s.zarr").iterdir() if path.is_dir()):
        # Each direction would count twice.
        change(pack / "zarr.json", "attributes", "members", 0, "blocks", 0, 1, value=2)
    found = dask_svcca.compare(place / "zoo.zarr", place / "new.zarr", subspaces=place / "s.zarr").load()
    assert_same(found, expected)


def header(descr: str, shape: Any) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("<f4", (10**15, 3)), r"its header says .* bytes, and 0 follow"),
        (header("<f4", (-1, 3)), "its header says"),
        (header("|O", (2, 3)), "holds Python objects, which are never loaded"),
        (header("<f4", "(" * 200), "cannot read"),
        (b"\x93NUMPY\x09\x09", "cannot read"),
        (b"", "cannot read"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_open_arrays__a_file_that_lies(tmp_path: Path, data: bytes, message: str, ending: str) -> None:
    file = tmp_path / f"x.{ending}"
    if ending == "npy":
        file.write_bytes(data)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("../x.npy", data)
    with pytest.raises(CaptureError, match=message):
        open_arrays(file)
    assert list(tmp_path.iterdir()) == [file]


def test_open_arrays__more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 1000)))
    monkeypatch.setattr("dask_svcca.machine.available_memory", lambda: 10**6)
    with pytest.raises(MemoryLimitError, match=r"the array 'x' of .* takes 8,000,000 bytes of memory.* are 1,000,000"):
        open_arrays(tmp_path / "x.npz").load("x")


def test_open_zoo__a_zip_that_is_cut_short(place: Path) -> None:
    (place / "zoo.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DaskSvccaError, match=r"zoo\.zip"):
        dask_svcca.open_zoo(place / "zoo.zip")


@pytest.mark.parametrize(("place_of_byte", "message"), [(10, "damaged"), (8, "password")])
def test_open_zoo__a_zip_whose_directory_lies(place: Path, place_of_byte: int, message: str) -> None:
    archive = place / "zoo.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((place / "zoo.zarr").rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(place / "zoo.zarr").as_posix())
    data = bytearray(archive.read_bytes())
    entry = data.find(b"PK\x01\x02")
    while entry >= 0:
        # Of each file, the compression, or the flag that says that it is encrypted; in both of its headers.
        data[entry + place_of_byte] = 99 if message == "damaged" else 1
        (local,) = struct.unpack("<I", data[entry + 42 : entry + 46])
        data[local + place_of_byte - 2] = data[entry + place_of_byte]
        entry = data.find(b"PK\x01\x02", entry + 4)
    archive.write_bytes(data)
    with pytest.raises(DaskSvccaError, match=rf"zoo\.zip.*{message}"):
        dask_svcca.open_zoo(archive).entries()
