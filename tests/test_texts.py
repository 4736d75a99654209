"""Text of fixed width: read when it is used, once, and never changed in place."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import xarray as xr

from dask_svcca.stores._texts import FixedWidth, fixed_width


@pytest.fixture
def variable() -> xr.Variable:
    texts = np.array(["a", "long one", ""], dtype=np.dtypes.StringDType())
    return xr.Variable("side", texts, {"long_name": "names"})


def test_fixed_width__is_read_once_and_when_asked(variable: xr.Variable, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    whole = xr.Variable.to_numpy
    monkeypatch.setattr(xr.Variable, "to_numpy", lambda self: read.append(self) or whole(self))
    dataset = xr.Dataset({"names": fixed_width(variable)})
    assert dataset.sizes == {"side": 3}
    assert read == []
    assert dataset.names.dtype == np.dtype("<U8")
    assert dataset.names[1].item() == "long one"
    assert dataset.names[[2, 0]].to_numpy().tolist() == ["", "a"]
    assert [one is variable for one in read].count(True) == 1
    assert dataset.names.attrs == {"long_name": "names"}


def test_fixed_width__changes_stay_with_who_makes_them(variable: xr.Variable) -> None:
    lazy = fixed_width(variable)
    lazy.to_numpy()[0] = "changed"
    assert lazy.to_numpy()[0] == "a"
    assert copy.deepcopy(lazy).to_numpy().tolist() == pickle.loads(pickle.dumps(lazy)).to_numpy().tolist()
    assert FixedWidth(variable).dtype == np.dtype("<U8")
