"""Capture of networks of the package transformers, with random weights, equals plain hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_svcca.capture.torch import capture_torch
from dask_svcca.stores.zoo import create_zoo

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch", reason="needs PyTorch")
transformers = pytest.importorskip("transformers", reason="needs transformers, which needs PyTorch")

N, T = 6, 7
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(vocab_size=50, **SMALL))


def gpt2() -> Any:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2Model(config)


def vit() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=4, **SMALL))


def convnext() -> Any:
    config = transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1])
    return transformers.ConvNextModel(config)


def swin() -> Any:
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    return transformers.SwinModel(config)


def tokens() -> dict[str, Any]:
    mask = torch.ones(N, T, dtype=torch.int64)
    mask[1, 4:] = 0
    return {"input_ids": torch.randint(1, 50, (N, T)), "attention_mask": mask}


def images() -> dict[str, Any]:
    return {"pixel_values": torch.randn(N, 3, 16, 16)}


@pytest.mark.parametrize(
    ("make", "inputs", "expected"),
    [
        (bert, tokens, {"encoder.layer.0.attention.self", "encoder.layer.1.output.LayerNorm", "pooler.activation"}),
        (gpt2, tokens, {"h.0", "h.1", "h.0.attn.c_proj", "ln_f"}),
        (vit, images, {"embeddings.patch_embeddings.projection", "layernorm"}),
        (convnext, images, {"encoder.stages.0.layers.0", "encoder.stages.0.layers.0.pwconv1"}),
        (swin, images, {"encoder.layers.0.blocks.0", "layernorm"}),
    ],
    ids=["bert", "gpt2", "vit", "convnext", "swin"],
)
def test_capture_torch__equals_hooks_on_transformers(
    make: Any, inputs: Any, expected: set[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, batch = make().eval(), inputs()
    found: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def keep(module: Any, args: Any, output: Any) -> None:
            first = output if torch.is_tensor(output) else output[0]
            found.setdefault(name, first.detach().clone())

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    parts = [{key: value[part] for key, value in batch.items()} for part in (slice(4), slice(4, None))]
    with create_zoo(tmp_path / "zoo.zarr", examples=range(N)) as zoo:
        capture_torch(model, parts, zoo=zoo, name="net", checkpoint="c")
    layers = set(zoo.representations.layer)
    assert expected <= layers
    assert ("mask" in zoo.coords) == ("attention_mask" in batch)
    for layer in layers:
        array, right = zoo["net", "c", layer.partition("#")[0]], found[layer.partition("#")[0]].numpy()
        if right.shape[-1] == 1:
            right = right[..., 0]
        if right.ndim == 4 and right.shape[1] == array.shape[-1]:
            right = right.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(array.values, right, rtol=1e-3, atol=1e-5, err_msg=layer)
