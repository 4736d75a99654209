"""What a capture of a PyTorch model copies, and when: a GPU must not stop for every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dask_svcca

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")


def test_capture_torch__copies_nothing_from_the_device_until_the_batch_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[bool] = []
    at_work = [False]
    whole = torch.Tensor.to

    def to(tensor: Any, *given: Any, **options: Any) -> Any:
        if "cpu" in given or options.get("device") == "cpu":
            left.append(at_work[0])
        return whole(tensor, *given, **options)

    class Network(torch.nn.Sequential):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            at_work[0] = True
            try:
                return super().forward(x)
            finally:
                at_work[0] = False

    monkeypatch.setattr(torch.Tensor, "to", to)
    # In place: what was recorded of the layer before must not change with it.
    model = Network(torch.nn.Linear(6, 5), torch.nn.ReLU(inplace=True), torch.nn.Linear(5, 4))
    inputs = torch.randn(40, 6)
    zoo = dask_svcca.create_zoo(tmp_path / "zoo.zarr", examples=range(40))
    dask_svcca.capture_torch(model, [inputs[:25], inputs[25:]], zoo=zoo, name="net", checkpoint="step0")
    assert left
    assert not any(left)
    with torch.no_grad():
        expected = torch.nn.functional.linear(inputs, model[0].weight, model[0].bias).numpy()
    zoo = dask_svcca.open_zoo(tmp_path / "zoo.zarr")
    np.testing.assert_allclose(zoo["net", "step0", "0"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(zoo["net", "step0", "1"], np.maximum(expected, 0), rtol=0, atol=1e-6)
