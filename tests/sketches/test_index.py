"""An index finds what a search among all finds, and is refused where it is of something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import dask_svcca
from dask_svcca.errors import IncompatibleError, ParametersChangedError, StoreFormatError

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("usearch")

RNG = np.random.default_rng(0)
BASES = RNG.standard_normal((4, 50, 8))
LAYERS = {
    ("net", f"s{group}", f"fc{place:02}"): BASES[group] + place * RNG.standard_normal((50, 8)) / 10
    for group in range(4)
    for place in range(20)
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    dask_svcca.sketch(LAYERS, tmp_path / "s.zarr", size=256)
    return tmp_path / "s.zarr"


def test_search__by_an_index_finds_the_same(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dask_svcca.index_sketches(store, tmp_path / "i")
    monkeypatch.setattr("dask_svcca.sketches.index.LOOKED_AT", 40)
    for label in ("net/s3/fc00", "net/s1/fc10"):
        whole = dask_svcca.search(store, label)
        found = dask_svcca.search(store, label, index=tmp_path / "i")
        assert len(set(found.index) & set(whole.index)) >= 9
        assert found.cka_estimate.iloc[0] == whole.cka_estimate.iloc[0]


def test_search__refuses_an_index_of_something_else(store: Path, tmp_path: Path) -> None:
    dask_svcca.index_sketches(store, tmp_path / "i")
    with pytest.raises(StoreFormatError, match="there is already something at"):
        dask_svcca.index_sketches(store, tmp_path / "i")
    with pytest.raises(StoreFormatError, match="there is no index of sketches at"):
        dask_svcca.search(store, "net/s3/fc00", index=tmp_path)
    with pytest.raises(IncompatibleError, match="an index is of sketches in a store; this is a Dataset"):
        dask_svcca.search(dask_svcca.open_sketches(store), "net/s3/fc00", index=tmp_path / "i")
    other = tmp_path / "o.zarr"
    dask_svcca.sketch(LAYERS, other, size=256, seed=1)
    with pytest.raises(ParametersChangedError, match=r"is of sketches with seed='0', those in .* have '1'"):
        dask_svcca.search(other, "net/s3/fc00", index=tmp_path / "i")
    dask_svcca.sketch({**LAYERS, "new": BASES[0]}, store, size=256)
    with pytest.raises(ParametersChangedError, match=r"have changed since the index .* was made of 80 of them"):
        dask_svcca.search(store, "net/s3/fc00", index=tmp_path / "i")
    dask_svcca.index_sketches(store, tmp_path / "j")
    (tmp_path / "j" / "graph.usearch").write_bytes(b"0" * 100)
    with pytest.raises(StoreFormatError, match="is damaged"):
        dask_svcca.search(store, "net/s3/fc00", index=tmp_path / "j")
