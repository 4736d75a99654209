"""Files of examples: ids, coordinates, and what cannot be fed to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.capture._inputs import load_inputs
from dask_svcca.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_inputs__default_ids_are_hashes_of_the_content(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("f4")
    x[4] = x[0]
    np.save(tmp_path / "x.npy", x)
    ids = load_inputs(tmp_path / "x.npy").ids(["anything"])
    assert len(set(ids)) == 5
    assert [len(i) for i in ids] == [16, 16, 16, 16, 18]
    assert ids[4] == f"{ids[0]}#2"
    # Neither labels nor the kind of file make other examples; other values, types and shapes do.
    labelled = load_inputs(save(tmp_path / "x.npz", x=x, label=np.arange(5)))
    assert list(labelled.ids(["x"])) == list(ids)
    for other in (x + 1, x.astype("f8"), x.reshape(5, 1, 3)):
        np.save(tmp_path / "y.npy", other)
        assert not set(load_inputs(tmp_path / "y.npy").ids(["x"])) & set(ids)


def test_inputs__first_nan_is_found_behind_the_first_block(tmp_path: Path) -> None:
    x = np.zeros((3000, 2), "f4")
    x[2500, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(CaptureError, match=r"the array of .*x.npy' holds NaN, first at index \(2500, 1\)"):
        load_inputs(tmp_path / "x.npy").feeds(["x"])


def test_inputs__coordinates_have_one_value_an_example(tmp_path: Path) -> None:
    inputs = load_inputs(save(tmp_path / "x.npz", input=np.zeros((4, 3)), mask=np.zeros((4, 3))))
    with pytest.raises(CaptureError, match=r"array 'mask' of .* is not an input of the models \(they have 'input'\)"):
        inputs.coords(["input"])
    assert inputs.coords(["input", "mask"]) == {}


def test_load_inputs__unreadable(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CaptureError, match=r"objects.npy' holds Python objects, which are never loaded"):
        load_inputs(tmp_path / "objects.npy")
    for name in ("text.npy", "empty.npz", "broken.npz", "missing.npz"):
        with pytest.raises(CaptureError, match=f"cannot read '.*{name}': .* It must be npy, or npz"):
            load_inputs(tmp_path / name)
