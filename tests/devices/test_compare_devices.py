"""Whole comparisons on the second implementation, against the first: every measure, on every kind of layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from convolved import related
from zarr.storage import MemoryStore

import dask_svcca
from dask_svcca.devices import open_device
from dask_svcca.errors import FailedRepresentationWarning
from dask_svcca.tasks import worker

if TYPE_CHECKING:
    import xarray as xr

pytest.importorskip("torch", reason="PyTorch is not installed")

EXAMPLES = 260


def kinds() -> dict[str, np.ndarray]:
    """Layers of every kind over the same examples."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(EXAMPLES, 50))

    def dense(neurons: int, scale: Any = 1.0) -> np.ndarray:
        noise = rng.normal(size=(EXAMPLES, neurons))
        return (common @ rng.normal(size=(50, neurons)) + 3 * noise + 2) * scale

    fine, coarse = related((4, 4), (2, 2), examples=EXAMPLES, channels=(40, 36))
    layers = {
        "even": dense(60),
        "steep": dense(64, np.arange(1, 65) ** -2.0),
        # Needs its scores to be put right, in double precision.
        "weak": dense(40, np.logspace(0, -5, 40)),
        "narrow": dense(7),
        "one": dense(1),
        "wide": dense(300),
        # Leading directions of samples that are stored as they are.
        "long": dense(130),
        "partly constant": dense(45, np.arange(45) % 3 > 0),
        "constant": np.full((EXAMPLES, 5), 0.1),
        "fine": fine,
        "coarse": coarse,
    }
    # The same again, rotated: correlations are one.
    layers["rotated"] = layers["even"] @ np.linalg.qr(rng.normal(size=(60, 60)))[0]
    return layers


def compared(monkeypatch: pytest.MonkeyPatch, device: str, dtype: str, **options: Any) -> xr.Dataset:
    monkeypatch.setattr(worker, "open_device", lambda _: open_device(device))
    zoo = dask_svcca.create_zoo(MemoryStore(), examples=range(EXAMPLES))
    with zoo:
        for name, layer in kinds().items():
            dims = ("example", "height", "width", "channel") if layer.ndim == 4 else None
            zoo.write("m", "1", name, layer.astype(dtype), dims=dims)
    with dask.config.set(scheduler="synchronous"), pytest.warns(FailedRepresentationWarning):
        return dask_svcca.compare(zoo, MemoryStore(), **options).load()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {}),
        pytest.param("float32", {"conv": "mean"}, marks=pytest.mark.slow),
        pytest.param("float32", {"conv": "positions"}, marks=pytest.mark.slow),
        pytest.param("float64", {"precision": "float64"}, marks=pytest.mark.slow),
        ("float32", {"measures": "svcca", "keep": ()}),
        ("float32", {"measures": "cka", "conv": "flatten", "keep": ()}),
        ("float32", {"measures": "svcca", "match": "fold"}),
    ],
    ids=["dft", "mean", "positions", "double", "leading", "norms", "folded"],
)
def test_compare__on_both_devices_is_the_same(
    monkeypatch: pytest.MonkeyPatch, dtype: str, options: dict[str, Any]
) -> None:
    asked = {"measures": "all", "keep": ("correlations",), **options}
    here, there = (compared(monkeypatch, device, dtype, **asked) for device in ("cpu", "torch:cpu"))
    assert set(here.variables) == set(there.variables)
    for name in here.data_vars:
        if here[name].dtype.kind == "f":
            # A distance is the root of a difference, and not in [0, 1]: rounding is of the numbers that it comes from.
            power = 2 if name == "gulp" else 1
            found, expected = (one[name].to_numpy() ** power for one in (there, here))
            scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0.0)))
            # A p-value is of a measure in units of its deviation over orders of the examples, some hundredths.
            scale *= 4 if str(name).startswith("p_") else 1
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * scale, err_msg=str(name))
        else:
            np.testing.assert_array_equal(there[name], here[name], err_msg=str(name))
