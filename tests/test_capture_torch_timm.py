"""Capture of networks of the package timm, with random weights, equals plain hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.capture.torch import capture_torch
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch", reason="needs PyTorch")
timm = pytest.importorskip("timm", reason="needs timm, which needs torchvision", exc_type=ImportError)

N = 6


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet10t", {}, {"conv1.0", "layer1.0.conv1", "layer4.0.act2", "fc"}),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}, {"patch_embed.proj", "blocks.0", "blocks.1.mlp.fc1"}),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, {"stem.0", "stages.0.blocks.0", "stages.1.blocks.0.mlp.fc1"}),
    ],
)
def test_capture_torch__equals_hooks_on_timm(
    name: str, options: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name, pretrained=False, **options).eval(), torch.randn(N, 3, 64, 64)
    found: dict[str, Any] = {}

    def hook(path: str) -> Any:
        def keep(_module: Any, _args: Any, output: Any) -> None:
            found.setdefault(path, output.detach().clone().numpy())

        return keep

    handles = [module.register_forward_hook(hook(path)) for path, module in model.named_modules()]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        capture_torch(model, x.split(4), zoo=zoo, name="net", checkpoint="c")
    layers = {layer for layer in zoo.representations.layer if "#" not in layer}
    assert expected <= layers
    for layer in layers:
        right = found[layer]
        right = right.transpose(0, 2, 3, 1) if right.ndim == 4 else right
        values = zoo["net", "c", layer].values
        np.testing.assert_allclose(values, right.reshape(values.shape), rtol=1e-3, atol=1e-4, err_msg=layer)
